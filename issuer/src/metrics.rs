//! What the issuer counts. No user and no coupon is ever in a label.

use couponry_redis::Outcome;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use crate::batcher::Answer;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabels {
    by: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

/// The name of an answer in the metrics.
const fn label(answer: &Answer) -> &'static str {
    match answer {
        Answer::Told(Outcome::Issued(_)) => "issued",
        Answer::Told(Outcome::Duplicate(_)) => "duplicate",
        Answer::Told(Outcome::SoldOut) => "sold_out",
        Answer::Told(Outcome::NotStarted) => "not_started",
        Answer::Told(Outcome::Ended) => "ended",
        Answer::Told(Outcome::Paused) => "paused",
        Answer::Told(Outcome::Unverified) => "unverified",
        Answer::UnknownEvent => "unknown_event",
        Answer::UnknownOutcome => "unknown_outcome",
        Answer::Overloaded => "overloaded",
    }
}

/// All counters of the issuer; clones count together.
#[derive(Clone)]
pub(crate) struct Metrics {
    outcomes: Family<OutcomeLabels, Counter>,
    refusals: Family<ReasonLabels, Counter>,
    limited: Family<LimitLabels, Counter>,
    limit_keys: Family<LimitLabels, Gauge>,
    pub(crate) batch_users: Histogram,
    pub(crate) request_seconds: Histogram,
    pub(crate) records_sent: Counter,
    pub(crate) records_unconfirmed: Counter,
    pub(crate) entries_adopted: Counter,
    pub(crate) entries_in_flight: Gauge,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            outcomes: Family::default(),
            refusals: Family::default(),
            limited: Family::default(),
            limit_keys: Family::default(),
            batch_users: Histogram::new(exponential_buckets(1.0, 2.0, 12)),
            request_seconds: Histogram::new(exponential_buckets(0.0005, 2.0, 15)),
            records_sent: Counter::default(),
            records_unconfirmed: Counter::default(),
            entries_adopted: Counter::default(),
            entries_in_flight: Gauge::default(),
        };
        let Self {
            outcomes,
            refusals,
            limited,
            limit_keys,
            batch_users,
            request_seconds,
            records_sent,
            records_unconfirmed,
            entries_adopted,
            entries_in_flight,
        } = metrics.clone();
        registry.register("requests", "Answered issue requests, by outcome", outcomes);
        registry.register("authentication_failures", "Requests whose user could not be believed, by reason", refusals);
        registry.register("rate_limited", "Requests refused with 429, by what was counted", limited);
        registry.register("rate_limit_keys", "Users and addresses that are remembered for a limit", limit_keys);
        registry.register("batch_users", "Users in one call to Redis", batch_users);
        registry.register_with_unit(
            "request",
            "Time from a read issue request to its answer",
            Unit::Seconds,
            request_seconds,
        );
        registry.register("records_sent", "Issued records that Kafka confirmed", records_sent);
        registry.register(
            "records_unconfirmed",
            "Issued records that Kafka did not confirm in time",
            records_unconfirmed,
        );
        registry.register("outbox_taken_over", "Outbox entries sent for another issuer", entries_adopted);
        registry.register("outbox_in_flight", "Outbox entries on their way to Kafka", entries_in_flight);
        metrics
    }

    /// Nobody is believed to be the user, for this reason.
    pub(crate) fn refuse(&self, reason: &'static str) {
        self.refusals.get_or_create(&ReasonLabels { reason }).inc();
    }

    /// What a limit counts: refused requests, and how many of them it remembers.
    pub(crate) fn limit(&self, by: &'static str) -> (Counter, Gauge) {
        let labels = LimitLabels { by };
        (self.limited.get_or_create_owned(&labels), self.limit_keys.get_or_create_owned(&labels))
    }

    pub(crate) fn count(&self, answer: &Answer) {
        self.outcomes.get_or_create(&OutcomeLabels { outcome: label(answer) }).inc();
    }
}
