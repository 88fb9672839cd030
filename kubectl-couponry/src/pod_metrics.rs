//! The metrics of pods, which are read through the proxy of the API server.

mod exposition;

use std::{collections::BTreeMap, io, time::Duration};

use futures::AsyncReadExt as _;
use http::Request;
use k8s_openapi::api::core::v1::Pod;
use tokio::time::timeout;

use crate::{cluster::Cluster, view::sanitize};

const MONITOR_PORT: &str = "monitor";
/// After this time without a response, the metrics of a pod are unknown.
const TIMEOUT: Duration = Duration::from_secs(2);
/// An issuer responds with some ten kilobytes.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// Boundaries of a histogram in seconds, as their bits, with the number of values up to each. Boundaries are positive,
/// so their bits have the same order.
pub(crate) type Buckets = BTreeMap<u64, f64>;

/// The metrics of a pod that the plugin shows.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct PodMetrics {
    pub(crate) is_issuer: bool,
    pub(crate) outcomes: BTreeMap<String, f64>,
    /// Issued coupons by event.
    pub(crate) issued: BTreeMap<String, f64>,
    pub(crate) latency: Buckets,
    pub(crate) errors: f64,
    pub(crate) recorded: f64,
    pub(crate) outbox: Option<f64>,
    pub(crate) lag: Option<f64>,
    pub(crate) issuers_ready: Option<f64>,
    pub(crate) issuers_required: Option<f64>,
    pub(crate) is_leader: bool,
}

impl PodMetrics {
    pub(crate) fn parse(text: &str) -> Self {
        let mut found = Self::default();
        for it in exposition::parse(text) {
            match it.name {
                "couponry_issuer_coupons_issued_total" => {
                    if let Some(event) = it.label("event") {
                        found.issued.insert(event.to_owned(), it.value);
                    }
                }
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
                "couponry_operator_issuer_min_replicas" => found.issuers_required = Some(it.value),
                "couponry_operator_is_leader" => found.is_leader = it.value > 0.0,
                _ => {}
            }
        }
        found.is_issuer = found.outbox.is_some();
        found
    }
}

fn is_server_error(code: &str) -> bool {
    code.starts_with('5')
}

/// Why the metrics of a pod are unknown.
pub(crate) enum Unread {
    /// The permission `get` on `pods/proxy` is missing.
    Forbidden,
    /// In words, with the name of the pod.
    Failed(String),
}

/// The port of the metrics of a pod.
pub(crate) fn monitor_port(pod: &Pod) -> Option<i32> {
    let ports = pod.spec.iter().flat_map(|spec| &spec.containers).flat_map(|it| it.ports.iter().flatten());
    let port = ports.into_iter().find(|port| port.name.as_deref() == Some(MONITOR_PORT));
    port.map(|port| port.container_port)
}

/// Reads the metrics of the pod of this name.
pub(crate) async fn read(cluster: &Cluster, name: &str, port: Option<i32>) -> Result<PodMetrics, Unread> {
    let failed = |error: &str| Unread::Failed(format!("{name}: {}", sanitize(error)));
    let port = port.ok_or_else(|| failed("it has no port `monitor`"))?;
    let path = format!("/api/v1/namespaces/{}/pods/{name}:{port}/proxy/metrics", cluster.namespace);
    let request = Request::get(path).body(Vec::new()).map_err(|error| failed(&error.to_string()))?;
    let response = async {
        let body = cluster.client.request_stream(request).await?;
        let mut text = String::new();
        let read = body.take(MAX_BYTES + 1).read_to_string(&mut text).await;
        Ok(read.map(|_| text))
    };
    let response: kube::Result<io::Result<String>> =
        timeout(TIMEOUT, response).await.map_err(|_| failed("no response in time"))?;
    let text = match response {
        Ok(Ok(text)) => text,
        Ok(Err(error)) => return Err(failed(&error.to_string())),
        // The pod itself answers without a Status.
        Err(kube::Error::Api(status)) if status.code == 403 && status.reason == "Forbidden" => {
            return Err(Unread::Forbidden);
        }
        Err(kube::Error::Api(status)) => return Err(failed(&status.message)),
        Err(error) => return Err(failed(&error.to_string())),
    };
    if u64::try_from(text.len()).is_ok_and(|length| length > MAX_BYTES) {
        return Err(failed(&format!("more than {MAX_BYTES} bytes")));
    }
    Ok(PodMetrics::parse(&text))
}

/// The quantile of a histogram, interpolated in its bucket as Prometheus does; none if the histogram is empty.
pub(crate) fn quantile(buckets: &Buckets, q: f64) -> Option<f64> {
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
