//! Checks of the admission and of the drops.

use std::collections::BTreeMap;

use couponry_domain::{IssuedCoupon, UserId};
use indicatif::HumanCount;
use jiff::Timestamp;

use super::input::CheckInput;
use super::report::{Category, CheckResult, count};
use crate::outcome::Outcome;

/// Otherwise the other checks would compare with the wrong times.
pub(super) fn redis_has_planned_release(input: &CheckInput) -> CheckResult {
    let (planned, release) = (&input.release, &input.redis.release);
    let ramp = planned.ramp_seconds.map_or_else(|| "no ramp".to_owned(), |seconds| format!("a ramp of {seconds} s"));
    let drops = planned.drops.pending(i64::MIN).count();
    let mut result = CheckResult::new(
        Category::Window,
        "Redis has the planned admission and drops",
        format!("{ramp}, {} drops", HumanCount(drops as u64)),
    );
    if planned != release {
        result.add_violation(|| format!("Redis has {release:?} instead of {planned:?}"));
    }
    if release.ramp_seconds.is_some() != input.redis.admission_key.is_some() {
        result.add_violation(|| "Redis has only one of the ramp and the key of the tickets".to_owned());
    }
    result
}

/// No user has a coupon from before the user was admitted: neither by the ticket, nor by the responses to the user,
/// which all have the same time.
pub(super) fn issued_after_admission(input: &CheckInput) -> CheckResult {
    let mut told: BTreeMap<&UserId, Timestamp> = BTreeMap::new();
    let mut contradictions = Vec::new();
    for attempt in &input.history {
        let Outcome::Answered(response) = &attempt.outcome else { continue };
        let Some(at) = response.admitted_at else { continue };
        let first = *told.entry(&attempt.user).or_insert(at);
        if first != at {
            contradictions.push(format!("{} received {first} and {at}", attempt.user));
        }
    }
    let mut result = CheckResult::new(
        Category::Window,
        "no coupon is issued before its user is admitted",
        format!("{} users received WAIT", count(told.len())),
    );
    for contradiction in contradictions {
        result.add_violation(|| contradiction);
    }
    let ticket = input.redis.admission_key.as_ref().zip(input.redis.window.start).zip(input.release.ramp_seconds);
    for IssuedCoupon { user_id, coupon, issued_at, .. } in &input.postgres.issuances {
        let by_ticket = ticket.map(|((key, start), ramp)| key.admitted_at(start, ramp, user_id));
        let by_response = told.get(user_id).map(|at| at.as_millisecond());
        if by_ticket.is_some_and(|at| *issued_at < at) || by_response.is_some_and(|at| *issued_at < at) {
            result.add_violation(|| format!("{coupon} was issued to {user_id} at {issued_at}, before the admission"));
        }
        if let (Some(by_ticket), Some(by_response)) = (by_ticket, by_response)
            && by_ticket != by_response
        {
            result.add_violation(|| format!("{user_id} received {by_response} instead of {by_ticket}"));
        }
    }
    result
}

/// At no time are more coupons issued than were released until then.
pub(super) fn issued_after_release(input: &CheckInput) -> CheckResult {
    let drops = &input.release.drops;
    let mut result = CheckResult::new(
        Category::Window,
        "no more coupons are issued than are released",
        format!("{} coupons in drops", HumanCount(drops.held_back(i64::MIN))),
    );
    for drop in drops.pending(i64::MIN) {
        let released = input.total.saturating_sub(drops.held_back(drop.at - 1));
        let before = input.postgres.issuances.iter().filter(|issued| issued.issued_at < drop.at).count() as u64;
        if before > released {
            result.add_violation(|| {
                format!("{} of {} coupons were issued before {}", HumanCount(before), HumanCount(released), drop.at)
            });
        }
    }
    result
}
