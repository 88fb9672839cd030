//! Events that existed recently. A Redis that has lost its data has no events until the operator has restored it; in
//! the meantime, a request for such an event must not be answered with 404.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use couponry_domain::EventName;
use couponry_redis::RedisStore;
use couponry_runtime::error_chain;

/// How long an event counts as recent.
const MAX_AGE: Duration = Duration::from_mins(1);

/// When each event was last known to exist: the [`crate::sweeper`] notes all events every few seconds, and
/// each issue request its own. Only existing events are noted, so clients cannot exhaust memory with made-up names.
#[derive(Default)]
pub(crate) struct RecentEvents(Mutex<HashMap<EventName, Instant>>);

impl RecentEvents {
    /// Records that the event exists.
    pub(crate) fn note(&self, event: &EventName) {
        let mut all = self.lock();
        match all.get_mut(event) {
            Some(last) => *last = Instant::now(),
            None => drop(all.insert(event.clone(), Instant::now())),
        }
    }

    /// The events that existed recently.
    pub(crate) fn names(&self) -> Vec<EventName> {
        let mut all = self.lock();
        all.retain(|_, last| last.elapsed() < MAX_AGE);
        all.keys().cloned().collect()
    }

    /// Whether the event existed recently.
    pub(crate) fn contains(&self, event: &EventName) -> bool {
        let mut all = self.lock();
        let is_recent = all.get(event).is_some_and(|last| last.elapsed() < MAX_AGE);
        if !is_recent {
            all.remove(event);
        }
        is_recent
    }

    /// Keeps all events for longer: those that exist cannot be listed at present.
    pub(crate) fn keep_all(&self) {
        for last in self.lock().values_mut() {
            *last = Instant::now();
        }
    }

    /// Whether an event may exist that Redis does not have: it existed recently, or Redis may have lost it.
    pub(crate) async fn may_exist(&self, event: &EventName, redis_store: &RedisStore) -> bool {
        self.contains(event)
            || redis_store.may_exist(event).await.unwrap_or_else(|error| {
                tracing::warn!(error = error_chain(error), %event, "cannot read whether an event exists");
                true
            })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<EventName, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
