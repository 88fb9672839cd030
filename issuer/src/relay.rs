//! From the outbox to Kafka.
//!
//! An entry leaves the outbox only after the broker has confirmed every record of it. Whatever goes wrong before leaves it
//! there, and the [`crate::sweeper`] sends it again.

mod confirmed;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use couponry_domain::{EventName, IssuedRecord, Uuid};
use couponry_kafka::{Delivery, JournalError, Producer};
use couponry_redis::{Acknowledge, Holding, OutboxEntry, Status, Stock};
use prometheus_client::metrics::gauge::Gauge;
use tokio::{
    sync::{mpsc, watch},
    time,
};

use self::confirmed::Confirmed;
use crate::metrics::Metrics;

/// How many confirmed entries one deletion takes.
const MAX_CONFIRMED: usize = 1000;

/// Kafka did not confirm, so nobody knows whether it has the records. They will be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Kafka has not confirmed the record yet")]
pub(crate) struct Unconfirmed;

/// Sends issued records to Kafka. Clones share everything.
#[derive(Clone)]
pub(crate) struct Relay {
    producer: Producer,
    in_flight: Arc<InFlight>,
    confirmed: mpsc::UnboundedSender<Entry>,
    idle: watch::Receiver<usize>,
    known: Arc<Confirmed>,
    metrics: Metrics,
}

type Entry = (EventName, String);

/// The entries that this issuer is sending. Their number is bounded by the producer's queue.
struct InFlight {
    entries: Mutex<HashSet<Entry>>,
    count: watch::Sender<usize>,
    gauge: Gauge,
}

impl InFlight {
    fn lock(&self) -> MutexGuard<'_, HashSet<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut HashSet<Entry>)) {
        let mut entries = self.lock();
        change(&mut entries);
        self.count.send_replace(entries.len());
        self.gauge.set(i64::try_from(entries.len()).unwrap_or(i64::MAX));
    }
}

impl Relay {
    /// Starts the task that deletes confirmed entries.
    pub(crate) fn start(stock: Stock, producer: Producer, metrics: Metrics) -> Self {
        let (count, idle) = watch::channel(0);
        let in_flight =
            Arc::new(InFlight { entries: Mutex::default(), count, gauge: metrics.entries_in_flight.clone() });
        let (confirmed, receiver) = mpsc::unbounded_channel();
        tokio::spawn(delete_confirmed(stock, receiver, in_flight.clone()));
        Self { producer, in_flight, confirmed, idle, known: Arc::default(), metrics }
    }

    /// Whether this issuer is sending the entry now.
    pub(crate) fn is_sending(&self, event: &EventName, id: &str) -> bool {
        self.in_flight.lock().contains(&(event.clone(), id.to_owned()))
    }

    /// Sends an entry's records, and deletes the entry when all are confirmed. The sending has begun when this returns, and
    /// goes on if the future is dropped.
    pub(crate) fn publish(
        &self,
        event: &EventName,
        OutboxEntry { id, records }: OutboxEntry,
    ) -> impl Future<Output = Result<(), Unconfirmed>> + use<> {
        let entry = (event.clone(), id);
        self.in_flight.change(|entries| {
            entries.insert(entry.clone());
        });
        let sent = self.send(&records);
        let relay = self.clone();
        let task = tokio::spawn(async move {
            let outcome = sent.await;
            match outcome {
                // Stays in flight until it is deleted, so that the sweeper does not take it in between.
                Ok(()) => drop(relay.confirmed.send(entry)),
                Err(Unconfirmed) => relay.in_flight.change(|entries| {
                    entries.remove(&entry);
                }),
            }
            outcome
        });
        async move { task.await.unwrap_or(Err(Unconfirmed)) }
    }

    /// As [`Relay::publish`], for users who are told only then: they may ask again before the database has it.
    pub(crate) fn publish_confirmed(
        &self,
        event: &EventName,
        entry: OutboxEntry,
    ) -> impl Future<Output = Result<(), Unconfirmed>> + use<> {
        let records: Vec<u64> = entry.records.iter().map(|record| self.known.record(record)).collect();
        let (published, known) = (self.publish(event, entry), self.known.clone());
        async move { published.await.inspect(|()| known.remember(records)) }
    }

    /// Whether a user who holds this must not be told of it before [`Relay::confirm`]: the event wants it to be in Kafka, and
    /// nobody here knows that it is.
    pub(crate) fn must_confirm(&self, acknowledge: Acknowledge, event: Uuid, holding: &Holding) -> bool {
        acknowledge == Acknowledge::Kafka
            && holding.status == Status::Pending
            && !self.known.contains(self.known.issuance(event, &holding.coupon, holding.issued_at))
    }

    /// Sees to it that Kafka has these records: sends them once more, since whoever issued the coupons may be dead.
    pub(crate) fn confirm(&self, records: &[IssuedRecord]) -> impl Future<Output = Result<(), Unconfirmed>> + use<> {
        let (sent, known) = (self.send(records), self.known.clone());
        let records: Vec<u64> = records.iter().map(|record| self.known.record(record)).collect();
        async move { sent.await.inspect(|()| known.remember(records)) }
    }

    /// Sends records that are in the outbox, or were.
    fn send(&self, records: &[IssuedRecord]) -> impl Future<Output = Result<(), Unconfirmed>> + use<> {
        // A full queue is no place to wait in: what does not fit stays in the outbox.
        let deliveries = self.producer.send_together(records);
        let metrics = self.metrics.clone();
        let count = records.len() as u64;
        async move {
            let outcome = match deliveries {
                Ok(deliveries) => delivered(deliveries).await.map_err(|error| error.to_string()),
                Err(full) => Err(full.to_string()),
            };
            match outcome {
                Ok(()) => {
                    metrics.records_sent.inc_by(count);
                    Ok(())
                }
                Err(error) => {
                    metrics.records_unconfirmed.inc_by(count);
                    tracing::warn!(error, records = count, "not confirmed by Kafka, left in the outbox");
                    Err(Unconfirmed)
                }
            }
        }
    }

    /// Waits until nothing is under way, at most until `deadline` has passed.
    pub(crate) async fn finish(mut self, deadline: Duration) {
        if time::timeout(deadline, self.idle.wait_for(|count| *count == 0)).await.is_err() {
            tracing::warn!(entries = *self.idle.borrow(), "entries stay in the outbox for another issuer");
        }
    }
}

/// Waits for all of them. They are done in about this order, so one after the other wakes the task less often than all at once.
async fn delivered(deliveries: Vec<Delivery>) -> Result<(), JournalError> {
    for delivery in deliveries {
        delivery.await?;
    }
    Ok(())
}

async fn delete_confirmed(stock: Stock, mut receiver: mpsc::UnboundedReceiver<Entry>, in_flight: Arc<InFlight>) {
    let mut confirmed = Vec::new();
    while receiver.recv_many(&mut confirmed, MAX_CONFIRMED).await > 0 {
        let mut by_event: HashMap<&EventName, Vec<String>> = HashMap::new();
        for (event, id) in &confirmed {
            by_event.entry(event).or_default().push(id.clone());
        }
        for (event, ids) in by_event {
            couponry_failpoint::crash("issuer.before-outbox-deletion");
            if let Err(error) = stock.confirm(event, &ids).await {
                // Harmless: they are sent once more, and the database knows them already.
                tracing::warn!(%error, %event, entries = ids.len(), "confirmed entries stay in the outbox");
            }
        }
        in_flight.change(|entries| {
            for entry in confirmed.drain(..) {
                entries.remove(&entry);
            }
        });
    }
}
