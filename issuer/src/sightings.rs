//! Which events were there a moment ago. A Redis that has lost everything knows none of them, until the operator has restored
//! them: who asks in the meantime is not told that there is no such event.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use couponry_domain::EventName;

/// How long an event is believed to be there after it was seen.
const LATELY: Duration = Duration::from_mins(1);

/// When each event was seen last: by the [`crate::sweeper`], which looks at every event each second, or when someone asked for a
/// coupon. Only what there was gets in, so anyone's names take no room.
#[derive(Default)]
pub(crate) struct Sightings(Mutex<HashMap<EventName, Instant>>);

impl Sightings {
    /// The event is there.
    pub(crate) fn saw(&self, event: &EventName) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match all.get_mut(event) {
            Some(last) => *last = Instant::now(),
            None => drop(all.insert(event.clone(), Instant::now())),
        }
    }

    /// Whether the event was there a moment ago.
    pub(crate) fn saw_lately(&self, event: &EventName) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lately = all.get(event).is_some_and(|last| last.elapsed() < LATELY);
        if !lately {
            all.remove(event);
        }
        lately
    }
}
