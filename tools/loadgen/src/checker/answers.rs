//! Checks of the answers which users received.

use std::collections::BTreeMap;

use couponry_domain::code::CouponCode;
use couponry_domain::{Discount, IssuedCoupon, UserId};
use couponry_redis::IssuedStatus;
use indicatif::HumanCount;

use super::input::{CheckInput, DeadLetter};
use super::report::{Category, CheckResult, count};
use crate::history::Attempt;
use crate::outcome::{Answer, Outcome, Reason};

/// The answers to one user.
#[derive(Default)]
pub(super) struct UserAnswers<'a> {
    /// The coupons in answers, with the attempts.
    coupons: Vec<((CouponCode, Discount), &'a Attempt)>,
    /// The attempts answered without a coupon: sold out, or outside of the window.
    denials: Vec<&'a Attempt>,
    successes: u64,
    unknown: u64,
}

pub(super) type AnswersByUser<'a> = BTreeMap<&'a UserId, UserAnswers<'a>>;

pub(super) fn answers_by_user(history: &[Attempt]) -> AnswersByUser<'_> {
    let mut users = AnswersByUser::new();
    for attempt in history {
        let answers = users.entry(&attempt.user).or_default();
        match &attempt.outcome {
            Outcome::Answered(answer) => {
                answers.successes += u64::from(answer.success);
                match answer.coupon() {
                    Ok(Some(coupon)) => answers.coupons.push((coupon, attempt)),
                    Ok(None) => answers.denials.push(attempt),
                    // `answers_are_valid` reports it.
                    Err(_) => answers.unknown += 1,
                }
            }
            Outcome::Rejected(_) => {}
            Outcome::Unknown(_) => answers.unknown += 1,
        }
    }
    users
}

/// The distinct coupons in the answers to each user.
pub(super) fn answered_coupons<'a, 'u>(
    users: &'u AnswersByUser<'a>,
) -> impl Iterator<Item = (&'a UserId, &'u (CouponCode, Discount))> {
    users.iter().flat_map(|(user, answers)| answers.distinct().map(|coupon| (*user, coupon)))
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
pub(super) fn answered_coupons_are_not_cancelled(input: &CheckInput, users: &AnswersByUser<'_>) -> CheckResult {
    let issuances = by_user(&input.postgres.issuances);
    let cancelled = cancelled(input);
    let mut result = CheckResult::new(
        Category::Cancelled,
        "no coupon in an answer is cancelled afterwards",
        format!(
            "{} in answers, {} rejected or cancelled",
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

pub(super) fn answered_coupons_are_recorded(input: &CheckInput, users: &AnswersByUser<'_>) -> CheckResult {
    let issuances = by_user(&input.postgres.issuances);
    let cancelled = cancelled(input);
    let mut result = CheckResult::new(
        Category::Lost,
        "coupons in answers are recorded in Postgres",
        format!("{} in answers, {} recorded", count(answered_coupons(users).count()), count(issuances.len())),
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

/// After an answer with a coupon, every later request must be answered with it.
pub(super) fn no_denial_after_coupon(input: &CheckInput, users: &AnswersByUser<'_>) -> CheckResult {
    let repeated = input.history.iter().filter(|attempt| attempt.request > 1 || attempt.attempt > 1).count();
    let mut result = CheckResult::new(
        Category::Lost,
        "no user is denied a coupon after receiving it",
        format!("{} repeated attempts", count(repeated)),
    );
    for (user, answers) in users {
        let Some((coupon, first)) = answers.coupons.iter().min_by_key(|(_, attempt)| attempt.finished) else {
            continue;
        };
        for denial in answers.denials.iter().filter(|denial| denial.invoked > first.finished) {
            let reason = denial.answer().and_then(|answer| answer.reason);
            result
                .add_violation(|| format!("{user} received {}, and later {reason:?} from {}", coupon.0, denial.target));
        }
    }
    result
}

pub(super) fn answers_agree(users: &AnswersByUser<'_>) -> CheckResult {
    let with_coupon = users.values().filter(|answers| !answers.coupons.is_empty());
    let answers: usize = users.values().map(|answers| answers.coupons.len()).sum();
    let mut result = CheckResult::new(
        Category::Duplicated,
        "all answers to a user agree",
        format!("{} answers to {} users", count(answers), count(with_coupon.count())),
    );
    for (user, answers) in users {
        let distinct: Vec<_> = answers.distinct().map(|(coupon, discount)| format!("{coupon} {discount}")).collect();
        if distinct.len() > 1 {
            result.add_violation(|| format!("{user} received {}", distinct.join(" and ")));
        } else if answers.successes > 1 {
            result.add_violation(|| format!("{user} received success {} times", HumanCount(answers.successes)));
        }
    }
    result
}

/// No coupon is issued to a user who sent no request, or whose requests were all denied.
pub(super) fn holders_sent_requests(input: &CheckInput, users: &AnswersByUser<'_>) -> CheckResult {
    let mut result = CheckResult::new(
        Category::Unexpected,
        "every holder sent a request that was not denied",
        format!("{} recorded, {} users", count(input.postgres.issuances.len()), count(users.len())),
    );
    for IssuedCoupon { user_id: user, coupon, .. } in &input.postgres.issuances {
        match users.get(user) {
            None => result.add_violation(|| format!("{user} sent no request, but {coupon} is recorded")),
            Some(answers) if answers.coupons.is_empty() && answers.unknown == 0 => {
                result.add_violation(|| format!("all requests of {user} were denied, but {coupon} is recorded"));
            }
            Some(_) => {}
        }
    }
    result
}

fn answers(input: &CheckInput) -> impl Iterator<Item = (&Attempt, &Answer)> + Clone {
    input.history.iter().filter_map(|attempt| Some((attempt, attempt.answer()?)))
}

pub(super) fn answers_are_valid(input: &CheckInput) -> CheckResult {
    let answers = answers(input);
    let mut result = CheckResult::new(
        Category::Unexpected,
        "no answer contradicts itself",
        format!("{} answers", count(answers.clone().count())),
    );
    for (attempt, answer) in answers {
        if let Err(problem) = answer.coupon() {
            result.add_violation(|| format!("{} received {answer:?}: {problem}", attempt.user));
        }
    }
    result
}

/// After the first answer with a coupon, no later request may be answered with `NOT_STARTED`.
pub(super) fn no_not_started_after_coupon(input: &CheckInput) -> CheckResult {
    let first = answers(input).filter(|(_, answer)| answer.success).map(|(attempt, _)| attempt.finished).min();
    let not_started = answers(input).filter(|(_, answer)| answer.reason == Some(Reason::NotStarted));
    let mut result = CheckResult::new(
        Category::Window,
        "no user receives NOT_STARTED after the first coupon",
        format!("{} answers NOT_STARTED", count(not_started.clone().count())),
    );
    for (attempt, _) in not_started.filter(|(attempt, _)| first.is_some_and(|first| attempt.invoked > first)) {
        let Attempt { user, target, .. } = attempt;
        result.add_violation(|| format!("{user} received NOT_STARTED from {target} after the first coupon"));
    }
    result
}

/// Never fails: shows how many attempts of unknown outcome did issue a coupon.
pub(super) fn unknown_outcomes(input: &CheckInput, users: &AnswersByUser<'_>) -> CheckResult {
    let issuances = by_user(&input.postgres.issuances);
    let attempts: u64 = users.values().map(|answers| answers.unknown).sum();
    let (retried, not_answered): (Vec<_>, Vec<_>) =
        users.iter().filter(|(_, answers)| answers.unknown > 0).partition(|(_, answers)| !answers.coupons.is_empty());
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
