//! Events that existed recently. A Redis that has lost its data has no events until the operator has restored it; in
//! the meantime, a request for such an event must not be answered with 404.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use couponry_domain::EventName;

/// How long an event counts as recent.
const MAX_AGE: Duration = Duration::from_mins(1);

/// When each event was last known to exist: the [`crate::sweeper`] notes all events every few seconds, and
/// each issue request its own. Only existing events are noted, so clients cannot exhaust memory with made-up names.
#[derive(Default)]
pub(crate) struct RecentEvents {
    last_known: Mutex<HashMap<EventName, Instant>>,
    /// Whether Redis had any event when they were last listed. A Redis without events may have lost all of them.
    has_events: AtomicBool,
}

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

    /// Sets whether Redis had any event when they were listed.
    pub(crate) fn set_has_events(&self, has_events: bool) {
        self.has_events.store(has_events, Ordering::Relaxed);
    }

    /// Whether an event may exist that Redis does not have.
    pub(crate) fn may_exist(&self, event: &EventName) -> bool {
        !self.has_events.load(Ordering::Relaxed) || self.contains(event)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<EventName, Instant>> {
        self.last_known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
