//! The state of an event: the reason of its condition `Open`.

use couponry_crds::status::reason;
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

pub(super) fn is_sold_out(in_redis: &RedisEvent) -> bool {
    in_redis.gate != Gate::Loading && in_redis.available == 0 && in_redis.loaded > 0
}

/// The message of the condition `Open`.
pub(super) const fn message(state: &'static str) -> &'static str {
    match state.as_bytes() {
        b"Loading" => "Issuing starts when all coupons are loaded.",
        b"Scheduled" => "Issuing starts at startTime.",
        b"Open" => "Coupons are being issued.",
        b"Paused" => "Issuing is paused because issuance is Paused.",
        b"SoldOut" => "All coupons are issued.",
        b"Ended" => "The event ended at endTime.",
        b"Closed" => "The event was closed because issuance is Closed.",
        _ => "",
    }
}
