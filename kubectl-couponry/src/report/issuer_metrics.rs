//! Latency and outcomes of issue requests, from the metrics of the issuers. They cover all events since each issuer has
//! started.

use std::collections::BTreeMap;

use http::Request;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt as _, api::ListParams};
use serde_json::{Value, json};

use crate::{cluster::Cluster, view::sanitize};

const LABELS: &str = "app.kubernetes.io/part-of=couponry,app.kubernetes.io/component=issuer";
const PORT: &str = "monitor";
const REQUESTS: &str = "couponry_issuer_requests_total";
const BUCKETS: &str = "couponry_issuer_issue_request_duration_seconds_bucket";

/// The sums over all issuers.
#[derive(Debug, Default, PartialEq)]
pub(super) struct IssuerMetrics {
    pub(super) issuers: usize,
    /// Issue requests by outcome.
    pub(super) outcomes: BTreeMap<String, u64>,
    /// Cumulative counts, by the upper limit in microseconds.
    buckets: BTreeMap<u64, u64>,
}

impl IssuerMetrics {
    /// Reads the metrics of all issuers through the API server. The error describes why they are not available.
    pub(super) async fn read(cluster: &Cluster) -> Result<Self, String> {
        let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
        let unavailable = |error: kube::Error| match error {
            kube::Error::Api(status) if status.code == 403 => {
                "not available: this requires a Role with the rule {apiGroups: [\"\"], resources: [pods/proxy], verbs: \
                 [get]}"
                    .to_owned()
            }
            error => format!("not available: {}", sanitize(&error.to_string())),
        };
        let found = pods.list(&ListParams::default().labels(LABELS)).await.map_err(unavailable)?;
        let mut metrics = Self::default();
        for pod in found.items {
            let name = pod.name_any();
            let ports = pod.spec.iter().flat_map(|spec| &spec.containers).flat_map(|it| it.ports.iter().flatten());
            let port =
                ports.into_iter().find(|port| port.name.as_deref() == Some(PORT)).map(|port| port.container_port);
            let Some(port) = port else { continue };
            let path = format!("/api/v1/namespaces/{}/pods/{name}:{port}/proxy/metrics", cluster.namespace);
            let request = Request::get(path).body(Vec::new()).map_err(|error| format!("not available: {error}"))?;
            metrics.add(&cluster.client.request_text(request).await.map_err(unavailable)?);
        }
        if metrics.issuers == 0 { Err("not available: no issuer is running".to_owned()) } else { Ok(metrics) }
    }

    /// Adds those of one issuer, in the text format of Prometheus.
    fn add(&mut self, text: &str) {
        self.issuers += 1;
        for line in text.lines() {
            let Some((series, value)) = line.split_once("} ") else { continue };
            let Some((name, labels)) = series.split_once('{') else { continue };
            // An exemplar may follow.
            let Some(value) = value.split(' ').next().and_then(|value| value.parse::<u64>().ok()) else { continue };
            let label = |name: &str| labels.split(',').find_map(|label| label.strip_prefix(name)?.strip_suffix('"'));
            match name {
                REQUESTS => {
                    if let Some(outcome) = label("outcome=\"") {
                        *self.outcomes.entry(sanitize(outcome)).or_default() += value;
                    }
                }
                BUCKETS => {
                    if let Some(limit) = label("le=\"").and_then(microseconds) {
                        *self.buckets.entry(limit).or_default() += value;
                    }
                }
                _ => {}
            }
        }
    }

    /// In milliseconds, at most how long this share of the requests took. None: there were no requests, or it is beyond
    /// the largest bucket.
    #[expect(clippy::cast_precision_loss, reason = "a quantile")]
    pub(super) fn latency(&self, quantile: f64) -> Option<f64> {
        let count = *self.buckets.values().last().filter(|count| **count > 0)?;
        let found = self.buckets.iter().find(|(_, below)| **below as f64 >= quantile * count as f64);
        found.filter(|(limit, _)| **limit != u64::MAX).map(|(limit, _)| *limit as f64 / 1000.0)
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "issuers": self.issuers,
            "outcomes": self.outcomes,
            "latencyMilliseconds": {"p50": self.latency(0.5), "p99": self.latency(0.99)},
        })
    }
}

/// The limit of a bucket, which is given in seconds.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most some seconds")]
fn microseconds(limit: &str) -> Option<u64> {
    if limit == "+Inf" {
        return Some(u64::MAX);
    }
    limit.parse::<f64>().ok().map(|seconds| (seconds * 1_000_000.0).round() as u64)
}

#[cfg(test)]
mod tests {
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
couponry_issuer_issue_request_duration_seconds_bucket{le=\"0.001\"} 98
couponry_issuer_issue_request_duration_seconds_bucket{le=\"0.002\"} 99
couponry_issuer_issue_request_duration_seconds_bucket{le=\"+Inf\"} 100
";

    #[test]
    fn metrics_of_issuers_are_added() {
        let mut metrics = IssuerMetrics::default();
        assert_eq!(metrics.latency(0.5), None);
        metrics.add(METRICS);
        metrics.add(METRICS);
        assert_eq!(metrics.issuers, 2);
        assert_eq!(metrics.outcomes, [("issued".to_owned(), 180), ("sold_out".to_owned(), 20)].into());
        assert_eq!((metrics.latency(0.5), metrics.latency(0.99), metrics.latency(1.0)), (Some(1.0), Some(2.0), None));
        assert_eq!(metrics.json()["latencyMilliseconds"], json!({"p50": 1.0, "p99": 2.0}));
    }
}
