//! Latency and outcomes of issue requests, from the metrics of the issuers. They cover all events since each issuer has
//! started.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt as _, api::ListParams};
use serde_json::{Value, json};

use crate::{
    cluster::Cluster,
    pod_metrics::{self, Buckets, PodMetrics, Unread, quantile},
    pods::{self, ISSUER_LABELS},
    view::sanitize,
};

/// The sums over all issuers.
#[derive(Debug, Default, PartialEq)]
pub(super) struct IssuerMetrics {
    pub(super) issuers: usize,
    /// Issue requests by outcome.
    pub(super) outcomes: BTreeMap<String, u64>,
    latency: Buckets,
}

impl IssuerMetrics {
    /// Reads the metrics of all issuers through the API server. The error describes why they are not available.
    pub(super) async fn read(cluster: &Cluster) -> Result<Self, String> {
        let found = Api::<Pod>::namespaced(cluster.client.clone(), &cluster.namespace)
            .list(&ListParams::default().labels(ISSUER_LABELS))
            .await
            .map_err(|error| format!("not available: {}", sanitize(&error.to_string())))?;
        let mut metrics = Self::default();
        for pod in found.iter().filter(|pod| pods::is_running(pod)) {
            let read = pod_metrics::read(cluster, &pod.name_any(), pod_metrics::monitor_port(pod)).await;
            metrics.add(&read.map_err(|unread| {
                match unread {
                    Unread::Forbidden => {
                        "not available: this requires a Role with the rule {apiGroups: [\"\"], resources: \
                                      [pods/proxy], verbs: [get]}"
                            .to_owned()
                    }
                    Unread::Failed(error) => format!("not available: {error}"),
                }
            })?);
        }
        if metrics.issuers == 0 { Err("not available: no issuer is running".to_owned()) } else { Ok(metrics) }
    }

    /// Adds those of one issuer.
    fn add(&mut self, issuer: &PodMetrics) {
        self.issuers += 1;
        for (outcome, count) in &issuer.outcomes {
            *self.outcomes.entry(sanitize(outcome)).or_default() += requests(*count);
        }
        for (boundary, count) in &issuer.latency {
            *self.latency.entry(*boundary).or_default() += count;
        }
    }

    /// The latency in milliseconds that this share of the requests did not exceed; none without requests.
    pub(super) fn latency(&self, share: f64) -> Option<f64> {
        quantile(&self.latency, share).map(|seconds| (seconds * 1_000_000.0).round() / 1000.0)
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "scope": "all events since the issuers started",
            "issuers": self.issuers,
            "outcomes": self.outcomes,
            "latencyMilliseconds": {"p50": self.latency(0.5), "p99": self.latency(0.99)},
        })
    }
}

/// A counter of requests.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of requests")]
fn requests(count: f64) -> u64 {
    count as u64
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// As an issuer prints it.
    const METRICS: &str = "\
# HELP couponry_issuer_requests Completed issue requests, by outcome.
# TYPE couponry_issuer_requests counter
couponry_issuer_requests_total{outcome=\"issued\"} 90
couponry_issuer_requests_total{outcome=\"sold_out\"} 10
couponry_issuer_issue_request_duration_seconds_sum 1.5
couponry_issuer_issue_request_duration_seconds_count 100
couponry_issuer_issue_request_duration_seconds_bucket{le=\"0.0005\"} 40
couponry_issuer_issue_request_duration_seconds_bucket{le=\"0.001\"} 90
couponry_issuer_issue_request_duration_seconds_bucket{le=\"0.002\"} 100
couponry_issuer_issue_request_duration_seconds_bucket{le=\"+Inf\"} 100
couponry_issuer_outbox_in_flight 0
";

    /// Of two issuers.
    pub(in super::super) fn two_issuers() -> IssuerMetrics {
        let mut metrics = IssuerMetrics::default();
        metrics.add(&PodMetrics::parse(METRICS));
        metrics.add(&PodMetrics::parse(METRICS));
        metrics
    }

    #[test]
    fn metrics_of_issuers_are_added_and_have_their_scope() {
        let expected = json!({
            "scope": "all events since the issuers started",
            "issuers": 2,
            "outcomes": {"issued": 180, "sold_out": 20},
            "latencyMilliseconds": {"p50": 0.6, "p99": 1.9},
        });
        assert_eq!(two_issuers().json(), expected);
        assert_eq!(IssuerMetrics::default().latency(0.5), None);
    }
}
