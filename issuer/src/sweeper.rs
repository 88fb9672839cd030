//! Publishes outbox entries that their issuer has not published: of a crashed issuer, of a call whose reply was lost,
//! of an outage of Kafka.
//!
//! # Guarantees
//! Every entry older than `takeover_after` is published again until Kafka confirms it. A lease ensures that one
//! issuer at a time sweeps an event, so an entry is published by its owner and at most one other issuer. An entry
//! that cannot be decoded or published, and an event that cannot be swept, do not delay others.
//!
//! # Caveats
//! A slow owner may publish the entry as well. Recording is idempotent.

use std::{sync::Arc, time::Duration};

use couponry_domain::{EventName, Uuid};
use couponry_redis::{Stock, StockError};
use couponry_runtime::{CancellationToken, error_chain};
use futures::future;
use tokio::time;

use crate::{metrics::Metrics, recent_events::RecentEvents, relay::Relay};

const INTERVAL: Duration = Duration::from_secs(1);
/// A few intervals, so that the lease holder keeps it; short enough for a fast takeover after a crash.
const LEASE: Duration = Duration::from_secs(5);
/// Entries per page. Each has up to a batch of records.
const PAGE_SIZE: usize = 50;

pub(crate) struct Sweeper {
    /// Identifies this issuer as the lease holder.
    pub(crate) id: Uuid,
    pub(crate) stock: Stock,
    pub(crate) relay: Relay,
    pub(crate) recent_events: Arc<RecentEvents>,
    pub(crate) takeover_after: Duration,
    pub(crate) metrics: Metrics,
}

impl Sweeper {
    /// Sweeps all events every second until the shutdown. A failed round is repeated by the next one.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            if let Err(error) = self.sweep_all(&shutdown).await {
                tracing::warn!(error = error_chain(error), "cannot sweep the outboxes");
            }
            tokio::select! {
                () = time::sleep(INTERVAL) => {}
                () = shutdown.cancelled() => {}
            }
        }
    }

    async fn sweep_all(&self, shutdown: &CancellationToken) -> Result<(), StockError> {
        if couponry_failpoint::is_on("issuer.no-sweep") {
            return Ok(());
        }
        for event in self.stock.events().await? {
            self.recent_events.record(&event);
            if let Err(error) = self.sweep(&event, shutdown).await {
                tracing::warn!(error = error_chain(error), %event, "cannot sweep an outbox");
            }
        }
        Ok(())
    }

    async fn sweep(&self, event: &EventName, shutdown: &CancellationToken) -> Result<(), StockError> {
        let mut last = None;
        while !shutdown.is_cancelled() && self.stock.acquire_sweeper_lease(event, self.id, LEASE).await? {
            let page = self.stock.list_unconfirmed(event, self.takeover_after, last.as_deref(), PAGE_SIZE).await?;
            if page.last.is_none() {
                break;
            }
            last = page.last;
            if !page.unreadable.is_empty() {
                tracing::error!(%event, entries = ?page.unreadable, "cannot decode outbox entries, they stay there");
            }
            let (mut published, mut records) = (Vec::new(), 0);
            for entry in page.entries {
                if !self.relay.is_in_flight(event, &entry.id) {
                    records += entry.records.len();
                    published.push(self.relay.publish(event, entry));
                }
            }
            if published.is_empty() {
                continue;
            }
            let count = published.len();
            self.metrics.outbox_taken_over.inc_by(count as u64);
            tracing::info!(%event, count, records, "publishing unconfirmed outbox entries");
            if future::join_all(published).await.iter().all(Result::is_err) {
                // Kafka is unavailable: the rest waits for the next round. A single failed entry does not delay
                // others.
                break;
            }
        }
        Ok(())
    }
}
