//! The state of events for anyone who asks, however many they are: each event is read from Redis at most once per
//! [`READ_INTERVAL`], and all requests share the result.
//!
//! # Guarantees
//! A returned state was read at most [`MAX_AGE`] ago. Errors are shared like states, and not kept for longer.
//!
//! # Caveats
//! Names of events that do not exist are read as well, and kept as briefly. Their number is limited: clients can
//! neither exhaust the memory with random names nor evict the states of events that exist.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use couponry_domain::EventName;
use couponry_redis::{RedisEvent, RedisStore};
use prometheus_client::metrics::counter::Counter;
use tokio::{
    sync::watch,
    time::{self, Instant},
};

use crate::{read_failure::ReadFailure, recent_events::RecentEvents};

/// Minimum time between two reads of an event.
const READ_INTERVAL: Duration = Duration::from_millis(250);
/// Maximum age of a returned state.
const MAX_AGE: Duration = Duration::from_secs(1);
/// Redis and its driver respond earlier, if only with an error.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum number of reads that are kept. Beyond it, only events that are known to exist are read.
const MAX_READS: usize = 1024;

/// An event as it was in Redis a moment ago.
#[derive(Debug)]
pub(crate) struct EventSnapshot {
    pub(crate) observed: RedisEvent,
    read_at: Instant,
}

impl EventSnapshot {
    /// The clock of Redis now, in milliseconds since the Unix epoch. The time that its response took is missing, so
    /// this is never ahead of Redis.
    pub(crate) fn now(&self) -> i64 {
        let elapsed = self.read_at.elapsed().as_millis();
        self.observed.now.saturating_add(i64::try_from(elapsed).unwrap_or(i64::MAX))
    }
}

type ReadResult = Result<Arc<EventSnapshot>, ReadFailure>;

/// A read, which may be in progress.
#[derive(Clone)]
struct Read {
    started: Instant,
    result: watch::Receiver<Option<ReadResult>>,
}

impl Read {
    /// Whether requests share this read. A read in progress is never repeated.
    fn is_current(&self) -> bool {
        let is_in_progress = || self.result.borrow().is_none() && self.result.has_changed().is_ok();
        self.started.elapsed() < READ_INTERVAL || is_in_progress()
    }
}

/// The last read of each event.
pub(crate) struct EventCache {
    redis_store: RedisStore,
    recent_events: Arc<RecentEvents>,
    count: Counter,
    reads: Mutex<HashMap<EventName, Read>>,
}

impl EventCache {
    /// `count` counts the reads.
    pub(crate) fn new(redis_store: RedisStore, recent_events: Arc<RecentEvents>, count: Counter) -> Self {
        Self { redis_store, recent_events, count, reads: Mutex::default() }
    }

    /// Returns the state of the event.
    pub(crate) async fn get(&self, event: &EventName) -> ReadResult {
        let Read { started, mut result } = self.read(event)?;
        let result = time::timeout_at(started + MAX_AGE, result.wait_for(Option::is_some)).await;
        let result = result.ok().and_then(Result::ok).and_then(|result| result.clone());
        // A process that was frozen sees the result before it sees that the time is over.
        result.filter(|_| started.elapsed() <= MAX_AGE).unwrap_or(Err(ReadFailure::Unavailable))
    }

    /// Returns the current read of the event, or starts one.
    fn read(&self, event: &EventName) -> Result<Read, ReadFailure> {
        let mut reads = self.reads.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(read) = reads.get(event).filter(|read| read.is_current()) {
            return Ok(read.clone());
        }
        if reads.len() >= MAX_READS {
            reads.retain(|_, read| read.is_current());
            if reads.len() >= MAX_READS && !self.recent_events.contains(event) {
                return Err(ReadFailure::Overloaded);
            }
        }
        let (sender, result) = watch::channel(None);
        let read = Read { started: Instant::now(), result };
        reads.insert(event.clone(), read.clone());
        drop(reads);
        self.count.inc();
        // A task of its own, so that it does not end with the connection of the client that has started it.
        let (redis_store, recent_events, event) = (self.redis_store.clone(), self.recent_events.clone(), event.clone());
        tokio::spawn(async move {
            let result = time::timeout(READ_TIMEOUT, observe(&redis_store, &recent_events, &event)).await;
            let _ = sender.send(Some(result.unwrap_or(Err(ReadFailure::Unavailable))));
        });
        Ok(read)
    }
}

async fn observe(redis_store: &RedisStore, recent_events: &RecentEvents, event: &EventName) -> ReadResult {
    match redis_store.observe(event).await {
        Ok(Some(observed)) if observed.damaged_release.is_some() => Err(ReadFailure::InvalidValue),
        Ok(Some(observed)) if observed.is_verified => Ok(Arc::new(EventSnapshot { observed, read_at: Instant::now() })),
        Ok(Some(_)) => Err(ReadFailure::Unverified),
        Ok(None) => Err(ReadFailure::of_missing(event, recent_events, redis_store).await),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use futures::future;

    use super::*;

    fn cache() -> EventCache {
        EventCache::new(RedisStore::connect("redis://127.0.0.1:1", "").unwrap(), Arc::default(), Counter::default())
    }

    fn name(i: usize) -> EventName {
        format!("event-{i}").parse().unwrap()
    }

    #[tokio::test]
    async fn concurrent_requests_share_one_read() {
        let cache = cache();
        let event = name(0);
        let first = cache.read(&event).unwrap();
        let others = future::join_all((0..100).map(|_| cache.get(&event))).await;
        assert!(others.iter().all(|result| matches!(result, Err(ReadFailure::Unavailable))), "{others:?}");
        assert_eq!(cache.reads.lock().unwrap()[&event].started, first.started);
    }

    #[tokio::test(start_paused = true)]
    async fn read_is_repeated_after_the_interval_and_once_it_has_ended() {
        let cache = cache();
        let (sender, result) = watch::channel(None);
        let read = Read { started: Instant::now(), result };
        cache.reads.lock().unwrap().insert(name(0), read);
        time::advance(READ_INTERVAL / 2).await;
        sender.send(Some(Err(ReadFailure::UnknownEvent))).unwrap();
        assert_eq!(cache.get(&name(0)).await.unwrap_err(), ReadFailure::UnknownEvent);
        time::advance(READ_INTERVAL / 2).await;
        assert!(!cache.reads.lock().unwrap()[&name(0)].is_current());

        let (sender, result) = watch::channel(None);
        let read = Read { started: Instant::now(), result };
        cache.reads.lock().unwrap().insert(name(0), read);
        time::advance(MAX_AGE).await;
        assert!(cache.reads.lock().unwrap()[&name(0)].is_current(), "a read in progress is not repeated");
        assert_eq!(cache.get(&name(0)).await.unwrap_err(), ReadFailure::Unavailable, "its state would be too old");
        drop(sender);
        assert!(!cache.reads.lock().unwrap()[&name(0)].is_current(), "a read that has panicked is repeated");
    }

    #[tokio::test]
    async fn random_names_are_limited_and_do_not_evict_known_events() {
        let cache = cache();
        let known = name(MAX_READS + 1);
        cache.recent_events.note(&known);
        let hot = cache.read(&known).unwrap();
        // They are in progress: the first task runs after this test has awaited something.
        for i in 0..MAX_READS - 1 {
            cache.read(&name(i)).unwrap();
        }
        assert_eq!(cache.read(&name(MAX_READS)).err(), Some(ReadFailure::Overloaded));
        assert_eq!(cache.read(&known).unwrap().started, hot.started);
        let other = name(MAX_READS + 2);
        cache.recent_events.note(&other);
        assert!(cache.read(&other).is_ok(), "an event that exists is read");
        for i in 0..MAX_READS - 1 {
            let _ = cache.get(&name(i)).await;
        }
        while cache.read(&name(MAX_READS)).is_err() {
            time::sleep(Duration::from_millis(10)).await;
        }
        assert!(cache.reads.lock().unwrap().len() < MAX_READS, "finished reads are removed");
    }
}
