//! Limits how many events are reconciled at the same time.
//!
//! # Guarantees
//! - Events are reconciled in the order in which they became due. (The controller of kube has no order among due
//!   objects, so with a limit of its own some would never be reconciled.)
//! - Finished events never delay others.

use couponry_crds::CouponEvent;
use kube::core::DeserializeGuard;
use tokio::sync::{Semaphore, SemaphorePermit};

/// More would wait for a connection to Postgres.
const MAX_CONCURRENT: usize = 16;
const MAX_CONCURRENT_FINISHED: usize = 2;

pub(crate) struct Limiter {
    all: Semaphore,
    finished: Semaphore,
}

/// Permission to reconcile one event until it is dropped.
pub(crate) struct Permit<'a>(#[expect(dead_code, reason = "only its drop matters")] SemaphorePermit<'a>);

impl Default for Limiter {
    fn default() -> Self {
        Self { all: Semaphore::new(MAX_CONCURRENT), finished: Semaphore::new(MAX_CONCURRENT_FINISHED) }
    }
}

impl Limiter {
    /// Waits for a permit.
    pub(crate) async fn acquire(&self, event: &DeserializeGuard<CouponEvent>) -> Permit<'_> {
        let semaphore = if is_finished(event) { &self.finished } else { &self.all };
        Permit(semaphore.acquire().await.expect("the semaphore is never closed"))
    }
}

/// Whether the event is finished, and nothing has changed since.
fn is_finished(DeserializeGuard(event): &DeserializeGuard<CouponEvent>) -> bool {
    event.as_ref().is_ok_and(|event| {
        let status = event.status.as_ref();
        event.metadata.deletion_timestamp.is_none()
            && status.is_some_and(|status| {
                status.finished_at.is_some() && status.observed_generation == event.metadata.generation
            })
    })
}
