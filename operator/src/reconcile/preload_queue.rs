//! Limits how many large preloads run at the same time.
//!
//! # Guarantees
//! - A reconciliation never waits here: without a permit it ends, and is repeated after the returned delay. Changes of
//!   a gate and recoveries need no permit, so they are never delayed by preloads.
//! - Waiting events receive permits in the order of their first request. A permit covers one step, so large events
//!   alternate.
//! - An event that no longer requests its permit does not delay others.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use couponry_domain::Uuid;

/// Large preloads at the same time. More would not be faster: Postgres builds the indexes of one in about the time in
/// which Redis loads another.
const MAX_CONCURRENT: usize = 2;
/// A step with fewer coupons takes less than a second and needs no permit, so small events do not wait for large ones.
const SMALL: u64 = 20_000;

const MIN_RETRY_DELAY: Duration = Duration::from_millis(250);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(10);
/// Longer than the longest delay: an event that has not requested its permit for this long no longer waits.
const EXPIRY: Duration = Duration::from_secs(30);

/// The permits, and the events that wait for one.
#[derive(Clone, Debug, Default)]
pub(crate) struct PreloadQueue(Arc<Mutex<Queue>>);

#[derive(Debug, Default)]
struct Queue {
    running: usize,
    /// The waiting events and when they last requested a permit.
    waiting: VecDeque<(Uuid, Instant)>,
}

/// Permission to generate or load coupons until it is dropped.
#[derive(Debug)]
pub(super) struct PreloadPermit(Option<PreloadQueue>);

impl PreloadQueue {
    /// Returns a permit for a step with `coupons` coupons, or the delay after which to request it again.
    pub(super) fn try_acquire(&self, event: Uuid, coupons: u64) -> Result<PreloadPermit, Duration> {
        self.try_acquire_at(event, coupons, Instant::now())
    }

    fn try_acquire_at(&self, event: Uuid, coupons: u64, now: Instant) -> Result<PreloadPermit, Duration> {
        if coupons < SMALL {
            return Ok(PreloadPermit(None));
        }
        let mut queue = self.lock();
        queue.waiting.retain(|(waiting, last)| *waiting == event || now.saturating_duration_since(*last) < EXPIRY);
        let position = queue.waiting.iter().position(|(waiting, _)| *waiting == event).unwrap_or_else(|| {
            queue.waiting.push_back((event, now));
            queue.waiting.len() - 1
        });
        if queue.running + position < MAX_CONCURRENT {
            queue.waiting.remove(position);
            queue.running += 1;
            return Ok(PreloadPermit(Some(self.clone())));
        }
        queue.waiting[position].1 = now;
        let delay = MIN_RETRY_DELAY * u32::try_from(position + 1).unwrap_or(u32::MAX);
        Err(delay.min(MAX_RETRY_DELAY))
    }

    /// Removes an event that no longer waits.
    pub(super) fn leave(&self, event: Uuid) {
        self.lock().waiting.retain(|(waiting, _)| *waiting != event);
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for PreloadPermit {
    fn drop(&mut self) {
        if let Some(queue) = &self.0 {
            queue.lock().running -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: u64 = 1_000_000;

    #[test]
    fn waiting_events_receive_permits_in_order() {
        let queue = PreloadQueue::default();
        let [a, b, c, d] = [1, 2, 3, 4].map(Uuid::from_u128);
        let first = queue.try_acquire(a, LARGE).unwrap();
        let second = queue.try_acquire(b, LARGE).unwrap();
        assert_eq!(queue.try_acquire(c, LARGE).unwrap_err(), MIN_RETRY_DELAY);
        assert_eq!(queue.try_acquire(d, LARGE).unwrap_err(), MIN_RETRY_DELAY * 2);
        drop(first);
        assert!(queue.try_acquire(a, LARGE).is_err(), "an event that had a permit waits behind the others");
        assert!(queue.try_acquire(d, LARGE).is_err(), "the free permit is for the first waiting event");
        let third = queue.try_acquire(c, LARGE).unwrap();
        drop((second, third));
        assert!(queue.try_acquire(d, LARGE).is_ok());
    }

    #[test]
    fn small_preload_needs_no_permit() {
        let queue = PreloadQueue::default();
        let _permits = [1, 2].map(|event| queue.try_acquire(Uuid::from_u128(event), LARGE).unwrap());
        assert!(queue.try_acquire(Uuid::from_u128(3), SMALL - 1).is_ok());
    }

    #[test]
    fn event_that_stops_waiting_does_not_delay_others() {
        let queue = PreloadQueue::default();
        let now = Instant::now();
        let [left, expired, last] = [3, 4, 5].map(Uuid::from_u128);
        let permits = [1, 2].map(|event| queue.try_acquire(Uuid::from_u128(event), LARGE).unwrap());
        for waiting in [left, expired, last] {
            assert!(queue.try_acquire_at(waiting, LARGE, now).is_err());
        }
        let [first, _second] = permits;
        drop(first);
        queue.leave(left);
        assert!(queue.try_acquire_at(last, LARGE, now).is_err(), "the other event is still expected");
        assert!(queue.try_acquire_at(last, LARGE, now + EXPIRY).is_ok());
    }
}
