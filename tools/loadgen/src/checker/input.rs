//! The data which the checker compares.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use couponry_domain::code::CouponCode;
use couponry_domain::{AdmissionKey, Discount, IssuedCoupon, Release, Window};
use couponry_redis::IssuedEntry;

use crate::checkout::void_history::VoidAttempt;
use crate::history::Attempt;

/// The event's data in Redis.
#[derive(Clone, Debug, Default)]
pub struct RedisData {
    /// The available coupons.
    pub queue: Vec<(CouponCode, Discount)>,
    /// The issued coupons.
    pub issued: Vec<IssuedEntry>,
    /// Number of outbox entries.
    pub outbox: u64,
    /// The window of the event.
    pub window: Window,
    /// How its coupons are released.
    pub release: Release,
    /// The key of the tickets, if users are admitted over a ramp.
    pub admission_key: Option<AdmissionKey>,
    /// Whether Redis is verified: known to have lost nothing. Otherwise it issues nothing.
    pub is_verified: bool,
}

/// The event's data in Kafka.
#[derive(Clone, Debug, Default)]
pub struct KafkaData {
    /// All records, including repeated ones.
    pub records: Vec<IssuedCoupon>,
    /// The dead-lettered records.
    pub dead_letters: Vec<DeadLetter>,
    /// Descriptions of the undecodable records of the topic.
    pub undecodable: Vec<String>,
    /// Whether records are missing, because the topic was deleted and created again.
    pub is_incomplete: bool,
}

/// A dead-lettered record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// What could not be recorded.
    pub issued: IssuedCoupon,
    /// Its position in the topic, and why it was rejected.
    pub description: String,
}

/// The event's data in Postgres.
#[derive(Clone, Debug, Default)]
pub struct PostgresData {
    /// The generated coupons.
    pub coupons: Vec<(CouponCode, Discount)>,
    /// The recorded issuances.
    pub issuances: Vec<IssuedCoupon>,
    /// The voided coupons.
    pub voided: BTreeSet<String>,
}

/// All data which is compared.
#[derive(Clone, Debug, Default)]
pub struct CheckInput {
    /// The planned number of coupons.
    pub total: u64,
    /// The planned number of coupons of each discount; empty if not known.
    pub expected: BTreeMap<Discount, u64>,
    /// How the coupons are released according to the manifest.
    pub release: Release,
    /// When the clock of Redis was set back, in microseconds since the Unix epoch.
    pub redis_clock_back: Vec<RangeInclusive<i64>>,
    /// All attempts of the event.
    pub history: Vec<Attempt>,
    /// All voids of the event.
    pub voids: Vec<VoidAttempt>,
    /// Data from Redis.
    pub redis: RedisData,
    /// Data from Kafka.
    pub kafka: KafkaData,
    /// Data from Postgres.
    pub postgres: PostgresData,
}
