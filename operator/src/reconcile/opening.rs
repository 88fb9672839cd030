//! The steps that store the opening of an event in Postgres ([ADR 0022](../../../docs/adr/0022-openings.md)).

use couponry_crds::status::reason;
use couponry_domain::{Gate, Window};
use couponry_postgres::StoredEvent;
use couponry_redis::RedisEvent;

use crate::reconcile::{
    desired_state::DesiredState,
    gate::{final_start, opens_at},
    observe::ObservedState,
    step::{Plan, Step},
};

/// Whether coupons were issued, which proves that the event has opened.
pub(super) fn has_issuances(in_redis: &RedisEvent, observed: &ObservedState) -> bool {
    in_redis.issued > 0 || in_redis.cancelled > 0 || observed.recorded > 0
}

/// Whether users may have been served while an opening is stored, by the clock of Redis: a gate that is `PAUSED` then
/// may have been `OPEN` before. `reset_gate.lua` applies the same rule.
pub(super) fn may_have_opened(in_redis: &RedisEvent) -> bool {
    matches!(in_redis.gate, Gate::Open | Gate::Paused) && has_begun(in_redis.window.start, in_redis)
}

pub(super) fn has_begun(start: Option<i64>, in_redis: &RedisEvent) -> bool {
    start.is_none_or(|start| start <= in_redis.now)
}

/// Stores that the opening is final.
pub(super) fn confirm_opening(stored: &StoredEvent, in_redis: &RedisEvent) -> Plan {
    if stored.discount_counts.is_empty() {
        return Plan::blocked(
            reason::DRIFT_FOUND,
            format!(
                "{} coupons are issued in Redis, but Postgres has no coupons of the event: it was probably restored \
                 from a backup. Compare the stores with `kubectl couponry audit`.",
                in_redis.issued
            ),
        );
    }
    let (at, start) = match stored.opens_at {
        Some(at) => (at, stored.starts_at),
        None => (opens_at(in_redis.window, in_redis.now), in_redis.window.start),
    };
    Plan::Apply(Step::ScheduleOpening { at, start, is_final: true })
}

/// Stores the opening of a gate with this window. It is final unless the window begins in the future, by the clock of
/// Redis as of the moment at which the gate was read.
pub(super) fn schedule_opening(window: Window, stored: &StoredEvent, in_redis: &RedisEvent) -> Plan {
    let at = opens_at(window, in_redis.now);
    // The ramp needs a start, also if a manifest of an older CRD has none.
    let start = window.start.or(stored.release.ramp_seconds.map(|_| at));
    Plan::Apply(Step::ScheduleOpening { at, start, is_final: at <= in_redis.now })
}

/// Stores the start of an opening that is final, before the gate is set with it. None: it is stored.
pub(super) fn store_start(
    desired: &DesiredState,
    stored: &StoredEvent,
    in_redis: &RedisEvent,
    observed: &ObservedState,
) -> Option<Plan> {
    let at = stored.opens_at.filter(|_| stored.is_opening_final)?;
    let start = final_start(desired, stored, in_redis, has_issuances(in_redis, observed));
    (start != stored.starts_at).then_some(Plan::Apply(Step::ScheduleOpening { at, start, is_final: true }))
}
