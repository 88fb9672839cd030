//! Checks of voided coupons: their users, and Redis.

use std::collections::{BTreeMap, BTreeSet};

use couponry_redis::IssuedStatus;

use super::input::CheckInput;
use super::report::{Category, CheckResult, count};
use crate::outcome::Reason;

/// How much the clocks of the users and of the voids may differ, in microseconds.
const CLOCK_TOLERANCE: i64 = 1_000_000;

/// Voids are only those of administrators.
pub(super) fn only_users_of_voided_coupons_receive_voided(input: &CheckInput) -> CheckResult {
    let mut first = BTreeMap::<&str, i64>::new();
    for void in input.voids.iter().filter(|void| void.may_have_changed()) {
        let first = first.entry(&void.coupon).or_insert(i64::MAX);
        *first = void.invoked.min(*first);
    }
    let coupons: BTreeMap<_, _> =
        input.postgres.issuances.iter().map(|issued| (&issued.user_id, issued.coupon.as_str())).collect();
    let is_voided = |attempt: &&crate::history::Attempt| {
        attempt.response().is_some_and(|response| response.reason == Some(Reason::Voided))
    };
    let responses = input.history.iter().filter(is_voided);
    let mut result = CheckResult::new(
        Category::Lost,
        "only users of voided coupons receive VOIDED",
        format!("{} responses VOIDED, {} voids", count(responses.clone().count()), count(input.voids.len())),
    );
    for attempt in responses {
        let coupon = coupons.get(&attempt.user);
        let voided = coupon.and_then(|coupon| first.get(coupon));
        if voided.is_none_or(|voided| voided - CLOCK_TOLERANCE > attempt.finished) {
            result.add_violation(|| {
                let (user, target) = (&attempt.user, &attempt.target);
                format!("{user} received VOIDED from {target}, but the coupon {coupon:?} was not voided then")
            });
        }
    }
    result
}

pub(super) fn redis_agrees_with_postgres(input: &CheckInput) -> CheckResult {
    let in_redis = input.redis.issued.iter().filter(|entry| entry.status == IssuedStatus::Voided);
    let in_redis: BTreeSet<&str> = in_redis.map(|entry| entry.issued.coupon.as_str()).collect();
    let in_postgres: BTreeSet<&str> = input.postgres.voided.iter().map(String::as_str).collect();
    let mut result = CheckResult::new(
        Category::Consistency,
        "Redis and Postgres agree on every void",
        format!("{} voided in Redis, {} in Postgres", count(in_redis.len()), count(in_postgres.len())),
    );
    for (has, coupons, lacks, others) in
        [("Redis", &in_redis, "Postgres", &in_postgres), ("Postgres", &in_postgres, "Redis", &in_redis)]
    {
        for coupon in coupons.difference(others) {
            result.add_violation(|| format!("{coupon} is voided in {has}, but not in {lacks}"));
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use super::super::tests::{attempt, code, consistent_input, denied, failed_checks};
    use super::*;
    use crate::checkout::void_history::{VoidAttempt, VoidOutcome};

    const RECEIVED: &str = "only users of voided coupons receive VOIDED";
    const AGREE: &str = "Redis and Postgres agree on every void";

    /// The coupon of user 1 is voided, and the user receives this response after some microseconds.
    fn voided(input: &mut CheckInput, outcome: VoidOutcome, after: i64) {
        let coupon = code(1).to_string();
        input.postgres.voided.insert(coupon.clone());
        input.redis.issued[1].status = IssuedStatus::Voided;
        input.voids.push(VoidAttempt { coupon, invoked: 5_000_000, finished: 5_010_000, outcome });
        input.history.push(attempt(1, 2, 5_000_000 + after, denied(Reason::Voided)));
    }

    #[test]
    fn voided_response_without_a_void_is_detected() {
        for outcome in [VoidOutcome::Voided, VoidOutcome::Unknown] {
            let mut input = consistent_input();
            voided(&mut input, outcome, 1);
            let report = check(&input);
            assert!(report.is_ok(), "{report}");
        }
        assert_eq!(failed_checks(|input| voided(input, VoidOutcome::Redeemed, 1)), [RECEIVED]);
        assert_eq!(failed_checks(|input| voided(input, VoidOutcome::Voided, -2_000_000)), [RECEIVED]);
        let failed = failed_checks(|input| input.history.push(attempt(2, 2, 5_000_000, denied(Reason::Voided))));
        assert_eq!(failed, [RECEIVED]);
    }

    #[test]
    fn void_that_one_store_lacks_is_detected() {
        let failed = failed_checks(|input| {
            voided(input, VoidOutcome::Voided, 1);
            input.redis.issued[1].status = IssuedStatus::Completed;
        });
        assert_eq!(failed, [AGREE]);
        let failed = failed_checks(|input| {
            voided(input, VoidOutcome::Voided, 1);
            input.postgres.voided.clear();
        });
        assert_eq!(failed, [AGREE]);
    }
}
