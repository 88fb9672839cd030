//! Holds what users were told against what the stores hold.
//!
//! The classes are those of Jepsen's set test: *lost* (told, not recorded), *duplicated*, *unexpected* (recorded or told,
//! never stocked) and *recovered* (the client did not know, but it was recorded: that is no error). To them come the
//! exact stock, the agreement of the stores, and the window.
//!
//! Pure: [`Evidence`] in, [`Report`] out. The evidence must be taken when the system is at rest, and its history must
//! hold every request of the event.

mod agreement;
mod answers;
mod report;
mod stocked;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use couponry_domain::code::CouponCode;
use couponry_domain::{Discount, UserId, Window};

use crate::history::Attempt;

pub use report::{Class, Finding, Report};

/// One coupon in one user's hands, as a store has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holding {
    /// Whose it is.
    pub user: UserId,
    /// Which it is.
    pub coupon: CouponCode,
    /// What it is worth.
    pub discount: Discount,
    /// When Redis gave it, in milliseconds since the Unix epoch.
    pub issued_at: i64,
}

/// How far a holding in Redis is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Not yet known to be in Postgres.
    Pending,
    /// In Postgres.
    Completed,
    /// Taken back.
    Cancelled,
}

/// What Redis holds of the event.
#[derive(Clone, Debug, Default)]
pub struct RedisSide {
    /// The coupons that nobody has yet.
    pub queue: Vec<(CouponCode, Discount)>,
    /// Who has which.
    pub issued: Vec<(Holding, Status)>,
    /// How many batches of issued coupons are not yet known to be in Kafka.
    pub outbox: u64,
    /// When coupons are given out.
    pub window: Window,
}

/// What Kafka holds of the event, in the order of the topic's partitions.
#[derive(Clone, Debug, Default)]
pub struct KafkaSide {
    /// Every record, repeated ones too.
    pub records: Vec<Holding>,
    /// What is in the dead-letter topic, one text each.
    pub dead_letters: Vec<String>,
    /// What on the topic cannot be read, one text each.
    pub unreadable: Vec<String>,
}

/// What Postgres holds of the event.
#[derive(Clone, Debug, Default)]
pub struct PostgresSide {
    /// The stock: every coupon that was ever made.
    pub coupons: Vec<(CouponCode, Discount)>,
    /// Who got which.
    pub issuances: Vec<Holding>,
}

/// Everything that is compared.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// How many coupons the event is meant to have.
    pub total: u64,
    /// How many of them of each discount; empty when that is not known.
    pub expected: BTreeMap<Discount, u64>,
    /// Every request of the event.
    pub history: Vec<Attempt>,
    /// What Redis holds.
    pub redis: RedisSide,
    /// What Kafka holds.
    pub kafka: KafkaSide,
    /// What Postgres holds.
    pub postgres: PostgresSide,
}

/// Compares everything. The findings come in the order in which they are printed.
#[must_use]
pub fn check(evidence: &Evidence) -> Report {
    let told = answers::Told::new(&evidence.history);
    let hands = stocked::Hands::new(evidence, &told);
    Report {
        findings: vec![
            answers::recorded(evidence, &told),
            answers::kept(evidence, &told),
            hands.one_user_per_coupon(),
            hands.one_coupon_per_user(),
            answers::same_answer(&told),
            stocked::recorded_once(evidence),
            stocked::only_stocked(evidence, &told),
            answers::only_whom_it_was_given(evidence, &told),
            answers::well_formed(evidence),
            answers::recovered(evidence, &told),
            stocked::as_many_as_planned(evidence),
            stocked::same_set_in_redis(evidence),
            agreement::redis_and_postgres(evidence),
            agreement::kafka_and_postgres(evidence),
            agreement::completed(evidence),
            agreement::nothing_left_over(evidence),
            stocked::inside_the_window(evidence),
            answers::begun_for_all(evidence),
        ],
    }
}
