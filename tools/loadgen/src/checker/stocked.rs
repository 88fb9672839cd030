//! The stock: exact, each coupon in one hand, and nothing that is not of it.

use std::collections::{BTreeMap, BTreeSet};

use couponry_domain::code::CouponCode;
use couponry_domain::{Discount, UserId};
use indicatif::HumanCount;
use jiff::Timestamp;

use super::answers::Told;
use super::{Class, Evidence, Finding, Holding};

/// Which user holds which coupon, by any account: an answer, Redis, Kafka or Postgres.
pub(super) struct Hands<'a> {
    users: BTreeMap<&'a CouponCode, Accounts<&'a UserId>>,
    coupons: BTreeMap<&'a UserId, Accounts<&'a CouponCode>>,
}

type Accounts<T> = BTreeMap<T, BTreeSet<&'static str>>;

impl<'a> Hands<'a> {
    pub(super) fn new(evidence: &'a Evidence, told: &'a Told<'a>) -> Self {
        let told = told.coupons().map(|(user, (coupon, _))| ("the user", user, coupon));
        let of = |name, holding: &'a Holding| (name, &holding.user, &holding.coupon);
        let redis = evidence.redis.issued.iter().map(|(holding, _)| of("Redis", holding));
        let kafka = evidence.kafka.records.iter().map(|holding| of("Kafka", holding));
        let postgres = evidence.postgres.issuances.iter().map(|holding| of("Postgres", holding));

        let mut hands = Self { users: BTreeMap::new(), coupons: BTreeMap::new() };
        for (account, user, coupon) in told.chain(redis).chain(kafka).chain(postgres) {
            hands.users.entry(coupon).or_default().entry(user).or_default().insert(account);
            hands.coupons.entry(user).or_default().entry(coupon).or_default().insert(account);
        }
        hands
    }

    pub(super) fn one_user_per_coupon(&self) -> Finding {
        let mut finding = Finding::new(
            Class::Duplicated,
            "no coupon in two hands",
            format!("{} coupons in answers, Redis, Kafka, Postgres", HumanCount(self.users.len() as u64)),
        );
        for (coupon, users) in self.users.iter().filter(|(_, users)| users.len() > 1) {
            finding.break_with(|| format!("{coupon} is held by {}", list(users)));
        }
        finding
    }

    pub(super) fn one_coupon_per_user(&self) -> Finding {
        let mut finding = Finding::new(
            Class::Duplicated,
            "no user with two coupons",
            format!("{} users in answers, Redis, Kafka, Postgres", HumanCount(self.coupons.len() as u64)),
        );
        for (user, coupons) in self.coupons.iter().filter(|(_, coupons)| coupons.len() > 1) {
            finding.break_with(|| format!("{user} holds {}", list(coupons)));
        }
        finding
    }
}

fn list<T: std::fmt::Display>(accounts: &Accounts<T>) -> String {
    let named = |(what, by): (&T, &BTreeSet<&str>)| {
        format!("{what} (says {})", by.iter().copied().collect::<Vec<_>>().join(", "))
    };
    accounts.iter().map(named).collect::<Vec<_>>().join(" and ")
}

/// The values that come more than once.
fn repeated<T: Ord>(values: impl Iterator<Item = T>) -> BTreeSet<T> {
    let mut seen = BTreeSet::new();
    let mut twice = BTreeSet::new();
    for value in values {
        if let Some(before) = seen.replace(value) {
            twice.insert(before);
        }
    }
    twice
}

pub(super) fn recorded_once(evidence: &Evidence) -> Finding {
    let issuances = &evidence.postgres.issuances;
    let mut finding = Finding::new(
        Class::Duplicated,
        "every issuance is recorded once",
        format!("{} rows in Postgres", HumanCount(issuances.len() as u64)),
    );
    for user in repeated(issuances.iter().map(|holding| &holding.user)) {
        finding.break_with(|| format!("{user} is recorded more than once"));
    }
    for coupon in repeated(issuances.iter().map(|holding| &holding.coupon)) {
        finding.break_with(|| format!("{coupon} is recorded more than once"));
    }
    finding
}

fn of<'a>(
    name: &'static str,
    Holding { coupon, discount, .. }: &'a Holding,
) -> (&'static str, &'a CouponCode, Discount) {
    (name, coupon, *discount)
}

/// Every coupon that shows up anywhere is of the stock, and worth what the stock says.
pub(super) fn only_stocked(evidence: &Evidence, told: &Told) -> Finding {
    let stock: BTreeMap<&CouponCode, Discount> = evidence.postgres.coupons.iter().map(|(c, d)| (c, *d)).collect();
    let told = told.coupons().map(|(_, (coupon, discount))| ("a user was told", coupon, *discount));
    let queue = evidence.redis.queue.iter().map(|(coupon, discount)| ("Redis queues", coupon, *discount));
    let redis = evidence.redis.issued.iter().map(|(holding, _)| of("Redis issued", holding));
    let kafka = evidence.kafka.records.iter().map(|holding| of("Kafka has", holding));
    let postgres = evidence.postgres.issuances.iter().map(|holding| of("Postgres recorded", holding));

    let mut finding = Finding::new(
        Class::Unexpected,
        "every coupon is of the stock, at its worth",
        format!("{} coupons stocked", HumanCount(stock.len() as u64)),
    );
    for (who, coupon, discount) in told.chain(queue).chain(redis).chain(kafka).chain(postgres) {
        match stock.get(coupon) {
            Some(stocked) if *stocked == discount => {}
            Some(stocked) => finding.break_with(|| format!("{who} {coupon} as {discount}, the stock as {stocked}")),
            None => finding.break_with(|| format!("{who} {coupon}, which was never stocked")),
        }
    }
    finding
}

pub(super) fn as_many_as_planned(evidence: &Evidence) -> Finding {
    let coupons = &evidence.postgres.coupons;
    let mut by_discount: BTreeMap<Discount, u64> = BTreeMap::new();
    for (_, discount) in coupons {
        *by_discount.entry(*discount).or_default() += 1;
    }
    let counts: Vec<_> = by_discount.iter().map(|(d, count)| format!("{d} {}", HumanCount(*count))).collect();
    let mut finding = Finding::new(
        Class::Stock,
        "Postgres has the planned stock",
        format!(
            "{} planned, {} stocked: {}",
            HumanCount(evidence.total),
            HumanCount(coupons.len() as u64),
            counts.join(", ")
        ),
    );
    if coupons.len() as u64 != evidence.total {
        finding.break_with(|| format!("{} coupons instead of {}", coupons.len(), evidence.total));
    }
    for coupon in repeated(coupons.iter().map(|(coupon, _)| coupon)) {
        finding.break_with(|| format!("{coupon} is stocked more than once"));
    }
    if !evidence.expected.is_empty() {
        let discounts: BTreeSet<_> = evidence.expected.keys().chain(by_discount.keys()).collect();
        for discount in discounts {
            let planned = evidence.expected.get(discount).copied().unwrap_or(0);
            let stocked = by_discount.get(discount).copied().unwrap_or(0);
            if planned != stocked {
                finding.break_with(|| format!("{discount}: {stocked} instead of {planned}"));
            }
        }
    }
    finding
}

/// What is available and what is issued in Redis are together the stock, each coupon once.
pub(super) fn same_set_in_redis(evidence: &Evidence) -> Finding {
    let available = evidence.redis.queue.iter().map(|(coupon, _)| coupon);
    // A coupon that was taken back is either available again or out of the game.
    let issued = evidence.redis.issued.iter().filter(|(_, status)| *status != super::Status::Cancelled);
    let issued = issued.map(|(holding, _)| &holding.coupon);
    let mut finding = Finding::new(
        Class::Stock,
        "Redis has the same stock",
        format!(
            "{} available + {} issued = {}",
            HumanCount(available.clone().count() as u64),
            HumanCount(issued.clone().count() as u64),
            HumanCount(evidence.postgres.coupons.len() as u64),
        ),
    );
    for coupon in repeated(available.clone().chain(issued.clone())) {
        finding.break_with(|| format!("{coupon} is in Redis more than once"));
    }
    let in_redis: BTreeSet<_> = available.chain(issued).collect();
    let in_postgres: BTreeSet<_> = evidence.postgres.coupons.iter().map(|(coupon, _)| coupon).collect();
    for coupon in in_postgres.difference(&in_redis) {
        finding.break_with(|| format!("{coupon} is neither available nor issued in Redis"));
    }
    for coupon in in_redis.difference(&in_postgres) {
        finding.break_with(|| format!("{coupon} is in Redis, not in Postgres"));
    }
    finding
}

pub(super) fn inside_the_window(evidence: &Evidence) -> Finding {
    let window = evidence.redis.window;
    let postgres = evidence.postgres.issuances.iter();
    let all: Vec<&Holding> = evidence.redis.issued.iter().map(|(holding, _)| holding).chain(postgres).collect();
    let first = all.iter().map(|holding| holding.issued_at).min();
    let last = all.iter().map(|holding| holding.issued_at).max();
    let mut finding = Finding::new(
        Class::Window,
        "nothing was issued outside of the window",
        format!(
            "from {} until {}; first {}, last {}",
            time(window.start, "loaded"),
            time(window.end, "sold out"),
            time(first, "never"),
            time(last, "never")
        ),
    );
    for Holding { user, coupon, issued_at, .. } in all {
        let early = window.start.is_some_and(|start| *issued_at < start);
        let late = window.end.is_some_and(|end| *issued_at >= end);
        if early || late {
            finding.break_with(|| format!("{user} got {coupon} at {}", time(Some(*issued_at), "")));
        }
    }
    finding
}

/// Milliseconds since the Unix epoch as people read them.
fn time(at: Option<i64>, none: &str) -> String {
    let Some(at) = at else { return none.to_owned() };
    Timestamp::from_millisecond(at).map_or_else(|_| at.to_string(), |at| at.to_string())
}
