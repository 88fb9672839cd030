//! Sends outbox entries that their issuer has not sent: entries of a crashed issuer, entries of a call whose
//! response was lost, and entries written during an outage of Kafka.
//!
//! Each second, the events that are marked as active are swept. In addition, one issuer at a time walks through all
//! events slowly, and marks those in whose outbox it finds entries. So idle events cost almost nothing.
//!
//! # Guarantees
//! Every entry older than `takeover_after` is sent again until Kafka confirms it; while Redis is not verified,
//! every entry is, because a recovery waits for an empty outbox. A lease is held by one issuer at a time, so an entry
//! is usually sent by at most one issuer besides the one that wrote it. An entry that cannot be decoded or
//! sent, and an event that cannot be swept, do not delay others.
//!
//! # Caveats
//! The issuer that wrote the entry may also send it, if it is only slow. While Kafka does not respond, the lease holder
//! waits for it longer than its lease lasts, and other issuers send the same entries. Recording is idempotent.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use couponry_domain::{EventName, Uuid};
use couponry_redis::{RedisStore, RedisStoreError};
use couponry_runtime::{CancellationToken, error_chain};
use futures::future;
use tokio::time;

use crate::{metrics::Metrics, recent_events::RecentEvents, relay::Relay};

const INTERVAL: Duration = Duration::from_secs(1);
/// A few intervals, so that the lease holder keeps it; short enough for a fast takeover after a crash.
const LEASE: Duration = Duration::from_secs(5);
/// Entries per page. Each has up to a batch of records.
const PAGE_SIZE: usize = 50;
/// How often all events are listed. Shorter than the time for which [`RecentEvents`] remembers them.
const LIST_INTERVAL: Duration = Duration::from_secs(10);
/// How many rounds a walk through all events takes.
const WALK_ROUNDS: usize = 300;

pub(crate) struct Sweeper {
    /// Identifies this issuer as the lease holder.
    pub(crate) id: Uuid,
    pub(crate) redis_store: RedisStore,
    pub(crate) relay: Relay,
    pub(crate) recent_events: Arc<RecentEvents>,
    pub(crate) takeover_after: Duration,
    pub(crate) metrics: Metrics,
}

/// All events, and which of them the walk has not reached yet.
#[derive(Default)]
struct Walk {
    listed_at: Option<Instant>,
    events: Vec<EventName>,
    /// The events before this index have been reached.
    next: usize,
    /// Whether the previous round held the lease.
    is_lease_holder: bool,
}

impl Walk {
    /// The next events to read. A holder that has just acquired the lease reads all of them, because the previous one
    /// may have crashed.
    fn next_events(&mut self) -> Vec<EventName> {
        if !std::mem::replace(&mut self.is_lease_holder, true) {
            self.next = 0;
            return self.events.clone();
        }
        let count = self.events.len().div_ceil(WALK_ROUNDS);
        let start = if self.next < self.events.len() { self.next } else { 0 };
        let end = (start + count).min(self.events.len());
        self.next = end;
        self.events[start..end].to_vec()
    }
}

impl Sweeper {
    /// Sweeps each second until the shutdown. A failed round is repeated by the next one.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let mut walk = Walk::default();
        while !shutdown.is_cancelled() {
            if !couponry_failpoint::is_on("issuer.no-sweep") {
                for result in [self.walk(&mut walk, &shutdown).await, self.sweep_active(&shutdown).await] {
                    if let Err(error) = result {
                        tracing::warn!(error = error_chain(error), "cannot sweep the outboxes");
                    }
                }
            }
            tokio::select! {
                () = time::sleep(INTERVAL) => {}
                () = shutdown.cancelled() => {}
            }
        }
    }

    /// Lists all events, and marks those of the next ones whose outbox is not empty as active.
    async fn walk(&self, walk: &mut Walk, shutdown: &CancellationToken) -> Result<(), RedisStoreError> {
        if walk.listed_at.is_none_or(|at| at.elapsed() >= LIST_INTERVAL) {
            let listed: HashSet<EventName> = self.redis_store.events().await?.into_iter().collect();
            self.recent_events.set_has_events(!listed.is_empty());
            for event in &listed {
                self.recent_events.note(event);
            }
            // Includes events that are missing in the list because Redis has lost it.
            walk.events = self.recent_events.names();
            walk.events.sort();
            for event in walk.events.iter().filter(|event| !listed.contains(event)) {
                if self.redis_store.exists(event).await? && self.redis_store.ensure_listed(event).await? {
                    tracing::warn!(%event, "the event was missing in the set of events, added it again");
                }
            }
            walk.listed_at = Some(Instant::now());
        }
        if !self.redis_store.acquire_sweep_all_lease(self.id, LEASE).await? {
            walk.is_lease_holder = false;
            return Ok(());
        }
        for event in walk.next_events() {
            if shutdown.is_cancelled() {
                break;
            }
            match self.redis_store.outbox_len(&event).await {
                Ok(0) => {}
                Ok(_) => self.redis_store.mark_active(&event).await?,
                Err(error) => tracing::warn!(error = error_chain(error), %event, "cannot read an outbox"),
            }
        }
        Ok(())
    }

    async fn sweep_active(&self, shutdown: &CancellationToken) -> Result<(), RedisStoreError> {
        for event in self.redis_store.active_events().await? {
            self.recent_events.note(&event);
            if let Err(error) = self.sweep(&event, shutdown).await {
                tracing::warn!(error = error_chain(error), %event, "cannot sweep an outbox");
            }
        }
        Ok(())
    }

    async fn sweep(&self, event: &EventName, shutdown: &CancellationToken) -> Result<(), RedisStoreError> {
        let mut last = None;
        while !shutdown.is_cancelled() && self.redis_store.acquire_sweeper_lease(event, self.id, LEASE).await? {
            let page =
                self.redis_store.list_unconfirmed(event, self.takeover_after, last.as_deref(), PAGE_SIZE).await?;
            if page.last.is_none() {
                break;
            }
            self.redis_store.mark_active(event).await?;
            last = page.last;
            if !page.undecodable.is_empty() {
                let entries = page.undecodable;
                tracing::error!(%event, ?entries, "cannot decode outbox entries; they remain in the outbox");
            }
            let (mut sent, mut records) = (Vec::new(), 0);
            for entry in page.entries {
                if !self.relay.is_in_flight(event, &entry.id) {
                    records += entry.records.len();
                    sent.push(self.relay.send_entry(event, entry));
                }
            }
            if sent.is_empty() {
                continue;
            }
            let count = sent.len();
            self.metrics.outbox_taken_over.inc_by(count as u64);
            tracing::info!(%event, count, records, "sending unconfirmed outbox entries");
            if future::join_all(sent).await.iter().all(Result::is_err) {
                // Kafka is unavailable: the remaining entries are retried in the next sweep. A single failed entry does
                // not delay others.
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walk_reaches_all_events_at_once_and_then_slowly() {
        let names = (0..WALK_ROUNDS * 3).map(|n| format!("event-{n:04}").parse().unwrap());
        let mut walk = Walk { events: names.collect(), ..Walk::default() };
        assert_eq!(walk.next_events(), walk.events, "the first round after the lease was acquired");
        let mut reached = Vec::new();
        for _ in 0..WALK_ROUNDS {
            let next = walk.next_events();
            assert_eq!(next.len(), 3);
            reached.extend(next);
        }
        assert_eq!(reached, walk.events);
        assert_eq!(walk.next_events()[0], walk.events[0], "the walk begins again");
    }

    #[test]
    fn walk_without_events_is_empty() {
        let mut walk = Walk::default();
        assert!(walk.next_events().is_empty() && walk.next_events().is_empty());
    }
}
