//! Remembers events about which nothing is left to do, so that the next reconciliation reads only Redis.
//!
//! Most events are idle most of the time. While Redis shows the same state as at the last complete observation, and
//! nothing was left to record then, Postgres has not changed either.
//!
//! # Guarantees
//! A reconciliation that begins later than [`MAX_AGE`] after the last complete observation, or after a restart of
//! Postgres or a void of the event, is complete, so a change of Postgres alone is noticed, too.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use couponry_domain::Uuid;
use couponry_redis::RedisEvent;

/// How old a complete observation may be. Longer than the interval at which idle events are reconciled (30 s),
/// otherwise each of their reconciliations would be complete; shorter than a minute, so that a change of Postgres alone
/// is reported within about one.
const MAX_AGE: Duration = Duration::from_secs(50);

/// Keyed by the uid of the event.
#[derive(Default)]
pub(crate) struct IdleEvents {
    events: Mutex<HashMap<Uuid, IdleEvent>>,
    /// Earlier observations do not count: of all events, and of one.
    valid_from: Mutex<(Option<Instant>, HashMap<Uuid, Instant>)>,
}

/// An event about which nothing was left to do.
pub(super) struct IdleEvent {
    generation: i64,
    /// The event as it was at the complete observation.
    pub(super) redis: RedisEvent,
    /// When to check again, without regard to `changes_at`.
    interval: Duration,
    /// When the state changes by itself, by the clock of Redis (milliseconds since the Unix epoch).
    changes_at: Option<i64>,
    /// When the complete observation began.
    observed_at: Instant,
}

impl IdleEvents {
    /// Removes the event, and returns it if it was idle at its last complete observation, and that is recent enough. If
    /// it still is, the caller inserts it again.
    pub(super) fn take(&self, uid: Uuid, generation: i64) -> Option<IdleEvent> {
        let idle = self.lock().remove(&uid)?;
        let (of_all, of_one) = &*self.valid_from.lock().unwrap_or_else(PoisonError::into_inner);
        let is_valid = idle.generation == generation
            && idle.observed_at.elapsed() < MAX_AGE
            && of_all.iter().chain(of_one.get(&uid)).all(|from| idle.observed_at > *from);
        is_valid.then_some(idle)
    }

    pub(super) fn insert(&self, idle: IdleEvent) {
        self.lock().insert(idle.redis.uid, idle);
    }

    /// Requires a complete observation of every event, also of those that are being observed.
    pub(crate) fn invalidate(&self) {
        self.valid_from.lock().unwrap_or_else(PoisonError::into_inner).0 = Some(Instant::now());
    }

    /// [`IdleEvents::invalidate`] for one event.
    pub(crate) fn invalidate_event(&self, uid: Uuid) {
        self.valid_from.lock().unwrap_or_else(PoisonError::into_inner).1.insert(uid, Instant::now());
    }

    pub(crate) fn remove(&self, uid: Uuid) {
        self.lock().remove(&uid);
        self.valid_from.lock().unwrap_or_else(PoisonError::into_inner).1.remove(&uid);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, IdleEvent>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl IdleEvent {
    /// An event in the state of an observation that began at `observed_at`.
    pub(super) fn new(
        generation: i64,
        redis: RedisEvent,
        interval: Duration,
        changes_at: Option<i64>,
        observed_at: Instant,
    ) -> Self {
        Self { generation, redis, interval, changes_at, observed_at }
    }

    /// When to check again if the event is in the same state as before. None: a complete observation is required.
    pub(super) fn next_check(&self, redis: &RedisEvent) -> Option<Duration> {
        // The clock always differs.
        if self.redis != (RedisEvent { now: self.redis.now, ..redis.clone() }) {
            return None;
        }
        match self.changes_at {
            None => Some(self.interval),
            Some(at) => {
                let wait = u64::try_from(at - redis.now).ok().filter(|wait| *wait > 0)?;
                Some(self.interval.min(Duration::from_millis(wait)))
            }
        }
    }
}
