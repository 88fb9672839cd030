//! The state of an event: the reason of its condition `Open`.

use couponry_crds::status::reason;
use couponry_domain::{Gate, WindowState};
use couponry_redis::Observed;

/// `own`: the event in Redis. Same precedence as [`couponry_domain::Window::state`], except that a pause takes
/// precedence over a start in the future.
pub(super) fn state(own: Option<&Observed>) -> &'static str {
    let Some(own) = own else { return reason::LOADING };
    // Retirement closes the gate, but the event keeps the state in which it ended.
    let gate = own.retired.unwrap_or(own.gate);
    match own.window.state(gate, own.now) {
        WindowState::Ended if gate == Gate::Closed => reason::CLOSED,
        WindowState::Ended => reason::ENDED,
        _ if gate == Gate::Loading => reason::LOADING,
        _ if gate == Gate::Paused => reason::PAUSED,
        WindowState::NotStarted => reason::SCHEDULED,
        WindowState::Open | WindowState::Paused if is_sold_out(own) => reason::SOLD_OUT,
        WindowState::Open | WindowState::Paused => reason::OPEN,
    }
}

pub(super) fn is_sold_out(own: &Observed) -> bool {
    own.gate != Gate::Loading && own.available == 0 && own.loaded > 0
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
