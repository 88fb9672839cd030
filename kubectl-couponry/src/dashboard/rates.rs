//! Rates and quantiles from the counters of pods.
//!
//! A pod that has restarted, or whose counter is lower than before, counts from zero: its value is the increase.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::pod_metrics::{Buckets, PodMetrics, quantile};

/// The metrics of a pod at a time.
#[derive(Clone, Debug)]
pub(super) struct Scrape {
    pub(super) uid: String,
    /// When, in milliseconds of Unix time.
    pub(super) at: i64,
    /// Restarts of its containers before.
    pub(super) restarts: i32,
    pub(super) metrics: PodMetrics,
}

/// Number of issuers, and how many of them the sample includes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Issuers {
    pub(super) running: usize,
    pub(super) read: usize,
    /// Those that were read before too, and so have a rate.
    pub(super) rated: usize,
}

/// What the pods that responded did since they responded before.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Sample {
    /// When, in milliseconds of Unix time.
    pub(super) at: i64,
    pub(super) issuers: Issuers,
    /// Issued coupons per second, by event. Zeros are omitted.
    issued: BTreeMap<String, f64>,
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
    issuers_required: Option<f64>,
}

/// The latest metrics of each pod, by its UID.
#[derive(Debug, Default)]
pub(super) struct Rates {
    previous: BTreeMap<String, Scrape>,
}

impl Rates {
    /// The sample of these scrapes. A pod contributes to the rates from its second scrape on, over the time between its
    /// own scrapes: one that did not respond in between does not distort the rates.
    pub(super) fn advance(
        &mut self,
        at: i64,
        scrapes: Vec<Scrape>,
        running_issuers: usize,
        is_running: impl Fn(&str) -> bool,
    ) -> Sample {
        self.previous.retain(|uid, _| is_running(uid));
        let mut sample = Sample { at, ..Sample::default() };
        sample.issuers.running = running_issuers;
        let mut latency = Buckets::new();
        for scrape in scrapes {
            let now = &scrape.metrics;
            sample.issuers.read += usize::from(now.is_issuer);
            sample.outbox = sum(sample.outbox, now.outbox);
            // Each consumer reports the lag of its group.
            sample.lag = max(sample.lag, now.lag);
            if now.is_leader {
                (sample.issuers_ready, sample.issuers_required) = (now.issuers_ready, now.issuers_required);
            }
            if let Some(before) = self.previous.get(&scrape.uid).filter(|before| before.at < scrape.at) {
                sample.add_rates(before, &scrape, &mut latency);
            }
            self.previous.insert(scrape.uid.clone(), scrape);
        }
        sample.issued.retain(|_, rate| *rate > 0.0);
        (sample.p50, sample.p99) = (quantile(&latency, 0.5), quantile(&latency, 0.99));
        sample
    }
}

impl Sample {
    fn add_rates(&mut self, before: &Scrape, scrape: &Scrape, latency: &mut Buckets) {
        #[expect(clippy::cast_precision_loss, reason = "milliseconds between two scrapes")]
        let seconds = (scrape.at - before.at) as f64 / 1000.0;
        let restarted = PodMetrics::default();
        let before = if scrape.restarts == before.restarts { &before.metrics } else { &restarted };
        let now = &scrape.metrics;
        self.issuers.rated += usize::from(now.is_issuer);
        add_increases(&mut self.issued, &before.issued, &now.issued, seconds);
        add_increases(&mut self.outcomes, &before.outcomes, &now.outcomes, seconds);
        self.errors += increase(before.errors, now.errors) / seconds;
        self.recorded += increase(before.recorded, now.recorded) / seconds;
        add_increases(latency, &before.latency, &now.latency, 1.0);
    }
}

/// Adds the increases of counters, divided by `divisor`.
fn add_increases<K: Clone + Ord>(
    sums: &mut BTreeMap<K, f64>,
    before: &BTreeMap<K, f64>,
    now: &BTreeMap<K, f64>,
    divisor: f64,
) {
    for (key, count) in now {
        let before = before.get(key).copied().unwrap_or_default();
        *sums.entry(key.clone()).or_default() += increase(before, *count) / divisor;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn issuer(issued: u32, fast: u32, all: u32) -> PodMetrics {
        PodMetrics::parse(&format!(
            "couponry_issuer_requests_total{{outcome=\"issued\"}} {issued}\n\
             couponry_issuer_coupons_issued_total{{event=\"summer\"}} {issued}\n\
             couponry_issuer_coupons_issued_total{{event=\"idle\"}} 5\n\
             couponry_issuer_issue_responses_total{{code=\"200\"}} 5\n\
             couponry_issuer_issue_responses_total{{code=\"503\"}} {issued}\n\
             couponry_issuer_issue_request_duration_seconds_bucket{{le=\"0.001\"}} {fast}\n\
             couponry_issuer_issue_request_duration_seconds_bucket{{le=\"0.002\"}} {all}\n\
             couponry_issuer_issue_request_duration_seconds_bucket{{le=\"+Inf\"}} {all}\n\
             couponry_issuer_outbox_in_flight 3\n"
        ))
    }

    fn scrape(uid: &str, at: i64, metrics: PodMetrics) -> Scrape {
        Scrape { uid: uid.to_owned(), at, restarts: 0, metrics }
    }

    fn advance(rates: &mut Rates, at: i64, pods: &[(&str, PodMetrics)]) -> Sample {
        let scrapes = pods.iter().map(|(uid, metrics)| scrape(uid, at, metrics.clone()));
        rates.advance(at, scrapes.collect(), pods.len(), |_| true)
    }

    #[test]
    fn sample_sums_the_increases_of_all_pods() {
        let mut rates = Rates::default();
        let first = advance(&mut rates, 1000, &[("a", issuer(100, 100, 100)), ("b", issuer(50, 50, 50))]);
        assert_eq!(first.issuers, Issuers { running: 2, read: 2, rated: 0 });
        let second = [("a", issuer(120, 120, 120)), ("b", issuer(70, 50, 70)), ("new", issuer(900, 900, 900))];
        let sample = advance(&mut rates, 3000, &second);
        assert_eq!(sample.outcomes.get("issued"), Some(&20.0));
        assert_eq!(sample.issued, BTreeMap::from([("summer".to_owned(), 20.0)]));
        assert_eq!((sample.errors, sample.outbox), (20.0, Some(9.0)));
        assert_eq!(sample.issuers, Issuers { running: 3, read: 3, rated: 2 });
        // 20 requests up to 1 ms, and 20 from 1 to 2 ms.
        assert_eq!(sample.p50, Some(0.001));
        assert!(sample.p99.is_some_and(|p99| (p99 - 0.00198).abs() < 1e-9), "{sample:?}");
    }

    #[test]
    fn restarted_pod_counts_from_zero() {
        let mut rates = Rates::default();
        advance(&mut rates, 1000, &[("a", issuer(100, 100, 100))]);
        let sample = advance(&mut rates, 2000, &[("a", issuer(7, 7, 7))]);
        assert_eq!(sample.issued.get("summer"), Some(&7.0));
        assert_eq!(sample.p50, Some(0.0005));
        // More than before the restart.
        let restarted = Scrape { restarts: 1, ..scrape("a", 3000, issuer(20, 20, 20)) };
        let sample = rates.advance(3000, vec![restarted], 1, |_| true);
        assert_eq!(sample.issued.get("summer"), Some(&20.0));
    }

    #[test]
    fn unresponsive_pod_has_no_rate_and_then_the_average() {
        let mut rates = Rates::default();
        advance(&mut rates, 1000, &[("a", issuer(100, 100, 100)), ("b", issuer(0, 0, 0))]);
        for second in [2, 3, 4] {
            let at = second * 1000;
            let metrics = issuer(u32::try_from(100 * second).unwrap(), 100, 100);
            let sample = rates.advance(at, vec![scrape("a", at, metrics)], 2, |_| true);
            assert_eq!(sample.issued.get("summer"), Some(&100.0), "{second}");
            assert_eq!(sample.issuers, Issuers { running: 2, read: 1, rated: 1 });
        }
        let sample = advance(&mut rates, 5000, &[("a", issuer(500, 100, 100)), ("b", issuer(400, 100, 100))]);
        assert_eq!(sample.issued.get("summer"), Some(&200.0));
        // A pod that was removed is forgotten.
        let returned = rates.advance(6000, vec![scrape("b", 6000, issuer(500, 1, 1))], 1, |uid| uid == "a");
        assert_eq!(returned.issuers.rated, 0);
    }

    #[test]
    fn idle_and_missing_pods_have_no_latency() {
        let mut rates = Rates::default();
        advance(&mut rates, 1000, &[("a", issuer(1, 1, 1))]);
        let idle = advance(&mut rates, 2000, &[("a", issuer(1, 1, 1))]);
        assert_eq!((idle.p50, idle.p99, idle.outcomes["issued"]), (None, None, 0.0));
        assert!(idle.issued.is_empty() && idle.issuers.rated == 1);
        let none = advance(&mut rates, 3000, &[]);
        assert_eq!(none, Sample { at: 3000, ..Sample::default() });
    }

    #[test]
    fn issuers_are_those_that_the_leader_reports() {
        let operator = |leader, ready| {
            let ready = format!("couponry_operator_issuers_ready {ready}\ncouponry_operator_issuer_min_replicas 4\n");
            PodMetrics::parse(&format!("{ready}couponry_operator_is_leader {leader}\n"))
        };
        let pods = [("a", operator(0, 0)), ("b", operator(1, 3)), ("c", operator(0, 0))];
        let sample = advance(&mut Rates::default(), 1000, &pods);
        assert_eq!((sample.issuers_ready, sample.issuers_required), (Some(3.0), Some(4.0)));
    }
}
