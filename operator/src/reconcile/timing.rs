//! How often an event is reconciled, and how long one reconciliation may take.

use std::time::Duration;

use couponry_crds::status::reason;
use couponry_redis::Observed;

use crate::reconcile::{desired_state::DesiredState, observe::ObservedState, state::state};

/// While coupons are issued or recorded, so that the counts in the status are recent.
pub(super) const ACTIVE_INTERVAL: Duration = Duration::from_secs(2);
/// While nothing is expected to change.
pub(super) const IDLE_INTERVAL: Duration = Duration::from_secs(30);
/// While issuing is suspended because Redis is unverified.
pub(super) const UNVERIFIED_INTERVAL: Duration = Duration::from_millis(500);
/// While the deletion of an event waits for issued coupons to be recorded.
pub(super) const DRAIN_INTERVAL: Duration = Duration::from_millis(500);
/// After a conflict with another writer of the object.
pub(crate) const CONFLICT_RETRY: Duration = Duration::from_millis(100);
/// A longer reconciliation ends after its current step or chunk, so that a changed manifest takes effect.
pub(super) const MAX_DURATION: Duration = Duration::from_secs(2);
/// Counting the recorded issuances takes time in proportion to them. Observations take at most this fraction of the
/// time.
pub(super) const MAX_OBSERVATION_SHARE: u32 = 20;

/// When to reconcile an event whose stores match its manifest. `is_active`: the status has to be updated soon.
pub(super) fn next_check(desired: &DesiredState, observed: &ObservedState, is_active: bool) -> Duration {
    let Some(own) = observed.redis_event(desired) else { return IDLE_INTERVAL };
    let Observed { window, now, issued, completed, outbox, .. } = own;
    let is_recording = *outbox > 0 || observed.recorded < *issued || completed < issued;
    let is_frequent = is_active || is_recording || state(Some(own)) == reason::OPEN;
    let interval = if is_frequent { ACTIVE_INTERVAL } else { IDLE_INTERVAL };
    // One millisecond late, so that the clock of Redis has passed that time.
    let until = |time: i64| u64::try_from(time - now + 1).ok().filter(|wait| *wait > 0).map(Duration::from_millis);
    let changes = [window.start, window.end, desired.retire_at].into_iter().flatten().filter_map(until);
    changes.fold(interval, Duration::min)
}
