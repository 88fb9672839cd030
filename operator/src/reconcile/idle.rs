//! Remembers events about which nothing is left to do, so that the next reconciliation reads only Redis.
//!
//! Most events are idle most of the time. While Redis shows the same state as at the last complete observation, and
//! nothing was left to record then, Postgres has not changed either.
//!
//! # Guarantees
//! A reconciliation that begins later than [`MAX_AGE`] after the last complete observation is complete, so a change of
//! Postgres alone is noticed, too.

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

/// How often to check whether Redis accepts the writes of an idle event. The check is a call for each event, because
/// the event determines the node of a cluster and the keys.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// Keyed by the uid of the event.
#[derive(Default)]
pub(crate) struct IdleEvents(Mutex<HashMap<Uuid, IdleEvent>>);

struct IdleEvent {
    generation: i64,
    /// Its clock is set to 0, because it always differs.
    redis: RedisEvent,
    /// When to check again, without regard to `changes_at`.
    interval: Duration,
    /// When the state changes by itself, by the clock of Redis (milliseconds since the Unix epoch).
    changes_at: Option<i64>,
    observed_at: Instant,
    /// When it was last checked that Redis accepts writes.
    checked_at: Instant,
}

impl IdleEvents {
    /// Whether the event was idle at its last complete observation, and that is recent enough.
    pub(super) fn contains(&self, uid: Uuid, generation: i64) -> bool {
        let all = self.lock();
        all.get(&uid).is_some_and(|idle| idle.generation == generation && idle.observed_at.elapsed() < MAX_AGE)
    }

    /// Remembers that nothing is left to do about an event in this state.
    pub(super) fn insert(&self, generation: i64, redis: &RedisEvent, interval: Duration, changes_at: Option<i64>) {
        let now = Instant::now();
        let redis_event = without_clock(redis);
        let idle =
            IdleEvent { generation, redis: redis_event, interval, changes_at, observed_at: now, checked_at: now };
        self.lock().insert(redis.uid, idle);
    }

    /// When to check again if the event is in the same state as before. None: a complete observation is required.
    pub(super) fn next_check(&self, redis: &RedisEvent) -> Option<Duration> {
        let all = self.lock();
        let idle = all.get(&redis.uid).filter(|idle| idle.redis == without_clock(redis))?;
        match idle.changes_at {
            None => Some(idle.interval),
            Some(at) => {
                let wait = u64::try_from(at - redis.now).ok().filter(|wait| *wait > 0)?;
                Some(idle.interval.min(Duration::from_millis(wait)))
            }
        }
    }

    /// Whether it is time to check that Redis accepts writes. If so, the next check is due [`CHECK_INTERVAL`] later.
    pub(super) fn begin_check(&self, uid: Uuid) -> bool {
        let mut all = self.lock();
        let idle = all.get_mut(&uid).filter(|idle| idle.checked_at.elapsed() >= CHECK_INTERVAL);
        idle.map(|idle| idle.checked_at = Instant::now()).is_some()
    }

    pub(crate) fn remove(&self, uid: Uuid) {
        self.lock().remove(&uid);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, IdleEvent>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn without_clock(redis: &RedisEvent) -> RedisEvent {
    RedisEvent { now: 0, ..redis.clone() }
}
