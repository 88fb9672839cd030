//! What every look at an event needs.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use couponry_crds::CouponEvent;
use couponry_postgres::Database;
use couponry_redis::Stock;
use kube::{Api, core::DeserializeGuard, runtime::events::Recorder};

use crate::{durability::DurabilityWatch, metrics::Metrics, reconcile::arrival::Arrivals, scaling::Scaling};

/// What every look at an event needs.
pub(crate) struct Context {
    /// The events of our namespace.
    pub(crate) events: Api<CouponEvent>,
    pub(crate) database: Database,
    pub(crate) stock: Stock,
    pub(crate) recorder: Recorder,
    pub(crate) metrics: Metrics,
    pub(crate) memory: Memory,
    pub(crate) durability: DurabilityWatch,
    /// What is waited for where Redis may have lost something.
    pub(crate) arrivals: Arrivals,
    /// What was found at the start and is not as it should be; said in every report.
    pub(crate) remarks: Vec<String>,
    /// The issuers that events ask for.
    pub(crate) scaling: Scaling,
    /// How long the deletion of an event waits for what is on its way to Postgres.
    pub(crate) drain_timeout: Duration,
}

/// What is remembered of events between two looks, by their uids. Nothing that matters is lost with it.
#[derive(Default)]
pub(crate) struct Memory(Mutex<HashMap<String, Recollection>>);

#[derive(Default)]
struct Recollection {
    failures: u32,
    written: Option<Instant>,
    draining: Option<Instant>,
    differing: Option<Instant>,
}

/// How many looks in a row have failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failures(u32);

impl Failures {
    /// How long to leave the event alone: from a quarter of a second up to 4 seconds. Not longer: when Redis is back, users wait for
    /// us.
    pub(crate) fn pause(self) -> Duration {
        Duration::from_millis(250) * (1 << self.0.saturating_sub(1).min(4))
    }
}

impl Context {
    /// The same events, of which some may not be readable.
    pub(crate) fn guarded_events(&self) -> Api<DeserializeGuard<CouponEvent>> {
        Api::namespaced(self.events.clone().into_client(), self.namespace())
    }

    /// The namespace whose events these are.
    pub(crate) fn namespace(&self) -> &str {
        self.events.namespace().expect("the events are those of one namespace")
    }
}

impl Memory {
    pub(crate) fn succeeded(&self, uid: &str) {
        if let Some(recollection) = self.lock().get_mut(uid) {
            recollection.failures = 0;
        }
    }

    pub(crate) fn failed(&self, uid: &str) -> Failures {
        let mut all = self.lock();
        let recollection = all.entry(uid.to_owned()).or_default();
        recollection.failures += 1;
        Failures(recollection.failures)
    }

    /// Whether the last look failed.
    pub(crate) fn has_failed(&self, uid: &str) -> bool {
        self.lock().get(uid).is_some_and(|recollection| recollection.failures > 0)
    }

    pub(crate) fn wrote(&self, uid: &str) {
        self.lock().entry(uid.to_owned()).or_default().written = Some(Instant::now());
    }

    pub(crate) fn wrote_within(&self, uid: &str, time: Duration) -> bool {
        let all = self.lock();
        all.get(uid).and_then(|recollection| recollection.written).is_some_and(|written| written.elapsed() < time)
    }

    /// For how long we have been waiting for the event's pipeline to drain.
    pub(crate) fn draining_for(&self, uid: &str) -> Duration {
        self.lock().entry(uid.to_owned()).or_default().draining.get_or_insert_with(Instant::now).elapsed()
    }

    /// For how long every look has seen something that does not add up, with this one.
    pub(crate) fn differs(&self, uid: &str, differs: bool) -> Duration {
        let mut all = self.lock();
        if !differs {
            if let Some(recollection) = all.get_mut(uid) {
                recollection.differing = None;
            }
            return Duration::ZERO;
        }
        all.entry(uid.to_owned()).or_default().differing.get_or_insert_with(Instant::now).elapsed()
    }

    pub(crate) fn forget(&self, uid: &str) {
        self.lock().remove(uid);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Recollection>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_limit() {
        let memory = Memory::default();
        let pauses: Vec<_> = (0..9).map(|_| memory.failed("x").pause().as_millis()).collect();
        assert_eq!(pauses, [250, 500, 1000, 2000, 4000, 4000, 4000, 4000, 4000]);
        assert!(memory.has_failed("x"));
        memory.succeeded("x");
        assert!(!memory.has_failed("x"));
    }
}
