//! The gate and window that a manifest specifies for Redis.

use couponry_crds::IssuingMode;
use couponry_domain::{Gate, Release, Validity, Window};
use couponry_postgres::StoredEvent;
use couponry_redis::{GateSettings, RedisEvent};

use crate::reconcile::desired_state::DesiredState;

/// The settings of an event. Its validity and its release are those in Postgres, which are fixed by its opening.
pub(super) fn gate_settings(desired: &DesiredState, stored: &StoredEvent, gate: Gate, window: Window) -> GateSettings {
    let &DesiredState { acknowledge, generation, .. } = desired;
    let validity = stored.terms.validity.clone();
    // No coupon is issued that has expired, also if the manifest has another validity by now, which is refused.
    let end = window.end.into_iter().chain(validity.as_ref().and_then(Validity::fixed_end)).min();
    let window = Window { end, ..window };
    GateSettings {
        gate,
        window,
        acknowledge,
        validity,
        release: stored.release.clone(),
        admission_key: stored.admission_key(),
        generation,
        stock_epoch: stored.stock_epoch,
        total: stored.generated(),
    }
}

/// The settings of an event whose opening is final, and has the start that [`final_start`] returns.
pub(super) fn final_gate_settings(desired: &DesiredState, stored: &StoredEvent) -> GateSettings {
    let gate = match desired.issuance {
        IssuingMode::Auto => Gate::Open,
        IssuingMode::Paused => Gate::Paused,
        IssuingMode::Closed => Gate::Closed,
    };
    let window = Window { start: stored.starts_at, end: desired.window.end };
    gate_settings(desired, stored, gate, window)
}

/// The settings with which Redis is verified after a recovery. Those in Redis are not considered: it may have come back
/// from an older snapshot. Unless the opening is final, nothing was issued, and the gate opens in later steps, or the
/// opening is withdrawn.
pub(super) fn recovered_gate_settings(desired: &DesiredState, stored: &StoredEvent) -> GateSettings {
    if stored.is_opening_final {
        return final_gate_settings(desired, stored);
    }
    let gate = if desired.issuance == IssuingMode::Closed { Gate::Closed } else { Gate::Loading };
    gate_settings(desired, stored, gate, desired.window)
}

/// The start of an event whose opening is final. That of the manifest applies until a user may have received a coupon,
/// or a time that depends on the start.
pub(super) fn final_start(
    desired: &DesiredState,
    stored: &StoredEvent,
    in_redis: &RedisEvent,
    has_issuances: bool,
) -> Option<i64> {
    let is_fixed = has_issuances
        || match in_redis.gate {
            // The recovery sets the gate of a final opening, so this one has never been open.
            Gate::Loading if in_redis.is_verified => false,
            Gate::Open if in_redis.is_verified => true,
            // Without a release, the first user who may have a coupon receives one.
            Gate::Loading | Gate::Open | Gate::Paused | Gate::Closed => stored.release != Release::default(),
        };
    // An opening of an earlier version has no start, and its start was not later.
    let is_not_later = |start: &i64| stored.opens_at.is_some_and(|at| *start <= at);
    let start = if is_fixed {
        stored.starts_at.or_else(|| desired.window.start.filter(is_not_later))
    } else {
        desired.window.start
    };
    // The ramp needs a start, also if the manifest has none any more, which is refused.
    start.or(stored.release.ramp_seconds.and(stored.opens_at))
}

/// The earliest time at which coupons can be issued if the gate opens at `now`.
pub(super) fn opens_at(window: Window, now: i64) -> i64 {
    window.start.map_or(now, |start| start.max(now))
}
