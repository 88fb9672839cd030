//! Whether Redis, Kafka and Postgres tell one story.

use std::collections::BTreeSet;

use indicatif::HumanCount;

use super::{Class, Evidence, Finding, Holding, Status};

pub(super) fn redis_and_postgres(evidence: &Evidence) -> Finding {
    let issued: BTreeSet<&Holding> = evidence.redis.issued.iter().map(|(holding, _)| holding).collect();
    let recorded: BTreeSet<&Holding> = evidence.postgres.issuances.iter().collect();
    let mut finding = Finding::new(
        Class::Agreement,
        "Redis and Postgres agree on every user",
        format!("{} issued, {} recorded", HumanCount(issued.len() as u64), HumanCount(recorded.len() as u64)),
    );
    differ(&mut finding, ("Redis", &issued), ("Postgres", &recorded));
    finding
}

pub(super) fn kafka_and_postgres(evidence: &Evidence) -> Finding {
    let sent: BTreeSet<&Holding> = evidence.kafka.records.iter().collect();
    let recorded: BTreeSet<&Holding> = evidence.postgres.issuances.iter().collect();
    let repeated = evidence.kafka.records.len() - sent.len();
    let mut finding = Finding::new(
        Class::Agreement,
        "Kafka and Postgres agree on every user",
        format!(
            "{} sent ({} of them again), {} recorded",
            HumanCount(evidence.kafka.records.len() as u64),
            HumanCount(repeated as u64),
            HumanCount(recorded.len() as u64)
        ),
    );
    differ(&mut finding, ("Kafka", &sent), ("Postgres", &recorded));
    finding
}

fn differ(finding: &mut Finding, a: (&str, &BTreeSet<&Holding>), b: (&str, &BTreeSet<&Holding>)) {
    for ((has, holdings), (lacks, others)) in [(a, b), (b, a)] {
        for Holding { user, coupon, discount, issued_at } in holdings.difference(others) {
            finding.break_with(|| format!("{has} has {user} {coupon} {discount} at {issued_at}, {lacks} has not"));
        }
    }
}

pub(super) fn completed(evidence: &Evidence) -> Finding {
    let mut finding = Finding::new(
        Class::Agreement,
        "Redis knows that everything is recorded",
        format!("{} issued", HumanCount(evidence.redis.issued.len() as u64)),
    );
    for (holding, status) in evidence.redis.issued.iter().filter(|(_, status)| *status != Status::Completed) {
        finding.break_with(|| format!("{} {} is {status:?}", holding.user, holding.coupon));
    }
    finding
}

pub(super) fn nothing_left_over(evidence: &Evidence) -> Finding {
    let outbox = evidence.redis.outbox;
    let dead = &evidence.kafka.dead_letters;
    let unreadable = &evidence.kafka.unreadable;
    let mut finding = Finding::new(
        Class::Agreement,
        "nothing is stuck or dead on the way",
        format!("outbox {outbox}, dead letters {}, unreadable {}", dead.len(), unreadable.len()),
    );
    if outbox > 0 {
        finding.break_with(|| format!("{outbox} batches of issued coupons are not yet in Kafka"));
    }
    for letter in dead {
        finding.break_with(|| format!("dead letter: {letter}"));
    }
    for record in unreadable {
        finding.break_with(|| format!("unreadable: {record}"));
    }
    finding
}
