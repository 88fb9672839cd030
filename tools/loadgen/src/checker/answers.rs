//! What the users were told, and whether it stayed true.

use std::collections::BTreeMap;

use couponry_domain::code::CouponCode;
use couponry_domain::{Discount, UserId};
use indicatif::HumanCount;

use super::{Class, Evidence, Finding, Holding};
use crate::history::{Answer, Attempt, Outcome, Reason};

/// What one user was told in all.
#[derive(Default)]
pub(super) struct Hearing<'a> {
    /// The coupons that answers named, with the attempts that did.
    coupons: Vec<((CouponCode, Discount), &'a Attempt)>,
    /// Answers without a coupon: sold out, outside of the window.
    denials: Vec<&'a Attempt>,
    successes: u64,
    unknown: u64,
}

/// What everybody was told.
pub(super) struct Told<'a> {
    pub(super) users: BTreeMap<&'a UserId, Hearing<'a>>,
}

impl<'a> Told<'a> {
    pub(super) fn new(history: &'a [Attempt]) -> Self {
        let mut users: BTreeMap<&UserId, Hearing> = BTreeMap::new();
        for attempt in history {
            let hearing = users.entry(&attempt.user).or_default();
            match &attempt.outcome {
                Outcome::Ok(answer) => {
                    hearing.successes += u64::from(answer.success);
                    match answer.coupon() {
                        Ok(Some(coupon)) => hearing.coupons.push((coupon, attempt)),
                        Ok(None) => hearing.denials.push(attempt),
                        // Another finding says so; it may have happened or not.
                        Err(_) => hearing.unknown += 1,
                    }
                }
                Outcome::Refused(_) => {}
                Outcome::Unknown(_) => hearing.unknown += 1,
            }
        }
        Self { users }
    }

    /// Every different coupon that a user was told to hold.
    pub(super) fn coupons(&self) -> impl Iterator<Item = (&'a UserId, &(CouponCode, Discount))> {
        self.users.iter().flat_map(|(user, hearing)| hearing.different().map(|coupon| (*user, coupon)))
    }
}

impl Hearing<'_> {
    fn different(&self) -> impl Iterator<Item = &(CouponCode, Discount)> {
        let before = |at: usize| self.coupons[..at].iter().map(|(coupon, _)| coupon);
        let new = move |(at, (coupon, _)): (usize, &'_ (_, _))| before(at).all(|other| other != coupon);
        self.coupons.iter().enumerate().filter(move |(at, told)| new((*at, told))).map(|(_, (coupon, _))| coupon)
    }
}

fn by_user(holdings: &[Holding]) -> BTreeMap<&UserId, &Holding> {
    holdings.iter().map(|holding| (&holding.user, holding)).collect()
}

pub(super) fn recorded(evidence: &Evidence, told: &Told) -> Finding {
    let issuances = by_user(&evidence.postgres.issuances);
    let coupons = told.coupons().count() as u64;
    let mut finding = Finding::new(
        Class::Lost,
        "who was told a coupon has it in Postgres",
        format!("{} told, {} recorded", HumanCount(coupons), HumanCount(issuances.len() as u64)),
    );
    for (user, (coupon, discount)) in told.coupons() {
        match issuances.get(user) {
            Some(holding) if holding.coupon == *coupon && holding.discount == *discount => {}
            Some(Holding { coupon: other, discount: worth, .. }) => {
                finding.break_with(|| format!("{user} was told {coupon} {discount}, Postgres has {other} {worth}"));
            }
            None => finding.break_with(|| format!("{user} was told {coupon} {discount}, Postgres has nothing")),
        }
    }
    finding
}

/// Once an answer has named the user's coupon, every request sent after it must hear of the coupon too.
pub(super) fn kept(evidence: &Evidence, told: &Told) -> Finding {
    let repeated = evidence.history.iter().filter(|attempt| attempt.ask > 1 || attempt.attempt > 1).count() as u64;
    let mut finding = Finding::new(
        Class::Lost,
        "a coupon once told is told again",
        format!("{} repeated requests", HumanCount(repeated)),
    );
    for (user, hearing) in &told.users {
        let Some((coupon, first)) = hearing.coupons.iter().min_by_key(|(_, attempt)| attempt.finished) else {
            continue;
        };
        for denial in hearing.denials.iter().filter(|denial| denial.invoked > first.finished) {
            let reason = denial.answer().and_then(|answer| answer.reason);
            finding.break_with(|| format!("{user} was told {}, and later {reason:?} by {}", coupon.0, denial.target));
        }
    }
    finding
}

pub(super) fn same_answer(told: &Told) -> Finding {
    let answers: u64 = told.users.values().map(|hearing| hearing.coupons.len() as u64).sum();
    let users = told.users.values().filter(|hearing| !hearing.coupons.is_empty()).count() as u64;
    let mut finding = Finding::new(
        Class::Duplicated,
        "a user hears of one coupon, and wins once",
        format!("{} answers to {} users", HumanCount(answers), HumanCount(users)),
    );
    for (user, hearing) in &told.users {
        let different: Vec<_> = hearing.different().map(|(coupon, discount)| format!("{coupon} {discount}")).collect();
        if different.len() > 1 {
            finding.break_with(|| format!("{user} was told {}", different.join(" and ")));
        } else if hearing.successes > 1 {
            finding.break_with(|| format!("{user} was told {} times to have got a coupon now", hearing.successes));
        }
    }
    finding
}

/// A coupon goes to nobody who did not ask, and to nobody who got nothing but clear refusals.
pub(super) fn only_whom_it_was_given(evidence: &Evidence, told: &Told) -> Finding {
    let mut finding = Finding::new(
        Class::Unexpected,
        "no coupon for who never asked or was denied",
        format!(
            "{} recorded, {} users asked",
            HumanCount(evidence.postgres.issuances.len() as u64),
            HumanCount(told.users.len() as u64)
        ),
    );
    for Holding { user, coupon, .. } in &evidence.postgres.issuances {
        match told.users.get(user) {
            None => finding.break_with(|| format!("{user} never asked, Postgres has {coupon}")),
            Some(hearing) if hearing.coupons.is_empty() && hearing.unknown == 0 => {
                finding.break_with(|| format!("{user} was never told a coupon, Postgres has {coupon}"));
            }
            Some(_) => {}
        }
    }
    finding
}

/// Every request that was answered, with its answer.
fn answers(evidence: &Evidence) -> impl Iterator<Item = (&Attempt, &Answer)> + Clone {
    evidence.history.iter().filter_map(|attempt| Some((attempt, attempt.answer()?)))
}

pub(super) fn well_formed(evidence: &Evidence) -> Finding {
    let answers = answers(evidence);
    let mut finding = Finding::new(
        Class::Unexpected,
        "no answer contradicts itself",
        format!("{} answers", HumanCount(answers.clone().count() as u64)),
    );
    for (attempt, answer) in answers {
        if let Err(problem) = answer.coupon() {
            finding.break_with(|| format!("{} got {answer:?}: {problem}", attempt.user));
        }
    }
    finding
}

/// Once somebody has got a coupon, nobody who asks after that is told that the event has not started.
pub(super) fn begun_for_all(evidence: &Evidence) -> Finding {
    let begun = answers(evidence).filter(|(_, answer)| answer.success).map(|(attempt, _)| attempt.finished).min();
    let told = answers(evidence).filter(|(_, answer)| answer.reason == Some(Reason::NotStarted));
    let mut finding = Finding::new(
        Class::Window,
        "what has begun has begun for everyone",
        format!("{} were told that it had not", HumanCount(told.clone().count() as u64)),
    );
    for (attempt, _) in told.filter(|(attempt, _)| begun.is_some_and(|begun| attempt.invoked > begun)) {
        finding.break_with(|| format!("{} was told so by {} after others had coupons", attempt.user, attempt.target));
    }
    finding
}

/// No promise of its own: says how much of what the clients did not know turned out to be done.
pub(super) fn recovered(evidence: &Evidence, told: &Told) -> Finding {
    let issuances = by_user(&evidence.postgres.issuances);
    let unknown: u64 = told.users.values().map(|hearing| hearing.unknown).sum();
    let unsure = |hearing: &Hearing| hearing.unknown > 0;
    let found_out = told.users.values().filter(|h| unsure(h) && !h.coupons.is_empty()).count() as u64;
    let never_heard = told.users.iter().filter(|(_, h)| unsure(h) && h.coupons.is_empty());
    let recorded = never_heard.filter(|(user, _)| issuances.contains_key(*user)).count() as u64;
    Finding::new(
        Class::Recovered,
        "what a client did not know may be either",
        format!(
            "{} unknown: {} users heard when asking again, {} have a coupon unheard",
            HumanCount(unknown),
            HumanCount(found_out),
            HumanCount(recorded)
        ),
    )
}
