//! State that is kept between two reconciliations of an event. Losing it in a restart only repeats work.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

const FIRST_RETRY_DELAY: Duration = Duration::from_millis(250);
/// More than any limit of the delay.
const MAX_DOUBLINGS: u32 = 16;

/// Keyed by the uid of the event.
#[derive(Default)]
pub(crate) struct TransientState(Mutex<HashMap<String, EventState>>);

#[derive(Default)]
struct EventState {
    consecutive_failures: u32,
    status_written_at: Option<Instant>,
    deletion_started_at: Option<Instant>,
    mismatch_since: Option<Instant>,
}

impl TransientState {
    pub(crate) fn note_success(&self, uid: &str) {
        if let Some(state) = self.lock().get_mut(uid) {
            state.consecutive_failures = 0;
        }
    }

    /// Returns the delay before the next attempt, at most `max_delay`.
    pub(crate) fn note_failure(&self, uid: &str, max_delay: Duration) -> Duration {
        let mut all = self.lock();
        let state = all.entry(uid.to_owned()).or_default();
        let delay = FIRST_RETRY_DELAY * (1 << state.consecutive_failures.min(MAX_DOUBLINGS));
        state.consecutive_failures += 1;
        delay.min(max_delay)
    }

    /// Whether the last reconciliation failed.
    pub(crate) fn has_failed(&self, uid: &str) -> bool {
        self.lock().get(uid).is_some_and(|state| state.consecutive_failures > 0)
    }

    pub(crate) fn note_status_write(&self, uid: &str) {
        self.lock().entry(uid.to_owned()).or_default().status_written_at = Some(Instant::now());
    }

    /// Whether the status was written within the last `period`.
    pub(crate) fn status_written_within(&self, uid: &str, period: Duration) -> bool {
        let all = self.lock();
        all.get(uid).and_then(|state| state.status_written_at).is_some_and(|written| written.elapsed() < period)
    }

    /// Time since the first call for this event: how long its deletion has been waiting for issued coupons to be
    /// recorded.
    pub(crate) fn deletion_elapsed(&self, uid: &str) -> Duration {
        self.lock().entry(uid.to_owned()).or_default().deletion_started_at.get_or_insert_with(Instant::now).elapsed()
    }

    /// Notes whether the counts of the stores differ, and returns for how long every observation has seen them
    /// differ.
    pub(crate) fn note_balance(&self, uid: &str, is_balanced: bool) -> Duration {
        let mut all = self.lock();
        if is_balanced {
            if let Some(state) = all.get_mut(uid) {
                state.mismatch_since = None;
            }
            return Duration::ZERO;
        }
        all.entry(uid.to_owned()).or_default().mismatch_since.get_or_insert_with(Instant::now).elapsed()
    }

    pub(crate) fn forget(&self, uid: &str) {
        self.lock().remove(uid);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, EventState>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_delay_doubles_up_to_the_limit() {
        let (state, max) = (TransientState::default(), Duration::from_secs(4));
        let delays: Vec<_> = (0..7).map(|_| state.note_failure("x", max).as_millis()).collect();
        assert_eq!(delays, [250, 500, 1000, 2000, 4000, 4000, 4000]);
        assert!(state.has_failed("x"));
        state.note_success("x");
        assert!(!state.has_failed("x"));
        assert_eq!(state.note_failure("x", max).as_millis(), 250);
    }
}
