//! Checks that Redis, Kafka and Postgres agree.

use std::collections::BTreeSet;

use couponry_domain::IssuedCoupon;
use couponry_redis::IssuedEntry;
use indicatif::HumanCount;

use super::input::CheckInput;
use super::report::{Category, CheckResult, count};

pub(super) fn redis_agrees_with_postgres(input: &CheckInput) -> CheckResult {
    let issued: BTreeSet<&IssuedCoupon> = input.redis.issued.iter().map(|entry| &entry.issued).collect();
    let recorded: BTreeSet<&IssuedCoupon> = input.postgres.issuances.iter().collect();
    let mut result = CheckResult::new(
        Category::Consistency,
        "Redis and Postgres agree on every issuance",
        format!("{} issued, {} recorded", count(issued.len()), count(recorded.len())),
    );
    compare(&mut result, ("Redis", &issued), ("Postgres", &recorded));
    result
}

pub(super) fn kafka_agrees_with_postgres(input: &CheckInput) -> CheckResult {
    let sent: BTreeSet<&IssuedCoupon> = input.kafka.records.iter().collect();
    let mut recorded: BTreeSet<&IssuedCoupon> = input.postgres.issuances.iter().collect();
    if input.kafka.is_incomplete {
        recorded.retain(|issued| sent.contains(issued));
    }
    let repeated = input.kafka.records.len() - sent.len();
    let mut result = CheckResult::new(
        Category::Consistency,
        "Kafka and Postgres agree on every issuance",
        format!("{} sent, {} sent again, {} recorded", count(sent.len()), count(repeated), count(recorded.len())),
    );
    compare(&mut result, ("Kafka", &sent), ("Postgres", &recorded));
    result
}

type Named<'a> = (&'a str, &'a BTreeSet<&'a IssuedCoupon>);

fn compare(result: &mut CheckResult, a: Named<'_>, b: Named<'_>) {
    for ((has, coupons), (lacks, others)) in [(a, b), (b, a)] {
        for IssuedCoupon { user_id, coupon, discount, issued_at } in coupons.difference(others) {
            result.add_violation(|| {
                format!("{user_id} {coupon} {discount} issued at {issued_at} is in {has}, but not in {lacks}")
            });
        }
    }
}

pub(super) fn redis_marks_recorded(input: &CheckInput) -> CheckResult {
    let mut result = CheckResult::new(
        Category::Consistency,
        "Redis has marked every issuance as recorded",
        format!("{} issued", count(input.redis.issued.len())),
    );
    for IssuedEntry { issued, status } in &input.redis.issued {
        if !status.is_recorded() {
            result.add_violation(|| format!("{} {} is {status:?}", issued.user_id, issued.coupon));
        }
    }
    result
}

pub(super) fn nothing_is_unsent_or_rejected(input: &CheckInput) -> CheckResult {
    let (outbox, dead_letters, undecodable) =
        (HumanCount(input.redis.outbox), &input.kafka.dead_letters, &input.kafka.undecodable);
    let mut result = CheckResult::new(
        Category::Consistency,
        "the outbox is empty, no record is dead-lettered or undecodable",
        format!(
            "{outbox} outbox entries, {} dead-lettered, {} undecodable",
            count(dead_letters.len()),
            count(undecodable.len())
        ),
    );
    if input.redis.outbox > 0 {
        result.add_violation(|| format!("{outbox} outbox entries are not in Kafka"));
    }
    for record in dead_letters {
        result.add_violation(|| format!("dead-lettered record: {}", record.description));
    }
    for record in undecodable {
        result.add_violation(|| format!("undecodable record: {record}"));
    }
    result
}

/// After a restart or a loss of data, Redis issues nothing until the operator has verified it. Without that, no user
/// would be served any more.
pub(super) fn redis_is_verified(input: &CheckInput) -> CheckResult {
    let mut result = CheckResult::new(Category::Consistency, "Redis is verified", String::new());
    if !input.redis.is_verified {
        result.add_violation(|| "Redis is not verified, so it issues nothing".to_owned());
    }
    result
}
