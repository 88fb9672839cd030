//! Checks of the voids of administrators.

use super::super::report::{Category, CheckResult, count};
use super::input::{Calls, RedemptionInput};
use super::rows::describe;
use crate::checkout::void_history::{VoidAttempt, VoidOutcome};

fn describe_void(void: &VoidAttempt) -> String {
    let VoidAttempt { coupon, invoked, finished, outcome } = void;
    format!("void of {coupon} from {invoked} to {finished}: {outcome:?}")
}

pub(super) fn confirmed_voids_are_stored(input: &RedemptionInput, calls: &Calls<'_>) -> CheckResult {
    let confirmed = input.voids.iter().filter(|void| void.outcome == VoidOutcome::Voided);
    let stored = input.rows.iter().filter(|row| row.kind == "VOIDED").count();
    let mut result = CheckResult::new(
        Category::Lost,
        "confirmed voids are in Postgres",
        format!("{} confirmed, {} in Postgres", count(confirmed.clone().count()), count(stored)),
    );
    for void in confirmed {
        if calls.history(&void.coupon).last().is_none_or(|last| last.kind != "VOIDED") {
            result.add_violation(|| format!("{}, but it is not voided", describe_void(void)));
        }
    }
    result
}

pub(super) fn voids_were_requested(input: &RedemptionInput, calls: &Calls<'_>) -> CheckResult {
    let mut result = CheckResult::new(
        Category::Unexpected,
        "every void was requested, and not refused",
        format!("{} voids", count(input.voids.len())),
    );
    for row in input.rows.iter().filter(|row| row.kind == "VOIDED") {
        if !calls.voids(&row.coupon).iter().any(|void| void.may_have_changed()) {
            result.add_violation(|| format!("{} was not requested", describe(row)));
        }
    }
    result
}

/// A void is refused only if the coupon is redeemed: all of these coupons have users.
pub(super) fn refused_voids_have_a_reason(input: &RedemptionInput, calls: &Calls<'_>) -> CheckResult {
    let refused = input.voids.iter().filter(|void| !void.may_have_changed());
    let mut result = CheckResult::new(
        Category::Unexpected,
        "a void is refused only if the coupon is redeemed",
        format!("{} refusals", count(refused.clone().count())),
    );
    for void in refused {
        let last = calls.history(&void.coupon).last();
        if void.outcome != VoidOutcome::Redeemed || last.is_none_or(|last| last.kind != "REDEEMED") {
            let last = last.map_or("none".to_owned(), |last| describe(last));
            result.add_violation(|| format!("{}; last use: {last}", describe_void(void)));
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::super::tests::{at, failed_checks, redeem, refused_attempt, void_coupon};
    use super::*;

    const STORED: &str = "confirmed voids are in Postgres";
    const REQUESTED: &str = "every void was requested, and not refused";
    const REFUSED: &str = "a void is refused only if the coupon is redeemed";
    const CAN_FOLLOW: &str = "each use of a coupon can follow the one before it";
    const REASON: &str = "every other refusal has a reason in the history of the coupon";
    const NONE: [&str; 0] = [];

    fn attempt(coupon: &str, outcome: VoidOutcome) -> VoidAttempt {
        VoidAttempt { coupon: coupon.into(), invoked: 20_000_000, finished: 20_010_000, outcome }
    }

    #[test]
    fn lost_void_is_detected() {
        assert_eq!(failed_checks(|input| void_coupon(input, "F", at(10))), NONE);
        let failed = failed_checks(|input| input.voids.push(attempt("E", VoidOutcome::Voided)));
        assert_eq!(failed, [STORED]);
        assert_eq!(failed_checks(|input| input.voids.push(attempt("E", VoidOutcome::Unknown))), NONE);
    }

    #[test]
    fn void_that_was_not_requested_is_detected() {
        let failed = failed_checks(|input| {
            void_coupon(input, "F", at(10));
            input.voids.pop();
        });
        assert_eq!(failed, [REQUESTED]);
    }

    #[test]
    fn refused_void_of_coupon_that_is_not_redeemed_is_detected() {
        let refuse = |coupon: &str, outcome| failed_checks(|input| input.voids.push(attempt(coupon, outcome)));
        assert_eq!(refuse("A", VoidOutcome::Redeemed), NONE);
        assert_eq!(refuse("E", VoidOutcome::Redeemed), [REFUSED]);
        assert_eq!(refuse("A", VoidOutcome::NoUser), [REFUSED]);
    }

    #[test]
    fn use_of_voided_coupon_and_early_refusal_are_detected() {
        let failed = failed_checks(|input| {
            void_coupon(input, "A", at(20));
            input.views.get_mut("A").unwrap()["state"] = "REDEEMED".into();
        });
        assert!(failed.contains(&CAN_FOLLOW), "{failed:?}");
        let refuse = |second| {
            failed_checks(|input| {
                void_coupon(input, "F", at(10));
                input.attempts.push(refused_attempt(second, &redeem("F", "1"), "coupon-voided"));
            })
        };
        assert_eq!(refuse(12), NONE);
        assert_eq!(refuse(8), [REASON], "before the void");
    }
}
