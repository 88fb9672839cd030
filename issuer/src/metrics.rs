//! Metrics of the issuer. Labels never contain users or coupons.

use couponry_domain::EventName;
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
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabels {
    by: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EventLabels {
    event: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabels {
    code: u16,
}

/// Present from the start: the rate of a counter does not include the value with which it appears.
const INITIAL_CODES: [u16; 2] = [200, 503];

/// Why an issue request receives 503. Present from the start, too.
const UNAVAILABLE_REASONS: [&str; 6] =
    ["unknown_outcome", "unverified", "undecodable", "overloaded", "jwks_unavailable", "refresh_limited"];

/// The status code of a response that is counted by its reason.
const UNAVAILABLE: u16 = 503;

/// All metrics of the issuer. Clones share the values.
#[derive(Clone)]
pub(crate) struct Metrics {
    requests: Family<OutcomeLabels, Counter>,
    coupons_issued: Family<EventLabels, Counter>,
    issue_responses: Family<CodeLabels, Counter>,
    unavailable_responses: Family<ReasonLabels, Counter>,
    authentication_failures: Family<ReasonLabels, Counter>,
    jwks_keys: Family<StateLabels, Gauge>,
    connections: Gauge,
    connection_limit: Gauge,
    connections_evicted: Counter,
    connections_rejected: Counter,
    rate_limited: Family<LimitLabels, Counter>,
    rate_limit_keys: Family<LimitLabels, Gauge>,
    pub(crate) event_reads: Counter,
    pub(crate) batch_users: Histogram,
    pub(crate) issue_request_duration: Histogram,
    pub(crate) records_sent: Counter,
    pub(crate) records_unconfirmed: Counter,
    pub(crate) outbox_taken_over: Counter,
    pub(crate) undecodable_records: Counter,
    pub(crate) outbox_in_flight: Gauge,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            coupons_issued: Family::default(),
            issue_responses: Family::default(),
            unavailable_responses: Family::default(),
            authentication_failures: Family::default(),
            jwks_keys: Family::default(),
            connections: Gauge::default(),
            connection_limit: Gauge::default(),
            connections_evicted: Counter::default(),
            connections_rejected: Counter::default(),
            rate_limited: Family::default(),
            rate_limit_keys: Family::default(),
            event_reads: Counter::default(),
            batch_users: Histogram::new(exponential_buckets(1.0, 2.0, 12)),
            issue_request_duration: Histogram::new(exponential_buckets(0.0005, 2.0, 15)),
            records_sent: Counter::default(),
            records_unconfirmed: Counter::default(),
            outbox_taken_over: Counter::default(),
            undecodable_records: Counter::default(),
            outbox_in_flight: Gauge::default(),
        };
        let Self {
            requests,
            coupons_issued,
            issue_responses,
            unavailable_responses,
            authentication_failures,
            jwks_keys,
            connections,
            connection_limit,
            connections_evicted,
            connections_rejected,
            rate_limited,
            rate_limit_keys,
            event_reads,
            batch_users,
            issue_request_duration,
            records_sent,
            records_unconfirmed,
            outbox_taken_over,
            undecodable_records,
            outbox_in_flight,
        } = metrics.clone();
        for code in INITIAL_CODES {
            drop(issue_responses.get_or_create(&CodeLabels { code }));
        }
        for reason in UNAVAILABLE_REASONS {
            drop(unavailable_responses.get_or_create(&ReasonLabels { reason }));
        }
        registry.register("requests", "Completed issue requests, by outcome", requests);
        registry.register("coupons_issued", "Issued coupons, by event", coupons_issued);
        registry.register("issue_responses", "Responses to issue requests, by HTTP status code", issue_responses);
        registry.register("unavailable_responses", "Responses 503 to issue requests, by reason", unavailable_responses);
        registry.register(
            "authentication_failures",
            "Requests whose user could not be authenticated, by reason",
            authentication_failures,
        );
        registry.register("jwks_keys", "Keys of the JWKS, by state: usable or ignored", jwks_keys);
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
        registry.register("rate_limited", "Requests rejected with 429, by the kind of limit", rate_limited);
        registry.register("rate_limit_keys", "Users and addresses tracked by a rate limit", rate_limit_keys);
        registry.register(
            "event_reads",
            "Reads of the state of an event from Redis, for all requests of the event",
            event_reads,
        );
        registry.register("batch_users", "Users per call to Redis", batch_users);
        registry.register_with_unit(
            "issue_request_duration",
            "Time from the complete request body to the response of an issue request",
            Unit::Seconds,
            issue_request_duration,
        );
        registry.register("records_sent", "Issued records confirmed by Kafka", records_sent);
        registry.register(
            "records_unconfirmed",
            "Issued records that Kafka did not confirm in time",
            records_unconfirmed,
        );
        registry.register("outbox_taken_over", "Outbox entries sent for another issuer", outbox_taken_over);
        registry.register(
            "undecodable_records",
            "Records of outbox entries that could not be decoded and were not sent",
            undecodable_records,
        );
        registry.register("outbox_in_flight", "Outbox entries sent to Kafka and not yet confirmed", outbox_in_flight);
        metrics
    }

    /// Counts a request whose user could not be authenticated.
    pub(crate) fn count_authentication_failure(&self, reason: &'static str) {
        self.authentication_failures.get_or_create(&ReasonLabels { reason }).inc();
    }

    /// Sets how many keys of the JWKS are used and ignored.
    pub(crate) fn set_jwks_keys(&self, usable: usize, ignored: usize) {
        for (state, count) in [("usable", usable), ("ignored", ignored)] {
            self.jwks_keys.get_or_create(&StateLabels { state }).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
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

    /// The metrics of a limit: rejected requests and tracked keys.
    pub(crate) fn rate_limit(&self, by: &'static str) -> (Counter, Gauge) {
        let labels = LimitLabels { by };
        (self.rate_limited.get_or_create_owned(&labels), self.rate_limit_keys.get_or_create_owned(&labels))
    }

    /// Counts the response to an issue request, and the cause of a 503.
    pub(crate) fn count_issue_response(&self, code: u16, cause: Option<&'static str>) {
        self.issue_responses.get_or_create(&CodeLabels { code }).inc();
        if code == UNAVAILABLE {
            self.unavailable_responses.get_or_create(&ReasonLabels { reason: cause.unwrap_or("other") }).inc();
        }
    }

    /// Counts a completed issue request.
    pub(crate) fn count_request(&self, outcome: &'static str) {
        self.requests.get_or_create(&OutcomeLabels { outcome }).inc();
    }

    /// Counts coupons that were issued in one batch. Only existing events have a label.
    pub(crate) fn count_issued(&self, event: &EventName, count: usize) {
        if count > 0 {
            let labels = EventLabels { event: event.as_str().to_owned() };
            self.coupons_issued.get_or_create(&labels).inc_by(u64::try_from(count).unwrap_or(u64::MAX));
        }
    }
}
