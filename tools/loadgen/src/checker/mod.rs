//! Compares the responses which users received with the data in Redis, Kafka and Postgres.
//!
//! Some categories are those of Jepsen's set test: *lost* (answered, but not recorded), *duplicated*, *unexpected*
//! (recorded or answered, but not expected) and *unknown outcome* (no response, or a 5xx response: the coupon may be
//! issued or not, which is never a violation).
//! *Cancelled* is separate from *lost*: answered, but then rejected as a dead letter or cancelled in Redis, so the
//! system has decided against the user. The others are the exact *stock*, the *consistency* of the stores, and the
//! *window*.
//!
//! # Assumptions
//! The data is read after the pipeline is drained, and the history has every attempt of the event.

mod consistency;
mod input;
mod inventory;
mod redemptions;
mod release;
mod report;
mod responses;
#[cfg(test)]
mod tests;
mod voids;

pub use input::{CheckInput, DeadLetter, KafkaData, PostgresData, RedisData};
pub use redemptions::{RedemptionInput, UseMessage, UseRow, check_redemptions};
pub use report::{Category, CheckResult, Report};

/// Runs all checks. The results are in the order of display.
#[must_use]
pub fn check(input: &CheckInput) -> Report {
    let users = responses::responses_by_user(&input.history);
    let holders = inventory::Holders::new(input, &users);
    Report {
        results: vec![
            responses::answered_coupons_are_recorded(input, &users),
            responses::answered_coupons_are_not_cancelled(input, &users),
            responses::no_denial_after_coupon(input, &users),
            voids::only_users_of_voided_coupons_receive_voided(input),
            holders.each_coupon_has_one_holder(),
            holders.each_user_has_one_coupon(),
            responses::responses_agree(&users),
            inventory::issuances_are_recorded_once(input),
            inventory::coupons_were_generated(input, &users),
            responses::holders_sent_requests(input, &users),
            responses::responses_are_valid(input),
            responses::unknown_outcomes(input, &users),
            inventory::postgres_has_planned_coupons(input),
            inventory::redis_has_same_coupons(input),
            consistency::redis_agrees_with_postgres(input),
            consistency::kafka_agrees_with_postgres(input),
            consistency::redis_marks_recorded(input),
            voids::redis_agrees_with_postgres(input),
            consistency::nothing_is_unsent_or_rejected(input),
            consistency::redis_is_verified(input),
            inventory::issued_in_window(input),
            responses::no_not_started_after_coupon(input),
            release::redis_has_planned_release(input),
            release::issued_after_admission(input),
            release::issued_after_release(input),
        ],
    }
}
