//! Requests that are sent again at a known time: when the user is admitted, or more coupons become available.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::workload::UserRequest;

/// A request that waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deferred {
    pub(crate) request: UserRequest,
    /// The number of the next attempt at it.
    pub(crate) attempt: u32,
}

/// The requests that wait, by their time (microseconds since the Unix epoch).
#[derive(Debug, Default)]
pub(crate) struct DeferredRequests(Mutex<BTreeMap<(i64, u64), Deferred>>);

impl DeferredRequests {
    /// Adds a request. `number` distinguishes those with the same time.
    pub(crate) fn add(&self, due: i64, number: u64, deferred: Deferred) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert((due, number), deferred);
    }

    /// Removes the first request if it is due. The error is its time; without one, no request waits.
    pub(crate) fn take_due(&self, now: i64) -> Result<Deferred, Option<i64>> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = waiting.first_entry().ok_or(None)?;
        let (due, _) = *first.key();
        if due <= now { Ok(first.remove()) } else { Err(Some(due)) }
    }
}
