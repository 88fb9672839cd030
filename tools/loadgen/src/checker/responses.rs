//! Checks of the responses which users received.

use std::collections::BTreeMap;

use couponry_domain::code::CouponCode;
use couponry_domain::{Discount, IssuedCoupon, UserId};
use couponry_redis::IssuedStatus;
use indicatif::HumanCount;

use super::input::{CheckInput, DeadLetter};
use super::report::{Category, CheckResult, count};
use crate::history::Attempt;
use crate::outcome::{IssueResponse, Outcome, Reason};

/// The responses to one user.
#[derive(Default)]
pub(super) struct UserAnswers<'a> {
    /// The coupons in responses, with the attempts.
    coupons: Vec<((CouponCode, Discount), &'a Attempt)>,
    /// The attempts answered without a coupon: sold out, or outside of the window.
    denials: Vec<&'a Attempt>,
    successes: u64,
    unknown: u64,
}

pub(super) type ResponsesByUser<'a> = BTreeMap<&'a UserId, UserAnswers<'a>>;

pub(super) fn responses_by_user(history: &[Attempt]) -> ResponsesByUser<'_> {
    let mut users = ResponsesByUser::new();
    for attempt in history {
        let responses = users.entry(&attempt.user).or_default();
        match &attempt.outcome {
            Outcome::Answered(response) => {
                responses.successes += u64::from(response.success);
                match response.coupon() {
                    Ok(Some(coupon)) => responses.coupons.push((coupon, attempt)),
                    Ok(None) => responses.denials.push(attempt),
                    // `responses_are_valid` reports it.
                    Err(_) => responses.unknown += 1,
                }
            }
            Outcome::Rejected(_) => {}
            Outcome::Unknown(_) => responses.unknown += 1,
        }
    }
    users
}

/// The distinct coupons in the responses to each user.
pub(super) fn answered_coupons<'a, 'u>(
    users: &'u ResponsesByUser<'a>,
) -> impl Iterator<Item = (&'a UserId, &'u (CouponCode, Discount))> {
    users.iter().flat_map(|(user, responses)| responses.distinct().map(|coupon| (*user, coupon)))
}

impl UserAnswers<'_> {
    fn distinct(&self) -> impl Iterator<Item = &(CouponCode, Discount)> {
        let coupons = self.coupons.iter().map(|(coupon, _)| coupon);
        let is_first = |at: usize, coupon| self.coupons[..at].iter().all(|(other, _)| other != coupon);
        coupons.enumerate().filter(move |(at, coupon)| is_first(*at, *coupon)).map(|(_, coupon)| coupon)
    }
}

fn by_user(issuances: &[IssuedCoupon]) -> BTreeMap<&UserId, &IssuedCoupon> {
    issuances.iter().map(|issued| (&issued.user_id, issued)).collect()
}

/// What was rejected or cancelled: the dead letters, and what Redis has marked as cancelled.
fn cancelled(input: &CheckInput) -> BTreeMap<(&UserId, &CouponCode), String> {
    let in_redis = input.redis.issued.iter().filter(|entry| entry.status == IssuedStatus::Cancelled);
    let in_redis = in_redis.map(|entry| (&entry.issued, "cancelled in Redis".to_owned()));
    let dead_letters = input.kafka.dead_letters.iter();
    let dead_letters =
        dead_letters.map(|DeadLetter { issued, description }| (issued, format!("dead-lettered: {description}")));
    in_redis.chain(dead_letters).map(|(issued, how)| ((&issued.user_id, &issued.coupon), how)).collect()
}

/// Apart from [`answered_coupons_are_recorded`]: here the system has decided against the user.
pub(super) fn answered_coupons_are_not_cancelled(input: &CheckInput, users: &ResponsesByUser<'_>) -> CheckResult {
    let issuances = by_user(&input.postgres.issuances);
    let cancelled = cancelled(input);
    let mut result = CheckResult::new(
        Category::Cancelled,
        "no coupon in a response is cancelled afterwards",
        format!(
            "{} in responses, {} rejected or cancelled",
            count(answered_coupons(users).count()),
            count(cancelled.len())
        ),
    );
    for (user, (coupon, discount)) in answered_coupons(users) {
        let is_recorded = issuances.get(user).is_some_and(|issued| issued.coupon == *coupon);
        if let Some(how) = cancelled.get(&(user, coupon)).filter(|_| !is_recorded) {
            result.add_violation(|| format!("{user} received {coupon} {discount}, which was {how}"));
        }
    }
    result
}

pub(super) fn answered_coupons_are_recorded(input: &CheckInput, users: &ResponsesByUser<'_>) -> CheckResult {
    let issuances = by_user(&input.postgres.issuances);
    let cancelled = cancelled(input);
    let mut result = CheckResult::new(
        Category::Lost,
        "coupons in responses are recorded in Postgres",
        format!("{} in responses, {} recorded", count(answered_coupons(users).count()), count(issuances.len())),
    );
    for (user, (coupon, discount)) in answered_coupons(users) {
        match issuances.get(user) {
            Some(issued) if issued.coupon == *coupon && issued.discount == *discount => {}
            // Counted by `answered_coupons_are_not_cancelled`.
            _ if cancelled.contains_key(&(user, coupon)) => {}
            Some(IssuedCoupon { coupon: other, discount: of_other, .. }) => result
                .add_violation(|| format!("{user} received {coupon} {discount}, but Postgres has {other} {of_other}")),
            None => result.add_violation(|| format!("{user} received {coupon} {discount}, but it is not recorded")),
        }
    }
    result
}

/// After a response with a coupon, every later request must be answered with it, unless the coupon is voided.
pub(super) fn no_denial_after_coupon(input: &CheckInput, users: &ResponsesByUser<'_>) -> CheckResult {
    let repeated = input.history.iter().filter(|attempt| attempt.request > 1 || attempt.attempt > 1).count();
    let mut result = CheckResult::new(
        Category::Lost,
        "no user is denied a coupon after receiving it",
        format!("{} repeated attempts", count(repeated)),
    );
    for (user, responses) in users {
        let Some((coupon, first)) = responses.coupons.iter().min_by_key(|(_, attempt)| attempt.finished) else {
            continue;
        };
        for denial in responses.denials.iter().filter(|denial| denial.invoked > first.finished) {
            let reason = denial.response().and_then(|response| response.reason);
            // Another check is about these.
            if reason == Some(Reason::Voided) {
                continue;
            }
            result
                .add_violation(|| format!("{user} received {}, and later {reason:?} from {}", coupon.0, denial.target));
        }
    }
    result
}

pub(super) fn responses_agree(users: &ResponsesByUser<'_>) -> CheckResult {
    let with_coupon = users.values().filter(|responses| !responses.coupons.is_empty());
    let responses: usize = users.values().map(|responses| responses.coupons.len()).sum();
    let mut result = CheckResult::new(
        Category::Duplicated,
        "all responses to a user agree",
        format!("{} responses to {} users", count(responses), count(with_coupon.count())),
    );
    for (user, responses) in users {
        let distinct: Vec<_> = responses.distinct().map(|(coupon, discount)| format!("{coupon} {discount}")).collect();
        if distinct.len() > 1 {
            result.add_violation(|| format!("{user} received {}", distinct.join(" and ")));
        } else if responses.successes > 1 {
            result.add_violation(|| format!("{user} received success {} times", HumanCount(responses.successes)));
        }
    }
    result
}

/// No coupon is issued to a user who sent no request, or whose requests were all denied.
pub(super) fn holders_sent_requests(input: &CheckInput, users: &ResponsesByUser<'_>) -> CheckResult {
    let mut result = CheckResult::new(
        Category::Unexpected,
        "every holder sent a request that was not denied",
        format!("{} recorded, {} users", count(input.postgres.issuances.len()), count(users.len())),
    );
    for IssuedCoupon { user_id: user, coupon, .. } in &input.postgres.issuances {
        match users.get(user) {
            None => result.add_violation(|| format!("{user} sent no request, but {coupon} is recorded")),
            Some(responses) if responses.coupons.is_empty() && responses.unknown == 0 => {
                result.add_violation(|| format!("all requests of {user} were denied, but {coupon} is recorded"));
            }
            Some(_) => {}
        }
    }
    result
}

fn responses(input: &CheckInput) -> impl Iterator<Item = (&Attempt, &IssueResponse)> + Clone {
    input.history.iter().filter_map(|attempt| Some((attempt, attempt.response()?)))
}

pub(super) fn responses_are_valid(input: &CheckInput) -> CheckResult {
    let responses = responses(input);
    let mut result = CheckResult::new(
        Category::Unexpected,
        "no response contradicts itself",
        format!("{} responses", count(responses.clone().count())),
    );
    for (attempt, response) in responses {
        if let Err(problem) = response.coupon() {
            result.add_violation(|| format!("{} received {response:?}: {problem}", attempt.user));
        }
    }
    result
}

/// After the first response with a coupon, no later request may be answered with `NOT_STARTED`, unless the clock of
/// Redis, which decides on the window, was set back meanwhile.
pub(super) fn no_not_started_after_coupon(input: &CheckInput) -> CheckResult {
    let first = responses(input).filter(|(_, response)| response.success).map(|(attempt, _)| attempt.finished).min();
    let not_started = responses(input).filter(|(_, response)| response.reason == Some(Reason::NotStarted));
    let mut result = CheckResult::new(
        Category::Window,
        "no user receives NOT_STARTED after the first coupon",
        format!("{} responses NOT_STARTED", count(not_started.clone().count())),
    );
    let is_clock_back = |attempt: &Attempt| {
        input.redis_clock_back.iter().any(|back| attempt.invoked <= *back.end() && *back.start() <= attempt.finished)
    };
    let too_late = |attempt: &Attempt| first.is_some_and(|first| attempt.invoked > first) && !is_clock_back(attempt);
    for (attempt, _) in not_started.filter(|(attempt, _)| too_late(attempt)) {
        let Attempt { user, target, .. } = attempt;
        result.add_violation(|| format!("{user} received NOT_STARTED from {target} after the first coupon"));
    }
    result
}

/// Never fails: shows how many attempts of unknown outcome did issue a coupon.
pub(super) fn unknown_outcomes(input: &CheckInput, users: &ResponsesByUser<'_>) -> CheckResult {
    let issuances = by_user(&input.postgres.issuances);
    let attempts: u64 = users.values().map(|responses| responses.unknown).sum();
    let (retried, not_answered): (Vec<_>, Vec<_>) = users
        .iter()
        .filter(|(_, responses)| responses.unknown > 0)
        .partition(|(_, responses)| !responses.coupons.is_empty());
    let recorded = not_answered.iter().filter(|(user, _)| issuances.contains_key(**user)).count();
    CheckResult::new(
        Category::UnknownOutcome,
        "attempts of unknown outcome may have issued a coupon",
        format!(
            "{} unknown: {} users received their coupon later, {} received none although one is recorded for them",
            HumanCount(attempts),
            count(retried.len()),
            count(recorded)
        ),
    )
}
