//! Sends what others left in the outbox: a dead issuer's last batches, a call whose answer was lost, a backlog that Kafka was
//! not there for.
//!
//! # Guarantees
//! Every entry older than `adopt_after` is sent again until Kafka confirms it. One issuer at a time sweeps an event, so a
//! backlog is sent by its owner and one more at the most. An entry that cannot be read or sent, and an event that cannot be
//! swept, hold up nothing else.
//!
//! # Caveats
//! An entry may be sent by a slow owner as well: the consumer records it once.

use std::{sync::Arc, time::Duration};

use couponry_domain::{EventName, Uuid};
use couponry_redis::{CleanupIncomplete, Stock, StockError};
use couponry_runtime::CancellationToken;
use futures::future;
use tokio::time;

use crate::{metrics::Metrics, relay::Relay, sightings::Sightings};

const INTERVAL: Duration = Duration::from_secs(1);
/// Longer than a few intervals, so that the role stays where it is; short enough to pass on soon after a death.
const LEASE: Duration = Duration::from_secs(5);
/// Entries in one page: each has up to a batch of records.
const PAGE: usize = 50;

pub(crate) struct Sweeper {
    /// This issuer, among the others.
    pub(crate) id: Uuid,
    pub(crate) stock: Stock,
    pub(crate) relay: Relay,
    pub(crate) sightings: Arc<Sightings>,
    pub(crate) adopt_after: Duration,
    pub(crate) metrics: Metrics,
}

impl Sweeper {
    /// Sweeps again and again until the shutdown. A round that fails is only a round: the next one does it all anew.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            if let Err(error) = self.round(&shutdown).await {
                tracing::warn!(%error, "cannot sweep the outboxes");
            }
            tokio::select! {
                () = time::sleep(INTERVAL) => {}
                () = shutdown.cancelled() => {}
            }
        }
    }

    async fn round(&self, shutdown: &CancellationToken) -> Result<(), StockError> {
        if couponry_failpoint::is_on("issuer.no-sweep") {
            return Ok(());
        }
        for event in self.stock.events().await? {
            self.sightings.saw(&event);
            if let Err(error) = self.sweep(&event, shutdown).await {
                tracing::warn!(%error, %event, "cannot sweep an outbox");
            }
        }
        Ok(())
    }

    async fn sweep(&self, event: &EventName, shutdown: &CancellationToken) -> Result<(), StockError> {
        let mut last = None;
        while !shutdown.is_cancelled() && self.stock.sweep_as(event, self.id, LEASE).await? {
            let page = self.stock.left_behind(event, self.adopt_after, last.as_deref(), PAGE).await?;
            let CleanupIncomplete { entries: page, unreadable, last: seen } = page;
            if seen.is_none() {
                break;
            }
            last = seen;
            if !unreadable.is_empty() {
                tracing::error!(%event, ?unreadable, "these entries of the outbox are unreadable: they stay there");
            }
            let mut sent = Vec::new();
            let mut records = 0;
            for entry in page {
                if !self.relay.is_sending(event, &entry.id) {
                    records += entry.records.len();
                    sent.push(self.relay.publish(event, entry));
                }
            }
            if sent.is_empty() {
                continue;
            }
            let entries = sent.len();
            self.metrics.entries_adopted.inc_by(entries as u64);
            tracing::info!(%event, entries, records, "sending what was left in the outbox");
            if future::join_all(sent).await.iter().all(Result::is_err) {
                // Kafka is not there: the rest can wait for the next round. One entry that fails alone holds up no other.
                break;
            }
        }
        Ok(())
    }
}
