//! Compares the responses that shops have received, and the results of voids, with the table of uses, with the topic of
//! uses, and with what the redeemer returns now.
//!
//! The checker does not use the rules of the redeemer (`libs/domain/src/redemption.rs`). It has its own, in a different
//! form: the rows of a coupon are a total order, so each response must be possible after some number of rows. That
//! number is limited by real time: a change whose response had arrived before the request was sent has happened, and a
//! change that was requested after the response had arrived has not.
//!
//! # Assumptions
//! The data is read when no request is in progress, and the history has every attempt of the event. Only for the end of
//! a reservation or of a coupon, and for voids, clocks are compared; they differ by less than a second.

mod input;
mod messages;
mod responses;
mod rows;
#[cfg(test)]
mod tests;
mod validity;
mod voids;

pub use input::{RedemptionInput, UseMessage, UseRow};

use self::input::Calls;
use super::report::Report;

/// Runs all checks of redemptions. The results are in the order of display.
#[must_use]
pub fn check_redemptions(input: &RedemptionInput) -> Report {
    let calls = Calls::new(input);
    Report {
        results: vec![
            responses::confirmed_changes_are_stored(input, &calls),
            responses::redemptions_are_returned(input, &calls),
            responses::no_issued_coupon_is_unknown(input),
            responses::requests_are_decided(&calls),
            responses::redeemed_once(input, &calls),
            responses::repeated_requests_have_equal_responses(&calls),
            rows::reservations_exclude_other_orders(input),
            rows::each_row_can_follow(input),
            rows::rows_were_requested(input, &calls),
            rows::rows_are_in_real_time_order(input, &calls),
            responses::refused_as_reserved_only_while_reserved(input, &calls),
            responses::other_refusals_have_a_reason(input, &calls),
            rows::redeemer_returns_stored_history(input, &calls),
            voids::confirmed_voids_are_stored(input, &calls),
            voids::voids_were_requested(input, &calls),
            voids::refused_voids_have_a_reason(input, &calls),
            validity::no_use_after_the_end(input),
            validity::redeemer_returns_the_end(input),
            messages::uses_are_sent(input),
            messages::messages_are_of_uses(input),
            messages::messages_are_in_order(input),
            responses::unknown_outcomes(input),
        ],
    }
}
