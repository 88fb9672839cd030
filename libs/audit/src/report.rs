//! What an audit says.

use std::collections::BTreeMap;

use couponry_domain::{EventName, Uuid};
use serde::Serialize;

use crate::Difference;

/// How many differences of a kind are kept in full.
const EXAMPLES: u64 = 20;

/// What there is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Coupons in Postgres.
    pub stocked: u64,
    /// Of these, how many were not loaded into Redis yet.
    pub not_loaded: u64,
    /// Issuances in Postgres.
    pub recorded: u64,
    /// Different records of the event in Kafka.
    pub sent: u64,
    /// How many more there are because they were sent again.
    pub sent_again: u64,
    /// Whether the topic still has everything that was ever written to it. Otherwise what is recorded may well be gone from it.
    pub topic_is_whole: bool,
    /// Messages on the topic that are no records of any event.
    pub unreadable: u64,
    /// Dead letters of the event: what can never be recorded.
    pub dead_letters: u64,
    /// Whether the coupons have left Redis, since the event is over. Then `available`, `held` and `voided` are what it had before.
    pub retired: bool,
    /// Coupons in the queue in Redis.
    pub available: u64,
    /// Users who hold a coupon by Redis.
    pub held: u64,
    /// Users who were told of a coupon that could not be recorded, and hold nothing.
    pub voided: u64,
    /// Batches that are not known to be in Kafka, at the end.
    pub outbox: u64,
    /// Messages on the topic (of all events) that the consumers have not recorded, at the end.
    pub lag: u64,
}

/// What is on its way from Redis to Postgres.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InFlight {
    /// How many coupons.
    pub coupons: u64,
    /// When the first of them was issued.
    pub oldest: Option<i64>,
}

/// Everything that does not fit together: counted, and some of it in full.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Differences {
    /// How many of each kind.
    pub counts: BTreeMap<&'static str, u64>,
    /// The first of each kind.
    pub examples: Vec<Difference>,
}

impl Differences {
    pub(crate) fn add(&mut self, difference: Difference) {
        let count = self.counts.entry(difference.kind()).or_default();
        *count += 1;
        if *count <= EXAMPLES {
            self.examples.push(difference);
        }
    }

    /// How many there are.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.values().sum()
    }
}

/// What an audit says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The event's name.
    pub event: EventName,
    /// The event's uid.
    pub uid: Uuid,
    /// In one word.
    pub verdict: Verdict,
    /// What there is.
    pub counts: Counts,
    /// What is on its way.
    pub in_flight: InFlight,
    /// What does not fit together.
    pub differences: Differences,
    /// How many things were too many to be looked at one by one: they may be on their way, or differences.
    pub unchecked: u64,
    /// What a person should know, and what is no difference.
    pub notes: Vec<String>,
}

/// What came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Verdict {
    /// The stores tell one story.
    #[serde(rename = "OK")]
    Ok,
    /// They do not.
    #[serde(rename = "DIFFERS")]
    Differs,
    /// No difference was found, and too much was on its way to be certain.
    #[serde(rename = "UNCERTAIN")]
    Uncertain,
}

impl Verdict {
    pub(crate) fn of(differences: &Differences, unchecked: u64) -> Self {
        match (differences.total(), unchecked) {
            (0, 0) => Self::Ok,
            (0, _) => Self::Uncertain,
            _ => Self::Differs,
        }
    }
}
