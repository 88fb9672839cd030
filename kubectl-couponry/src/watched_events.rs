//! The events of a watch.

use std::collections::BTreeMap;

use couponry_crds::CouponEvent;
use kube::{ResourceExt as _, core::DeserializeGuard, runtime::watcher::Event};

/// Namespace and name.
pub(crate) type Key = (String, String);
pub(crate) type Events = BTreeMap<Key, DeserializeGuard<CouponEvent>>;

/// The events that the watch has reported so far.
#[derive(Default)]
pub(crate) struct WatchedEvents {
    current: Events,
    /// The new list, while the watch restarts.
    relisted: Events,
}

impl WatchedEvents {
    pub(crate) fn current(&self) -> &Events {
        &self.current
    }

    pub(crate) fn insert(&mut self, event: DeserializeGuard<CouponEvent>) {
        self.current.insert(key(&event), event);
    }

    pub(crate) fn apply(&mut self, change: Event<DeserializeGuard<CouponEvent>>) {
        match change {
            Event::Init => self.relisted.clear(),
            Event::InitApply(event) => drop(self.relisted.insert(key(&event), event)),
            // Events that are missing were deleted while the watch was interrupted.
            Event::InitDone => self.current = std::mem::take(&mut self.relisted),
            Event::Apply(event) => self.insert(event),
            Event::Delete(event) => drop(self.current.remove(&key(&event))),
        }
    }
}

fn key(event: &DeserializeGuard<CouponEvent>) -> Key {
    (event.namespace().unwrap_or_default(), event.name_any())
}
