//! Metrics of the redeemer. Labels never contain users or coupons.

use std::{sync::atomic::AtomicU64, time::Duration};

use couponry_runtime::http::ConnectionMetrics;
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
struct ResponseLabels {
    operation: &'static str,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

/// The operations of the API.
pub(crate) const OPERATIONS: [&str; 5] = ["validate", "reserve", "redeem", "release", "get"];

/// Why callers are rejected. Also present from the start.
const REASONS: [&str; 4] = ["no_token", "invalid_token", "forbidden", "unavailable"];

/// Present from the start: the rate of a counter does not include the value with which it appears.
const INITIAL_CODES: [u16; 4] = [200, 401, 403, 503];

/// All metrics of the redeemer. Clones share the values.
#[derive(Clone)]
pub(crate) struct Metrics {
    responses: Family<ResponseLabels, Counter>,
    authentication_failures: Family<ReasonLabels, Counter>,
    request_duration: Histogram,
    pub(crate) issuances_recorded: Counter,
    pub(crate) uses_sent: Counter,
    unsent_uses: Gauge,
    oldest_unsent_use: Gauge<f64, AtomicU64>,
    connections: Gauge,
    connection_limit: Gauge,
    connections_evicted: Counter,
    connections_rejected: Counter,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            responses: Family::default(),
            authentication_failures: Family::default(),
            request_duration: Histogram::new(exponential_buckets(0.0005, 2.0, 15)),
            issuances_recorded: Counter::default(),
            uses_sent: Counter::default(),
            unsent_uses: Gauge::default(),
            oldest_unsent_use: Gauge::default(),
            connections: Gauge::default(),
            connection_limit: Gauge::default(),
            connections_evicted: Counter::default(),
            connections_rejected: Counter::default(),
        };
        let Self {
            responses,
            authentication_failures,
            request_duration,
            issuances_recorded,
            uses_sent,
            unsent_uses,
            oldest_unsent_use,
            connections,
            connection_limit,
            connections_evicted,
            connections_rejected,
        } = metrics.clone();
        for reason in REASONS {
            drop(authentication_failures.get_or_create(&ReasonLabels { reason }));
        }
        for operation in OPERATIONS {
            for code in INITIAL_CODES {
                drop(responses.get_or_create(&ResponseLabels { operation, code }));
            }
        }
        registry.register("responses", "Responses, by operation and HTTP status code", responses);
        registry.register(
            "authentication_failures",
            "Requests whose caller could not be authenticated or lacks the permission, by reason",
            authentication_failures,
        );
        registry.register_with_unit(
            "request_duration",
            "Time from the complete request to its response",
            Unit::Seconds,
            request_duration,
        );
        registry.register(
            "issuances_recorded",
            "Issuances that the redeemer has recorded, because their coupons were used before a consumer had recorded them",
            issuances_recorded,
        );
        registry.register("uses_sent", "Uses of coupons that Kafka has acknowledged", uses_sent);
        registry.register(
            "unsent_uses",
            "Uses of coupons that wait to be sent to Kafka, at most 100000; 0 at redeemers that are not sending",
            unsent_uses,
        );
        registry.register_with_unit(
            "oldest_unsent_use_age",
            "Age of the first use of a coupon that waits to be sent to Kafka, or the time since the outbox could be read; 0 at \
             redeemers that are not sending",
            Unit::Seconds,
            oldest_unsent_use,
        );
        registry.register("connections", "Open client connections", connections);
        registry.register("connection_limit", "Maximum number of open client connections", connection_limit);
        registry.register(
            "connections_evicted",
            "Idle connections closed because the limit of connections was reached",
            connections_evicted,
        );
        registry.register(
            "connections_rejected",
            "Connections closed at once because their address had too many",
            connections_rejected,
        );
        metrics
    }

    /// Counts a response.
    pub(crate) fn count_response(&self, operation: &'static str, code: u16, duration: Duration) {
        self.responses.get_or_create(&ResponseLabels { operation, code }).inc();
        self.request_duration.observe(duration.as_secs_f64());
    }

    /// Sets the number of uses that wait to be sent, and the age of the first one.
    pub(crate) fn set_unsent_uses(&self, count: u64, age_seconds: f64) {
        self.unsent_uses.set(i64::try_from(count).unwrap_or(i64::MAX));
        self.set_oldest_unsent_use(age_seconds);
    }

    /// Sets the age of the first use that waits to be sent.
    pub(crate) fn set_oldest_unsent_use(&self, age_seconds: f64) {
        self.oldest_unsent_use.set(age_seconds);
    }

    /// Counts a request whose caller was rejected.
    pub(crate) fn count_authentication_failure(&self, reason: &'static str) {
        self.authentication_failures.get_or_create(&ReasonLabels { reason }).inc();
    }

    /// The metrics of the connections.
    pub(crate) fn connections(&self) -> ConnectionMetrics {
        ConnectionMetrics {
            open: self.connections.clone(),
            limit: self.connection_limit.clone(),
            evicted: self.connections_evicted.clone(),
            rejected: self.connections_rejected.clone(),
        }
    }
}
