//! Metrics of the consumer. Labels never contain users or coupons.

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

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

/// The reasons of dead letters. Each has a counter from the start: the increase of a counter does not include the value
/// with which it appears, so the first dead letter would be missed.
const DEAD_LETTER_REASONS: [&str; 10] = [
    "undecodable",
    "unknown_version",
    "unknown_event",
    "unknown_coupon",
    "discount_mismatch",
    "coupon_held_by_another",
    "user_holds_another",
    "issued_at_out_of_range",
    "before_record_cutoff",
    "unrecordable",
];

/// All metrics of the consumer. Clones share the values.
#[derive(Clone)]
pub(crate) struct Metrics {
    pub(crate) recorded: Counter,
    pub(crate) already_recorded: Counter,
    dead_letters: Family<Reason, Counter>,
    pub(crate) deferred_records: Gauge,
    pub(crate) foreign_records: Counter,
    pub(crate) coupons_requeued: Counter,
    pub(crate) batch_messages: Histogram,
    pub(crate) batch_processing_duration: Histogram,
    pub(crate) lag: Gauge,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            recorded: Counter::default(),
            already_recorded: Counter::default(),
            dead_letters: Family::default(),
            deferred_records: Gauge::default(),
            foreign_records: Counter::default(),
            coupons_requeued: Counter::default(),
            batch_messages: Histogram::new(exponential_buckets(1.0, 2.0, 14)),
            batch_processing_duration: Histogram::new(exponential_buckets(0.001, 2.0, 16)),
            lag: Gauge::default(),
        };
        let Self {
            recorded,
            already_recorded,
            dead_letters,
            deferred_records,
            foreign_records,
            coupons_requeued,
            batch_messages,
            batch_processing_duration,
            lag,
        } = metrics.clone();
        for reason in DEAD_LETTER_REASONS {
            drop(dead_letters.get_or_create(&Reason { reason }));
        }
        registry.register("recorded", "Issuances recorded in Postgres", recorded);
        registry.register("already_recorded", "Records that were already recorded (redelivered)", already_recorded);
        registry.register("dead_letters", "Messages sent to the dead-letter topic, by reason", dead_letters);
        registry.register(
            "deferred_records",
            "Deferred records: Postgres or Redis cannot process the records of their event yet",
            deferred_records,
        );
        registry.register(
            "foreign_records",
            "Records of other installations, which are skipped: several installations share the topic",
            foreign_records,
        );
        registry.register(
            "coupons_requeued",
            "Coupons put back into the queue because their user holds another coupon",
            coupons_requeued,
        );
        registry.register("batch_messages", "Messages per batch", batch_messages);
        registry.register_with_unit(
            "batch_processing_duration",
            "Time from the receipt of a batch until its results are written to Redis",
            Unit::Seconds,
            batch_processing_duration,
        );
        registry.register("lag", "Messages of the topic that the consumer group has not committed yet", lag);
        metrics
    }

    pub(crate) fn count_dead_letter(&self, reason: &'static str) {
        debug_assert!(DEAD_LETTER_REASONS.contains(&reason), "{reason} is not in DEAD_LETTER_REASONS");
        self.dead_letters.get_or_create(&Reason { reason }).inc();
    }
}
