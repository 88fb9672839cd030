//! Rates and quantiles from the counters of pods.
//!
//! A counter that is lower than before belongs to a restarted process: its value is the increase.

use std::collections::BTreeMap;

use serde::Serialize;

use super::exposition::parse;

/// Boundaries of a histogram in seconds, as their bits, with the number of values up to each. Boundaries are positive,
/// so their bits have the same order.
type Buckets = BTreeMap<u64, f64>;

/// The metrics of a pod that are shown.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct PodMetrics {
    outcomes: BTreeMap<String, f64>,
    latency: Buckets,
    errors: f64,
    recorded: f64,
    outbox: Option<f64>,
    lag: Option<f64>,
    issuers_ready: Option<f64>,
    issuers_wanted: Option<f64>,
    is_leader: bool,
}

impl PodMetrics {
    pub(super) fn parse(text: &str) -> Self {
        let mut found = Self::default();
        for it in parse(text) {
            match it.name {
                "couponry_issuer_requests_total" => {
                    if let Some(outcome) = it.label("outcome") {
                        found.outcomes.insert(outcome.to_owned(), it.value);
                    }
                }
                "couponry_issuer_issue_request_duration_seconds_bucket" => {
                    if let Some(boundary) = it.label("le").and_then(|le| le.parse().ok()) {
                        found.latency.insert(f64::to_bits(boundary), it.value);
                    }
                }
                "couponry_issuer_issue_responses_total" if it.label("code").is_some_and(is_server_error) => {
                    found.errors += it.value;
                }
                "couponry_issuer_outbox_in_flight" => found.outbox = Some(it.value),
                "couponry_consumer_recorded_total" => found.recorded = it.value,
                "couponry_consumer_lag" => found.lag = Some(it.value),
                "couponry_operator_issuers_ready" => found.issuers_ready = Some(it.value),
                "couponry_operator_issuer_min_replicas" => found.issuers_wanted = Some(it.value),
                "couponry_operator_is_leader" => found.is_leader = it.value > 0.0,
                _ => {}
            }
        }
        found
    }
}

fn is_server_error(code: &str) -> bool {
    code.starts_with('5')
}

/// What all pods did between two polls.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Sample {
    /// When, in milliseconds of Unix time.
    pub(super) at: i64,
    /// Completed issue requests per second, by outcome.
    outcomes: BTreeMap<String, f64>,
    /// Responses with a status code of 500 and more per second.
    errors: f64,
    /// Issuances recorded in Postgres per second.
    recorded: f64,
    /// Latency of issue requests in seconds; none without requests.
    p50: Option<f64>,
    p99: Option<f64>,
    /// Outbox entries that Kafka has not confirmed.
    outbox: Option<f64>,
    /// Messages of the topic that are not recorded.
    lag: Option<f64>,
    issuers_ready: Option<f64>,
    issuers_wanted: Option<f64>,
}

/// The metrics of the previous poll, by the UID of the pod.
#[derive(Debug, Default)]
pub(super) struct Rates {
    previous: BTreeMap<String, PodMetrics>,
    previous_at: i64,
}

impl Rates {
    /// The sample between the previous poll and this one; none at the first poll. A pod that is new contributes to the
    /// rates from its second poll on.
    pub(super) fn advance(&mut self, at: i64, current: BTreeMap<String, PodMetrics>) -> Option<Sample> {
        let millis = at - self.previous_at;
        let is_first = self.previous_at == 0;
        let previous = std::mem::replace(&mut self.previous, current);
        self.previous_at = at;
        if is_first || millis <= 0 {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "milliseconds between two polls")]
        let seconds = millis as f64 / 1000.0;
        let mut sample = Sample { at, ..Sample::default() };
        let mut latency = Buckets::new();
        for (uid, now) in &self.previous {
            sample.outbox = sum(sample.outbox, now.outbox);
            // Each consumer reports the lag of its group.
            sample.lag = max(sample.lag, now.lag);
            if now.is_leader {
                (sample.issuers_ready, sample.issuers_wanted) = (now.issuers_ready, now.issuers_wanted);
            }
            let Some(before) = previous.get(uid) else { continue };
            for (outcome, count) in &now.outcomes {
                let before = before.outcomes.get(outcome).copied().unwrap_or_default();
                *sample.outcomes.entry(outcome.clone()).or_default() += increase(before, *count) / seconds;
            }
            sample.errors += increase(before.errors, now.errors) / seconds;
            sample.recorded += increase(before.recorded, now.recorded) / seconds;
            for (boundary, count) in &now.latency {
                let before = before.latency.get(boundary).copied().unwrap_or_default();
                *latency.entry(*boundary).or_default() += increase(before, *count);
            }
        }
        (sample.p50, sample.p99) = (quantile(&latency, 0.5), quantile(&latency, 0.99));
        Some(sample)
    }
}

fn increase(before: f64, now: f64) -> f64 {
    if now >= before { now - before } else { now }
}

fn sum(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    a.map(|a| a + b.unwrap_or_default()).or(b)
}

fn max(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    a.map(|a| a.max(b.unwrap_or(a))).or(b)
}

/// The quantile of a histogram, interpolated in its bucket as Prometheus does; none if the histogram is empty.
fn quantile(buckets: &Buckets, q: f64) -> Option<f64> {
    let total = buckets.values().next_back().copied().filter(|total| *total > 0.0)?;
    let rank = q * total;
    let (mut lower, mut below) = (0.0, 0.0);
    for (upper, count) in buckets.iter().map(|(bits, count)| (f64::from_bits(*bits), *count)) {
        if count >= rank && count > below {
            let is_open = upper.is_infinite();
            return Some(if is_open { lower } else { lower + (upper - lower) * (rank - below) / (count - below) });
        }
        (lower, below) = (upper, count);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issuer(issued: u32, fast: u32, all: u32) -> PodMetrics {
        PodMetrics::parse(&format!(
            "couponry_issuer_requests_total{{outcome=\"issued\"}} {issued}\n\
             couponry_issuer_issue_responses_total{{code=\"200\"}} 5\n\
             couponry_issuer_issue_responses_total{{code=\"503\"}} {issued}\n\
             couponry_issuer_issue_request_duration_seconds_bucket{{le=\"0.001\"}} {fast}\n\
             couponry_issuer_issue_request_duration_seconds_bucket{{le=\"0.002\"}} {all}\n\
             couponry_issuer_issue_request_duration_seconds_bucket{{le=\"+Inf\"}} {all}\n\
             couponry_issuer_outbox_in_flight 3\n"
        ))
    }

    fn pods(pods: &[(&str, PodMetrics)]) -> BTreeMap<String, PodMetrics> {
        pods.iter().map(|(uid, metrics)| ((*uid).to_owned(), metrics.clone())).collect()
    }

    #[test]
    fn sample_sums_the_increases_of_all_pods() {
        let mut rates = Rates::default();
        let first = pods(&[("a", issuer(100, 100, 100)), ("b", issuer(50, 50, 50))]);
        assert_eq!(rates.advance(1000, first), None);
        let second = pods(&[("a", issuer(120, 120, 120)), ("b", issuer(70, 50, 70)), ("new", issuer(900, 900, 900))]);
        let sample = rates.advance(3000, second).unwrap();
        assert_eq!(sample.outcomes.get("issued"), Some(&20.0));
        assert_eq!((sample.errors, sample.outbox), (20.0, Some(9.0)));
        // 20 requests up to 1 ms, and 20 from 1 to 2 ms.
        assert_eq!(sample.p50, Some(0.001));
        assert!(sample.p99.is_some_and(|p99| (p99 - 0.00198).abs() < 1e-9), "{sample:?}");
    }

    #[test]
    fn restarted_pod_counts_from_zero() {
        let mut rates = Rates::default();
        rates.advance(1000, pods(&[("a", issuer(100, 100, 100))]));
        let sample = rates.advance(2000, pods(&[("a", issuer(7, 7, 7))])).unwrap();
        assert_eq!(sample.outcomes.get("issued"), Some(&7.0));
        assert_eq!(sample.p50, Some(0.0005));
    }

    #[test]
    fn idle_and_missing_pods_have_no_latency() {
        let mut rates = Rates::default();
        rates.advance(1000, pods(&[("a", issuer(1, 1, 1))]));
        let idle = rates.advance(2000, pods(&[("a", issuer(1, 1, 1))])).unwrap();
        assert_eq!((idle.p50, idle.p99, idle.outcomes["issued"]), (None, None, 0.0));
        let none = rates.advance(3000, BTreeMap::new()).unwrap();
        assert_eq!(none, Sample { at: 3000, ..Sample::default() });
    }

    #[test]
    fn issuers_are_those_that_the_leader_reports() {
        let operator = |leader, ready| {
            let ready = format!("couponry_operator_issuers_ready {ready}\ncouponry_operator_issuer_min_replicas 4\n");
            PodMetrics::parse(&format!("{ready}couponry_operator_is_leader {leader}\n"))
        };
        let mut rates = Rates::default();
        rates.advance(1000, BTreeMap::new());
        let sample = rates.advance(2000, pods(&[("a", operator(0, 0)), ("b", operator(1, 3)), ("c", operator(0, 0))]));
        let sample = sample.unwrap();
        assert_eq!((sample.issuers_ready, sample.issuers_wanted), (Some(3.0), Some(4.0)));
    }
}
