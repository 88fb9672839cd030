//! The state of an event: the reason of its condition `Open`.

use std::borrow::Cow;

use couponry_crds::{HOLD, status::reason};
use couponry_domain::{Gate, WindowState};
use couponry_redis::RedisEvent;

/// Same precedence as [`couponry_domain::Window::state`], except that a pause takes
/// precedence over a start in the future.
pub(super) fn state(in_redis: Option<&RedisEvent>) -> &'static str {
    let Some(in_redis) = in_redis else { return reason::LOADING };
    // Retirement closes the gate, but the event keeps the state in which it ended.
    let gate = in_redis.retired.unwrap_or(in_redis.gate);
    match in_redis.window.state(gate, in_redis.now) {
        WindowState::Ended if gate == Gate::Closed => reason::CLOSED,
        WindowState::Ended => reason::ENDED,
        _ if gate == Gate::Loading => reason::LOADING,
        _ if gate == Gate::Paused => reason::PAUSED,
        WindowState::NotStarted => reason::SCHEDULED,
        WindowState::Open | WindowState::Paused if is_sold_out(in_redis) => reason::SOLD_OUT,
        WindowState::Open | WindowState::Paused => reason::OPEN,
    }
}

/// The state that the status reports. An event whose coupons are not loaded yet is held, too, unless its gate is open
/// nevertheless, because the hold is not applied yet.
pub(super) fn reported_state(in_redis: Option<&RedisEvent>, hold: Option<&str>) -> &'static str {
    match state(in_redis) {
        reason::LOADING | reason::PAUSED if hold.is_some() => reason::HELD,
        state => state,
    }
}

pub(super) fn is_sold_out(in_redis: &RedisEvent) -> bool {
    in_redis.gate != Gate::Loading && in_redis.available == 0 && in_redis.loaded > 0
}

/// The message of the condition `Open`. `hold`: the reason of a hold.
pub(super) fn message(state: &'static str, hold: Option<&str>) -> Cow<'static, str> {
    let message = match (state, hold) {
        (reason::HELD, Some(hold)) => {
            return format!("Issuing is held: {hold}. Remove the annotation {HOLD} to continue.").into();
        }
        (reason::LOADING, _) => "Issuing starts when all coupons are loaded.",
        (reason::SCHEDULED, _) => "Issuing starts at startTime.",
        (reason::OPEN, _) => "Coupons are being issued.",
        (reason::PAUSED, _) => "Issuing is paused because issuance is Paused.",
        (reason::SOLD_OUT, _) => "All coupons are issued.",
        (reason::ENDED, _) => "The event ended at endTime.",
        (reason::CLOSED, _) => "The event was closed because issuance is Closed.",
        _ => "",
    };
    message.into()
}
