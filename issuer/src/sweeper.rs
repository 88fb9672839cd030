//! Sends outbox entries that their issuer has not sent: entries of a crashed issuer, entries of a call whose
//! response was lost, and entries written during an outage of Kafka.
//!
//! Each second, the events that are marked as active are swept. In addition, one issuer at a time walks through all
//! events slowly, and marks those in whose outbox it finds entries. So idle events cost almost nothing.
//!
//! # Guarantees
//! Every entry older than `takeover_after` is sent again until Kafka confirms it. While Redis is not verified, entries
//! of any age are sent again, because a recovery waits for an empty outbox. The sweeper lease of an event is held by
//! one issuer at a time, so an entry is usually sent by at most one issuer besides the one that wrote it. An entry that
//! cannot be decoded or sent, and an event that cannot be swept, do not delay others.
//!
//! # Caveats
//! An event of which Kafka has confirmed nothing is not swept for some seconds, also after an outage of Kafka.
//! The issuer that wrote the entry may also send it, if it is only slow. While Kafka does not respond, the holder of
//! the sweeper lease waits for it longer than the lease lasts, and other issuers send the same entries. Recording is
//! idempotent.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use couponry_domain::{EventName, Uuid};
use couponry_redis::{RedisStore, RedisStoreError};
use couponry_runtime::{CancellationToken, error_chain};
use futures::{StreamExt as _, future, stream};
use tokio::time;

use crate::{metrics::Metrics, recent_events::RecentEvents, relay::Relay};

const INTERVAL: Duration = Duration::from_secs(1);
/// A few intervals, so that the lease holder keeps it; short enough for a fast takeover after a crash.
const LEASE: Duration = Duration::from_secs(5);
/// After Kafka has confirmed nothing of a page, the issuer does not sweep this event for this time: longer than the
/// lease, so that another issuer acquires it, whose records Kafka may accept.
const FAILED_PAUSE: Duration = Duration::from_secs(8);
/// Entries per page. Each has up to a batch of records.
const PAGE_SIZE: usize = 50;
/// How often the event list is read. Shorter than the time for which [`RecentEvents`] remembers them.
const LIST_INTERVAL: Duration = Duration::from_secs(10);
/// How many events are read or swept at the same time.
const MAX_CONCURRENT: usize = 16;
/// How many rounds a walk through all events takes.
const WALK_ROUNDS: usize = 300;

pub(crate) struct Sweeper {
    /// Identifies this issuer as the holder of the walk lease and of sweeper leases.
    pub(crate) id: Uuid,
    pub(crate) redis_store: RedisStore,
    pub(crate) relay: Relay,
    pub(crate) recent_events: Arc<RecentEvents>,
    pub(crate) takeover_after: Duration,
    pub(crate) metrics: Metrics,
}

/// When an event is swept again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// In the next round.
    Round,
    /// After [`FAILED_PAUSE`]: Kafka has confirmed nothing of a page.
    Pause,
}

/// All events, and which of them the walk has not reached yet.
#[derive(Default)]
struct Walk {
    listed_at: Option<Instant>,
    events: Vec<EventName>,
    /// The events before this index have been reached.
    next: usize,
    /// Whether the previous round held the lease.
    holds_walk_lease: bool,
}

impl Walk {
    /// The next events to read. A holder that has just acquired the lease reads all of them, because the previous one
    /// may have crashed.
    fn next_events(&mut self) -> Vec<EventName> {
        if !std::mem::replace(&mut self.holds_walk_lease, true) {
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
        let (mut walk, mut paused) = (Walk::default(), HashMap::new());
        while !shutdown.is_cancelled() {
            if !couponry_failpoint::is_on("issuer.no-sweep") {
                self.walk(&mut walk, &shutdown).await;
                self.sweep_active(&mut paused, &shutdown).await;
            }
            shutdown.run_until_cancelled(time::sleep(INTERVAL)).await;
        }
    }

    /// Reads the outboxes of the next events, and marks each event as active whose outbox is not empty. Reads the event
    /// list first if it is due.
    async fn walk(&self, walk: &mut Walk, shutdown: &CancellationToken) {
        if walk.listed_at.is_none_or(|at| at.elapsed() >= LIST_INTERVAL) {
            self.read_event_list(walk).await;
        }
        match self.redis_store.acquire_walk_lease(self.id, LEASE).await {
            Ok(true) => {}
            Ok(false) => {
                walk.holds_walk_lease = false;
                return;
            }
            // In a cluster, the lease may be on a node that is unavailable. It only saves work.
            Err(error) => tracing::warn!(error = error_chain(error), "cannot acquire the lease for all outboxes"),
        }
        let next = stream::iter(walk.next_events());
        // Events on a node that does not respond do not delay the others.
        next.for_each_concurrent(MAX_CONCURRENT, async |event| {
            if shutdown.is_cancelled() {
                return;
            }
            match self.redis_store.outbox_len(&event).await {
                Ok(0) => {}
                Ok(_) => self.redis_store.mark_active(&event).await,
                Err(error) => tracing::warn!(error = error_chain(error), %event, "cannot read an outbox"),
            }
        })
        .await;
    }

    /// Reads the event list. Adds those events that are missing because Redis has lost the list.
    async fn read_event_list(&self, walk: &mut Walk) {
        let listed: HashSet<EventName> = match self.redis_store.events().await {
            Ok(listed) => listed.into_iter().collect(),
            Err(error) => {
                tracing::warn!(
                    error = error_chain(error),
                    "cannot read the event list, using the events that are known"
                );
                self.recent_events.keep_all();
                walk.events = self.recent_events.names();
                return;
            }
        };
        for event in &listed {
            self.recent_events.note(event);
        }
        walk.events = self.recent_events.names();
        walk.events.sort();
        let missing: Vec<EventName> = walk.events.iter().filter(|event| !listed.contains(event)).cloned().collect();
        stream::iter(missing)
            .for_each_concurrent(MAX_CONCURRENT, async |event| {
                let added = async {
                    Ok::<_, RedisStoreError>(
                        self.redis_store.exists(&event).await? && self.redis_store.ensure_listed(&event).await?,
                    )
                };
                match added.await {
                    Ok(true) => tracing::warn!(%event, "the event was missing in the event list, added it again"),
                    Ok(false) => {}
                    Err(error) => {
                        tracing::warn!(error = error_chain(error), %event, "cannot add the event to the event list");
                    }
                }
            })
            .await;
        walk.listed_at = Some(Instant::now());
    }

    /// `paused`: the events that this issuer does not sweep, until a time.
    async fn sweep_active(&self, paused: &mut HashMap<EventName, Instant>, shutdown: &CancellationToken) {
        let active = self.redis_store.active_events().await.unwrap_or_else(|error| {
            // In a cluster, the marks may be on a node that is unavailable.
            tracing::warn!(error = error_chain(error), "cannot list the active events, sweeping all known ones");
            self.recent_events.names()
        });
        paused.retain(|_, until| Instant::now() < *until);
        let due: Vec<EventName> = active.into_iter().filter(|event| !paused.contains_key(event)).collect();
        let swept = stream::iter(due).map(async |event| {
            self.recent_events.note(&event);
            let next = self.sweep(&event, shutdown).await.unwrap_or_else(|error| {
                tracing::warn!(error = error_chain(error), %event, "cannot sweep an outbox");
                Next::Round
            });
            (event, next)
        });
        let swept: Vec<_> = swept.buffer_unordered(MAX_CONCURRENT).collect().await;
        let failed = swept.into_iter().filter(|(_, next)| *next == Next::Pause);
        paused.extend(failed.map(|(event, _)| (event, Instant::now() + FAILED_PAUSE)));
    }

    async fn sweep(&self, event: &EventName, shutdown: &CancellationToken) -> Result<Next, RedisStoreError> {
        let mut last = None;
        while !shutdown.is_cancelled() && self.redis_store.acquire_sweeper_lease(event, self.id, LEASE).await? {
            let page =
                self.redis_store.list_unconfirmed(event, self.takeover_after, last.as_deref(), PAGE_SIZE).await?;
            if page.last.is_none() {
                break;
            }
            self.redis_store.mark_active(event).await;
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
                // Kafka is unavailable, or rejects the records of this issuer: the remaining entries are retried in the
                // next sweep. A single failed entry does not delay others.
                return Ok(Next::Pause);
            }
        }
        Ok(Next::Round)
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
