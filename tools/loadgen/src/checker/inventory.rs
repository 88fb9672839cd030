//! Checks of the coupons: exact stock, one holder for each, no coupon that was not generated.

use std::collections::{BTreeMap, BTreeSet};

use couponry_domain::code::CouponCode;
use couponry_domain::{Discount, IssuedCoupon, UserId};
use couponry_redis::IssuedStatus;
use indicatif::HumanCount;
use jiff::Timestamp;

use super::input::CheckInput;
use super::report::{Category, CheckResult, count};
use super::responses::{ResponsesByUser, answered_coupons};

/// The holders of coupons, according to responses, Redis, Kafka and Postgres.
pub(super) struct Holders<'a> {
    users: BTreeMap<&'a CouponCode, Sources<&'a UserId>>,
    coupons: BTreeMap<&'a UserId, Sources<&'a CouponCode>>,
}

/// Values, each with the sources which have it.
type Sources<T> = BTreeMap<T, BTreeSet<&'static str>>;

impl<'a> Holders<'a> {
    pub(super) fn new(input: &'a CheckInput, users: &'a ResponsesByUser<'a>) -> Self {
        let responses = answered_coupons(users).map(|(user, (coupon, _))| ("a response", user, coupon));
        let stores = issued(input).map(|(store, issued)| (store, &issued.user_id, &issued.coupon));
        let mut holders = Self { users: BTreeMap::new(), coupons: BTreeMap::new() };
        for (source, user, coupon) in responses.chain(stores) {
            holders.users.entry(coupon).or_default().entry(user).or_default().insert(source);
            holders.coupons.entry(user).or_default().entry(coupon).or_default().insert(source);
        }
        holders
    }

    pub(super) fn each_coupon_has_one_holder(&self) -> CheckResult {
        let mut result = CheckResult::new(
            Category::Duplicated,
            "each coupon has one holder",
            format!("{} coupons in responses, Redis, Kafka, Postgres", count(self.users.len())),
        );
        for (coupon, users) in self.users.iter().filter(|(_, users)| users.len() > 1) {
            result.add_violation(|| format!("{coupon} belongs to {}", list(users)));
        }
        result
    }

    pub(super) fn each_user_has_one_coupon(&self) -> CheckResult {
        let mut result = CheckResult::new(
            Category::Duplicated,
            "each user has one coupon",
            format!("{} users in responses, Redis, Kafka, Postgres", count(self.coupons.len())),
        );
        for (user, coupons) in self.coupons.iter().filter(|(_, coupons)| coupons.len() > 1) {
            result.add_violation(|| format!("{user} has {}", list(coupons)));
        }
        result
    }
}

/// The issued coupons of all stores.
fn issued(input: &CheckInput) -> impl Iterator<Item = (&'static str, &IssuedCoupon)> {
    let redis = input.redis.issued.iter().map(|entry| ("Redis", &entry.issued));
    let kafka = input.kafka.records.iter().map(|issued| ("Kafka", issued));
    redis.chain(kafka).chain(input.postgres.issuances.iter().map(|issued| ("Postgres", issued)))
}

fn list<T: std::fmt::Display>(sources: &Sources<T>) -> String {
    let named = |(value, sources): (&T, &BTreeSet<&str>)| {
        format!("{value} (in {})", sources.iter().copied().collect::<Vec<_>>().join(", "))
    };
    sources.iter().map(named).collect::<Vec<_>>().join(" and ")
}

fn duplicates<T: Ord>(values: impl Iterator<Item = T>) -> BTreeSet<T> {
    let mut seen = BTreeSet::new();
    values.filter_map(|value| seen.replace(value)).collect()
}

pub(super) fn issuances_are_recorded_once(input: &CheckInput) -> CheckResult {
    let issuances = &input.postgres.issuances;
    let mut result = CheckResult::new(
        Category::Duplicated,
        "every issuance is recorded once",
        format!("{} rows in Postgres", count(issuances.len())),
    );
    for user in duplicates(issuances.iter().map(|issued| &issued.user_id)) {
        result.add_violation(|| format!("{user} is recorded more than once"));
    }
    for coupon in duplicates(issuances.iter().map(|issued| &issued.coupon)) {
        result.add_violation(|| format!("{coupon} is recorded more than once"));
    }
    result
}

/// Every coupon in responses and stores was generated, with the same discount.
pub(super) fn coupons_were_generated(input: &CheckInput, users: &ResponsesByUser<'_>) -> CheckResult {
    let generated: BTreeMap<&CouponCode, Discount> = input.postgres.coupons.iter().map(|(c, d)| (c, *d)).collect();
    let responses = answered_coupons(users).map(|(_, (coupon, discount))| ("a response", coupon, *discount));
    let queue = input.redis.queue.iter().map(|(coupon, discount)| ("the queue", coupon, *discount));
    let issued = issued(input).map(|(store, issued)| (store, &issued.coupon, issued.discount));

    let mut result = CheckResult::new(
        Category::Unexpected,
        "every coupon was generated, with the same discount",
        format!("{} coupons generated", count(generated.len())),
    );
    for (source, coupon, discount) in responses.chain(queue).chain(issued) {
        match generated.get(coupon) {
            Some(expected) if *expected == discount => {}
            Some(expected) => {
                result.add_violation(|| format!("{coupon} is {discount} in {source}, but was generated as {expected}"));
            }
            None => result.add_violation(|| format!("{coupon} is in {source}, but was not generated")),
        }
    }
    result
}

pub(super) fn postgres_has_planned_coupons(input: &CheckInput) -> CheckResult {
    let coupons = &input.postgres.coupons;
    let mut by_discount: BTreeMap<Discount, u64> = BTreeMap::new();
    for (_, discount) in coupons {
        *by_discount.entry(*discount).or_default() += 1;
    }
    let counts: Vec<_> = by_discount.iter().map(|(d, count)| format!("{d} {}", HumanCount(*count))).collect();
    let (planned, generated) = (HumanCount(input.total), count(coupons.len()));
    let mut result = CheckResult::new(
        Category::Stock,
        "Postgres has the planned coupons",
        format!("{planned} planned, {generated} generated: {}", counts.join(", ")),
    );
    if coupons.len() as u64 != input.total {
        result.add_violation(|| format!("{generated} coupons were generated instead of {planned}"));
    }
    for coupon in duplicates(coupons.iter().map(|(coupon, _)| coupon)) {
        result.add_violation(|| format!("{coupon} was generated more than once"));
    }
    if !input.expected.is_empty() {
        let discounts: BTreeSet<_> = input.expected.keys().chain(by_discount.keys()).collect();
        for discount in discounts {
            let planned = input.expected.get(discount).copied().unwrap_or(0);
            let generated = by_discount.get(discount).copied().unwrap_or(0);
            if planned != generated {
                let (planned, generated) = (HumanCount(planned), HumanCount(generated));
                result.add_violation(|| format!("{generated} coupons of {discount} instead of {planned}"));
            }
        }
    }
    result
}

/// The available and the issued coupons in Redis are the generated coupons, each exactly once.
pub(super) fn redis_has_same_coupons(input: &CheckInput) -> CheckResult {
    let available = input.redis.queue.iter().map(|(coupon, _)| coupon);
    // The coupon of a cancelled issuance is available again, or withheld.
    let issued = input.redis.issued.iter().filter(|entry| entry.status != IssuedStatus::Cancelled);
    let issued = issued.map(|entry| &entry.issued.coupon);
    let in_redis: BTreeSet<_> = available.clone().chain(issued.clone()).collect();
    let generated: BTreeSet<_> = input.postgres.coupons.iter().map(|(coupon, _)| coupon).collect();
    let missing: Vec<_> = generated.difference(&in_redis).collect();
    let mut result = CheckResult::new(
        Category::Stock,
        "Redis has the same coupons",
        format!(
            "{} available + {} issued = {}, {} missing",
            count(available.clone().count()),
            count(issued.clone().count()),
            count(available.clone().count() + issued.clone().count()),
            count(missing.len()),
        ),
    );
    for coupon in duplicates(available.chain(issued)) {
        result.add_violation(|| format!("{coupon} is in Redis more than once"));
    }
    for coupon in missing {
        result.add_violation(|| format!("{coupon} is missing in Redis"));
    }
    for coupon in in_redis.difference(&generated) {
        result.add_violation(|| format!("{coupon} is in Redis, but was not generated"));
    }
    result
}

pub(super) fn issued_in_window(input: &CheckInput) -> CheckResult {
    let window = input.redis.window;
    let redis = input.redis.issued.iter().map(|entry| &entry.issued);
    let all: Vec<&IssuedCoupon> = redis.chain(&input.postgres.issuances).collect();
    let first = all.iter().map(|issued| issued.issued_at).min();
    let last = all.iter().map(|issued| issued.issued_at).max();
    let mut result = CheckResult::new(
        Category::Window,
        "no coupon is issued outside of the window",
        format!(
            "from {} until {}; first {}, last {}",
            time(window.start, "loaded"),
            time(window.end, "sold out"),
            time(first, "none"),
            time(last, "none")
        ),
    );
    for IssuedCoupon { user_id, coupon, issued_at, .. } in all {
        let early = window.start.is_some_and(|start| *issued_at < start);
        let late = window.end.is_some_and(|end| *issued_at >= end);
        if early || late {
            result.add_violation(|| format!("{coupon} was issued to {user_id} at {}", time(Some(*issued_at), "")));
        }
    }
    result
}

/// Formats milliseconds since the Unix epoch.
fn time(at: Option<i64>, default: &str) -> String {
    let Some(at) = at else { return default.to_owned() };
    Timestamp::from_millisecond(at).map_or_else(|_| at.to_string(), |at| at.to_string())
}
