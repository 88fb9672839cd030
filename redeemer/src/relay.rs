//! Sends the uses of coupons from the outbox in Postgres to Kafka ([ADR 0031](../../docs/adr/0031-use-records.md)).
//!
//! All redeemers try; at each moment one of them sends. Kafka is not needed to redeem coupons: during an outage the
//! outbox grows.

use std::{mem, time::Duration};

use anyhow::Context as _;
use couponry_domain::{
    record::{VERSION, VERSION_HEADER},
    used_record::UsedRecord,
};
use couponry_kafka::{Message, Producer};
use couponry_postgres::{Database, SendOutcome};
use couponry_runtime::{CancellationToken, error_chain};
use tokio::time::{self, Instant};

use crate::metrics::Metrics;

/// The records of one transaction.
const MAX_RECORDS: u32 = 1000;
/// How long to wait for new entries.
const PAUSE: Duration = Duration::from_millis(500);
/// How long a redeemer waits while another one is sending, or after a failure.
const LONG_PAUSE: Duration = Duration::from_secs(2);
/// Longer than librdkafka tries to deliver a record, and shorter than a transaction may be idle.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(40);

pub(crate) struct Relay {
    pub(crate) database: Database,
    pub(crate) producer: Producer,
    pub(crate) metrics: Metrics,
}

impl Relay {
    /// Sends until the shutdown. A transaction in progress is completed.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let (mut was_failing, mut last_success) = (false, Instant::now());
        while !shutdown.is_cancelled() {
            let outcome = Box::pin(self.send_batch()).await;
            let pause = match &outcome {
                Ok(SendOutcome::Sent) => Duration::ZERO,
                Ok(SendOutcome::Empty) => PAUSE,
                Ok(SendOutcome::Busy | SendOutcome::NotSent) | Err(_) => LONG_PAUSE,
            };
            // A lasting failure is logged once.
            let is_new = !mem::replace(&mut was_failing, outcome.is_err());
            match outcome {
                Ok(_) => last_success = Instant::now(),
                Err(error) => {
                    // The outbox cannot be read, so something may be waiting since then.
                    self.metrics.set_oldest_unsent_use(last_success.elapsed().as_secs_f64());
                    if is_new {
                        tracing::warn!(error = error_chain(error), "cannot send uses of coupons");
                    }
                }
            }
            tokio::select! {
                () = time::sleep(pause) => {}
                () = shutdown.cancelled() => {}
            }
        }
    }

    async fn send_batch(&self) -> Result<SendOutcome, couponry_postgres::DatabaseError> {
        let mut sent = 0;
        let outcome = self
            .database
            .send_uses(MAX_RECORDS, async |pending| {
                self.metrics.set_unsent_uses(pending.count, pending.age_seconds);
                sent = pending.records.len() as u64;
                match deliver(&self.producer, &pending.records).await {
                    Ok(()) => true,
                    Err(error) => {
                        tracing::warn!(error = error_chain(error), "cannot deliver uses of coupons to Kafka");
                        false
                    }
                }
            })
            .await?;
        match outcome {
            SendOutcome::Sent => {
                self.metrics.uses_sent.inc_by(sent);
            }
            // The redeemer that is sending reports the number.
            SendOutcome::Busy => self.metrics.set_unsent_uses(0, 0.0),
            SendOutcome::Empty | SendOutcome::NotSent => {}
        }
        Ok(outcome)
    }
}

/// Returns when all records are durable. librdkafka gives up after 30 seconds.
async fn deliver(producer: &Producer, records: &[UsedRecord]) -> anyhow::Result<()> {
    let messages: Vec<_> = records.iter().map(message).collect();
    let delivery = producer.send_messages(&messages)?;
    time::timeout(DELIVERY_TIMEOUT, delivery).await.context("no acknowledgement in time")??;
    Ok(())
}

fn message(record: &UsedRecord) -> Message {
    Message {
        partition: 0,
        offset: 0,
        key: Some(record.coupon.as_str().as_bytes().to_vec()),
        payload: record.encode(),
        headers: vec![(VERSION_HEADER.to_owned(), Some(VERSION.as_bytes().to_vec()))],
    }
}
