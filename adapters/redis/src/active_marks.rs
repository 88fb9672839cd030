//! Which events this process has marked as active lately.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use couponry_domain::EventName;

/// How often a process marks the same event.
const MARK_INTERVAL: Duration = Duration::from_secs(20);

/// When this process has marked each event.
#[derive(Default)]
pub(crate) struct ActiveMarks(Mutex<HashMap<EventName, Instant>>);

impl ActiveMarks {
    /// Whether the event has to be marked. It then counts as marked.
    pub(crate) fn is_due(&self, event: &EventName) -> bool {
        let mut marks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match marks.get_mut(event) {
            Some(last) if last.elapsed() < MARK_INTERVAL => false,
            Some(last) => {
                *last = Instant::now();
                true
            }
            None => {
                marks.retain(|_, last| last.elapsed() < MARK_INTERVAL);
                marks.insert(event.clone(), Instant::now());
                true
            }
        }
    }

    pub(crate) fn remove(&self, event: &EventName) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(event);
    }
}
