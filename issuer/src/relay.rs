//! Sends outbox entries to Kafka.
//!
//! # Guarantees
//! An entry is deleted from the outbox only after the broker has confirmed all of its records. After any earlier
//! failure it stays in the outbox, and the [`crate::sweeper`] sends it again.

mod confirmed_records;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use couponry_domain::{Acknowledge, EventName, IssuedRecord, Uuid};
use couponry_kafka::Producer;
use couponry_redis::{IssuedEntry, IssuedStatus, OutboxEntry, OutboxId, RedisStore};
use couponry_runtime::error_chain;
use futures::future::join_all;
use prometheus_client::metrics::gauge::Gauge;
use tokio::{
    sync::{mpsc, watch},
    time::{self, Instant},
};

use self::confirmed_records::ConfirmedRecords;
use crate::metrics::Metrics;

/// Maximum number of entries per `XDEL`.
const MAX_DELETED: usize = 1000;
/// How long after a failed deletion it is repeated.
const DELETION_RETRY_INTERVAL: Duration = Duration::from_millis(500);
/// The most entries whose deletion is repeated. Further ones are left to the sweeper.
const MAX_UNDELETED: usize = 100_000;

/// Delivery was not confirmed: the records may or may not be in Kafka, and are sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Kafka has not confirmed the records")]
pub(crate) struct Unconfirmed;

/// Sends issued records to Kafka. Clones share all state.
#[derive(Clone)]
pub(crate) struct Relay {
    producer: Producer,
    in_flight: Arc<InFlight>,
    to_delete: mpsc::UnboundedSender<EntryKey>,
    in_flight_count: watch::Receiver<usize>,
    confirmed_records: Arc<ConfirmedRecords>,
    metrics: Metrics,
}

type EntryKey = (EventName, OutboxId);

/// The entries that this issuer is sending. The queue of the producer limits their number.
struct InFlight {
    entries: Mutex<HashSet<EntryKey>>,
    count: watch::Sender<usize>,
    gauge: Gauge,
}

impl InFlight {
    fn lock(&self) -> MutexGuard<'_, HashSet<EntryKey>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut HashSet<EntryKey>)) {
        let mut entries = self.lock();
        change(&mut entries);
        self.count.send_replace(entries.len());
        self.gauge.set(i64::try_from(entries.len()).unwrap_or(i64::MAX));
    }
}

impl Relay {
    /// Starts the task that deletes confirmed entries.
    pub(crate) fn start(redis_store: RedisStore, producer: Producer, metrics: Metrics) -> Self {
        let (count, in_flight_count) = watch::channel(0);
        let in_flight =
            Arc::new(InFlight { entries: Mutex::default(), count, gauge: metrics.outbox_in_flight.clone() });
        let (to_delete, receiver) = mpsc::unbounded_channel();
        tokio::spawn(delete_confirmed(redis_store, receiver, in_flight.clone()));
        Self { producer, in_flight, to_delete, in_flight_count, confirmed_records: Arc::default(), metrics }
    }

    /// Whether this issuer is sending the entry.
    pub(crate) fn is_in_flight(&self, event: &EventName, id: &OutboxId) -> bool {
        self.in_flight.lock().contains(&(event.clone(), id.clone()))
    }

    /// Sends the records of an entry, and deletes the entry when all are confirmed. Records that cannot be decoded are
    /// counted, and do not delay the others: no retry would send them. Sending begins before this returns and continues
    /// if the future is dropped.
    pub(crate) fn send_entry(
        &self,
        event: &EventName,
        OutboxEntry { id, installation, records, undecodable }: OutboxEntry,
    ) -> impl Future<Output = Result<(), Unconfirmed>> + use<> {
        if undecodable > 0 {
            self.metrics.undecodable_records.inc_by(undecodable as u64);
            tracing::error!(%event, entry = %id.id, count = undecodable, "cannot decode records of an outbox entry");
        }
        let entry = (event.clone(), id);
        self.in_flight.change(|entries| {
            entries.insert(entry.clone());
        });
        let sent = self.send_records(&records, installation);
        let relay = self.clone();
        let task = tokio::spawn(async move {
            let outcome = sent.await;
            match outcome {
                // Remains in flight until it is deleted, so that the sweeper does not send it again.
                Ok(()) => drop(relay.to_delete.send(entry)),
                Err(Unconfirmed) => relay.in_flight.change(|entries| {
                    entries.remove(&entry);
                }),
            }
            outcome
        });
        async move { task.await.unwrap_or(Err(Unconfirmed)) }
    }

    /// Like [`Relay::send_entry`], for users who are answered after the confirmation. Remembers the records, because
    /// the users may repeat their requests before the database has them.
    pub(crate) fn send_and_remember(
        &self,
        event: &EventName,
        entry: OutboxEntry,
    ) -> impl Future<Output = Result<(), Unconfirmed>> + use<> {
        let records: Vec<u64> = entry.records.iter().map(|record| self.confirmed_records.fingerprint(record)).collect();
        let (sent, confirmed_records) = (self.send_entry(event, entry), self.confirmed_records.clone());
        async move { sent.await.inspect(|()| confirmed_records.remember(records)) }
    }

    /// Whether [`Relay::resend`] is required before the coupon is returned to its holder: the event acknowledges
    /// after Kafka, and this issuer does not know of a confirmation.
    pub(crate) fn must_resend(&self, acknowledge: Acknowledge, event: Uuid, issued_entry: &IssuedEntry) -> bool {
        acknowledge == Acknowledge::Kafka
            && issued_entry.status == IssuedStatus::Pending
            && !self
                .confirmed_records
                .contains(self.confirmed_records.issuance_fingerprint(event, &issued_entry.issued))
    }

    /// Ensures that Kafka has these records by sending them again: the issuer that issued the coupons may have
    /// crashed.
    pub(crate) fn resend(
        &self,
        records: &[IssuedRecord],
        installation: Option<Uuid>,
    ) -> impl Future<Output = Result<(), Unconfirmed>> + use<> {
        let (sent, confirmed_records) = (self.send_records(records, installation), self.confirmed_records.clone());
        let records: Vec<u64> = records.iter().map(|record| self.confirmed_records.fingerprint(record)).collect();
        async move { sent.await.inspect(|()| confirmed_records.remember(records)) }
    }

    /// Sends records that are or were in the outbox.
    fn send_records(
        &self,
        records: &[IssuedRecord],
        installation: Option<Uuid>,
    ) -> impl Future<Output = Result<(), Unconfirmed>> + use<> {
        // Records that do not fit into the queue of the producer stay in the outbox.
        let delivery = self.producer.send_batch(records, installation);
        let metrics = self.metrics.clone();
        let count = records.len() as u64;
        async move {
            let outcome = match delivery {
                Ok(delivery) => delivery.await.map_err(error_chain),
                Err(full) => Err(error_chain(full)),
            };
            match outcome {
                Ok(()) => {
                    metrics.records_sent.inc_by(count);
                    Ok(())
                }
                Err(error) => {
                    metrics.records_unconfirmed.inc_by(count);
                    tracing::warn!(error, count, "Kafka did not confirm records, they stay in the outbox");
                    Err(Unconfirmed)
                }
            }
        }
    }

    /// Waits until no entry is in flight, at most for `timeout`.
    pub(crate) async fn finish(mut self, timeout: Duration) {
        if time::timeout(timeout, self.in_flight_count.wait_for(|count| *count == 0)).await.is_err() {
            tracing::warn!(
                count = *self.in_flight_count.borrow(),
                "shutdown timed out, unconfirmed outbox entries remain"
            );
        }
    }
}

async fn delete_confirmed(
    redis_store: RedisStore,
    mut receiver: mpsc::UnboundedReceiver<EntryKey>,
    in_flight: Arc<InFlight>,
) {
    let (mut confirmed, mut undeleted) = (Vec::new(), Vec::new());
    let mut retry_at = Instant::now();
    loop {
        let next = receiver.recv_many(&mut confirmed, MAX_DELETED);
        let count = if undeleted.is_empty() { Ok(next.await) } else { time::timeout_at(retry_at, next).await };
        match count {
            Ok(0) => return,
            Ok(_) => {}
            Err(_) => confirmed.append(&mut undeleted),
        }
        let mut by_event: HashMap<&EventName, Vec<OutboxId>> = HashMap::new();
        for (event, id) in &confirmed {
            by_event.entry(event).or_default().push(id.clone());
        }
        // Concurrently, so that an event on a node that does not respond does not delay the others.
        let deletions = by_event.into_iter().map(async |(event, ids)| {
            couponry_failpoint::crash("issuer.before-outbox-deletion");
            let error = redis_store.delete_confirmed(event, &ids).await.err()?;
            let error = error_chain(error);
            tracing::warn!(error, %event, count = ids.len(), "cannot delete confirmed outbox entries, retrying");
            Some(event.clone())
        });
        let failed: HashSet<EventName> = join_all(deletions).await.into_iter().flatten().collect();
        let (retained, deleted): (Vec<_>, Vec<_>) = confirmed.drain(..).partition(|(event, _)| failed.contains(event));
        if !retained.is_empty() {
            retry_at = Instant::now() + DELETION_RETRY_INTERVAL;
            undeleted.extend(retained);
        }
        // Harmless: they are sent once more, and recording is idempotent.
        let abandoned = undeleted.split_off(undeleted.len().min(MAX_UNDELETED));
        in_flight.change(|entries| {
            for entry in deleted.iter().chain(&abandoned) {
                entries.remove(entry);
            }
        });
    }
}
