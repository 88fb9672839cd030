//! The gate and window that a manifest specifies for Redis.

use couponry_crds::IssuingMode;
use couponry_domain::{Gate, Validity, Window};
use couponry_postgres::StoredEvent;
use couponry_redis::{GateSettings, RedisEvent};

use crate::reconcile::desired_state::DesiredState;

/// The settings of an event. Its validity and its release are those in Postgres, which are fixed by its opening.
pub(super) fn gate_settings(desired: &DesiredState, stored: &StoredEvent, gate: Gate, window: Window) -> GateSettings {
    let &DesiredState { acknowledge, generation, .. } = desired;
    let validity = stored.terms.validity.clone();
    // No coupon is issued that has expired, also if the manifest has another validity by now, which is refused.
    let end = window.end.into_iter().chain(validity.as_ref().and_then(Validity::fixed_end)).min();
    // The ramp needs a start, also if the manifest has none any more, which is refused.
    let start = window.start.or(stored.release.ramp_seconds.and(stored.opens_at));
    let window = Window { start, end };
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

/// The settings for an event whose opening is scheduled in Postgres and due. `has_issuances`: whether coupons have been
/// issued; if so, the start is kept; otherwise the start of the manifest applies.
pub(super) fn final_gate_settings(
    desired: &DesiredState,
    stored: &StoredEvent,
    in_redis: &RedisEvent,
    has_issuances: bool,
) -> GateSettings {
    let gate = match desired.issuance {
        IssuingMode::Auto => Gate::Open,
        IssuingMode::Paused => Gate::Paused,
        IssuingMode::Closed => Gate::Closed,
    };
    let start = match in_redis.gate {
        Gate::Open => in_redis.window.start,
        _ if !has_issuances => desired.window.start,
        // Redis has lost the start, but the opening is stored in Postgres.
        Gate::Loading => desired.window.start.min(stored.opens_at.or(desired.window.start)),
        Gate::Paused | Gate::Closed => in_redis.window.start,
    };
    let window = Window { start, end: desired.window.end };
    gate_settings(desired, stored, gate, window)
}

/// The earliest time at which coupons can be issued if the gate opens at `now`.
pub(super) fn opens_at(window: Window, now: i64) -> i64 {
    window.start.map_or(now, |start| start.max(now))
}
