//! Events that existed recently. A Redis that has lost its data has no events until the operator has restored it; in
//! the meantime, a request for such an event must not be answered with 404.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use couponry_domain::EventName;

/// How long an event counts as recent.
const MAX_AGE: Duration = Duration::from_mins(1);

/// When each event was last known to exist: the [`crate::sweeper`] notes all events every few seconds, and
/// each issue request its own. Only existing events are noted, so clients cannot exhaust memory with made-up names.
#[derive(Default)]
pub(crate) struct RecentEvents(Mutex<HashMap<EventName, Instant>>);

impl RecentEvents {
    /// Records that the event exists.
    pub(crate) fn note(&self, event: &EventName) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match all.get_mut(event) {
            Some(last) => *last = Instant::now(),
            None => drop(all.insert(event.clone(), Instant::now())),
        }
    }

    /// The events that existed recently.
    pub(crate) fn names(&self) -> Vec<EventName> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, last| last.elapsed() < MAX_AGE);
        all.keys().cloned().collect()
    }

    /// Whether the event existed recently.
    pub(crate) fn contains(&self, event: &EventName) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_recent = all.get(event).is_some_and(|last| last.elapsed() < MAX_AGE);
        if !is_recent {
            all.remove(event);
        }
        is_recent
    }
}
