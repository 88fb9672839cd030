//! What the issuer counts. No user and no coupon is ever in a label.

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};
use stock::Outcome;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct OutcomeLabels {
    outcome: OutcomeLabel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum OutcomeLabel {
    Issued,
    Duplicate,
    SoldOut,
    NotStarted,
    Ended,
    Paused,
    UnknownEvent,
    UnknownOutcome,
    Overloaded,
}

impl From<&Outcome> for OutcomeLabel {
    fn from(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Issued(_) => Self::Issued,
            Outcome::Duplicate(_) => Self::Duplicate,
            Outcome::SoldOut => Self::SoldOut,
            Outcome::NotStarted => Self::NotStarted,
            Outcome::Ended => Self::Ended,
            Outcome::Paused => Self::Paused,
        }
    }
}

/// All counters of the issuer; clones count together.
#[derive(Clone)]
pub(crate) struct Metrics {
    outcomes: Family<OutcomeLabels, Counter>,
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
            batch_users: Histogram::new(exponential_buckets(1.0, 2.0, 12)),
            request_seconds: Histogram::new(exponential_buckets(0.0005, 2.0, 15)),
            records_sent: Counter::default(),
            records_unconfirmed: Counter::default(),
            entries_adopted: Counter::default(),
            entries_in_flight: Gauge::default(),
        };
        let Self {
            outcomes,
            batch_users,
            request_seconds,
            records_sent,
            records_unconfirmed,
            entries_adopted,
            entries_in_flight,
        } = metrics.clone();
        registry.register("requests", "Answered issue requests, by outcome", outcomes);
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
        registry.register("outbox_adopted", "Outbox entries sent for another issuer", entries_adopted);
        registry.register("outbox_in_flight", "Outbox entries on their way to Kafka", entries_in_flight);
        metrics
    }

    pub(crate) fn count(&self, outcome: OutcomeLabel) {
        self.outcomes.get_or_create(&OutcomeLabels { outcome }).inc();
    }
}
