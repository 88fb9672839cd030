//! The result of an audit.

use std::collections::BTreeMap;

use couponry_domain::{EventName, Uuid};
use serde::Serialize;

use crate::discrepancy::{Discrepancy, Remedy};

/// How many discrepancies of each kind are kept in full.
const MAX_EXAMPLES: u64 = 20;

/// The counts of an event.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Coupons in Postgres.
    pub generated: u64,
    /// Generated coupons that are not loaded into Redis yet.
    pub not_loaded: u64,
    /// Issuances in Postgres.
    pub recorded: u64,
    /// Distinct records of the event in Kafka.
    pub sent: u64,
    /// Repeated records of the event in Kafka.
    pub resent: u64,
    /// Recorded issuances without a record in Kafka. Nothing is lost, because Postgres has them.
    pub not_in_kafka: u64,
    /// Messages of the topic that cannot be decoded.
    pub undecodable: u64,
    /// Dead letters of the event.
    pub dead_letters: u64,
    /// Whether the event was retired. Then `available`, `issued`, `cancelled` and `withheld` are the counts before its
    /// coupons were removed from Redis.
    pub retired: bool,
    /// Coupons in the Redis queue.
    pub available: u64,
    /// Users who have a coupon in Redis.
    pub issued: u64,
    /// Users whose coupon was cancelled because it could not be recorded, and who have received no other one.
    pub cancelled: u64,
    /// Coupons that are neither available nor issued: cancelled, and not put back into the queue. The same number as in
    /// the status and the metrics of the operator.
    pub withheld: u64,
    /// Outbox entries of this event at the end of the audit.
    pub outbox: u64,
    /// Messages of the topic (of all events) that the consumers have not recorded at the end of the audit.
    pub lag: u64,
}

/// Coupons in flight from Redis to Postgres.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InFlight {
    /// The number of coupons.
    pub coupons: u64,
    /// When the first of them was issued.
    pub oldest: Option<i64>,
    /// Whether that was longer ago than recording takes, by the clock of Redis.
    pub is_delayed: bool,
}

/// All discrepancies: the number of each kind, and the first ones in full.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Discrepancies {
    /// The number of each kind.
    pub counts: BTreeMap<&'static str, u64>,
    /// The first ones of each kind.
    pub examples: Vec<Discrepancy>,
    /// The number of discrepancies by remedy.
    #[serde(skip)]
    remedies: BTreeMap<Remedy, u64>,
}

impl Discrepancies {
    pub(crate) fn add(&mut self, discrepancy: Discrepancy) {
        let count = self.counts.entry(discrepancy.kind()).or_default();
        *count += 1;
        *self.remedies.entry(discrepancy.remedy()).or_default() += 1;
        if *count <= MAX_EXAMPLES {
            self.examples.push(discrepancy);
        }
    }

    /// The number of discrepancies that require this remedy.
    #[must_use]
    pub fn requiring(&self, remedy: Remedy) -> u64 {
        self.remedies.get(&remedy).copied().unwrap_or(0)
    }

    /// The number of discrepancies.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.values().sum()
    }
}

/// The result of an audit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The event's name.
    pub event: EventName,
    /// The event's uid.
    pub uid: Uuid,
    /// The verdict.
    pub verdict: Verdict,
    /// The counts.
    pub counts: Counts,
    /// The coupons in flight.
    pub in_flight: InFlight,
    /// The discrepancies.
    pub discrepancies: Discrepancies,
    /// How many suspects were not checked, because there were too many or because the queue changed meanwhile: they may
    /// be in flight or discrepancies.
    pub unchecked: u64,
    /// Further information that is not a discrepancy.
    pub notes: Vec<String>,
}

/// The verdict of an audit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Verdict {
    /// The stores match.
    #[serde(rename = "OK")]
    Ok,
    /// There are discrepancies.
    #[serde(rename = "DIFFERS")]
    Differs,
    /// No discrepancy was found, but some suspects were not checked.
    #[serde(rename = "UNCERTAIN")]
    Uncertain,
    /// No discrepancy was found, but issued coupons have not been recorded for too long.
    #[serde(rename = "DELAYED")]
    Delayed,
}

impl Verdict {
    pub(crate) fn of(discrepancies: &Discrepancies, unchecked: u64, in_flight: InFlight) -> Self {
        match (discrepancies.total(), unchecked, in_flight.is_delayed) {
            (0, 0, false) => Self::Ok,
            (0, _, true) => Self::Delayed,
            (0, _, false) => Self::Uncertain,
            _ => Self::Differs,
        }
    }
}
