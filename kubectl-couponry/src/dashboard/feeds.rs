//! Fills the board: a watch of the events, and polls of the pods' metrics.

use std::{collections::BTreeMap, time::Duration};

use couponry_crds::CouponEvent;
use futures::{StreamExt as _, stream};
use http::Request;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt as _,
    api::ListParams,
    core::DeserializeGuard,
    runtime::watcher::{self, Event, watcher},
};
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::{
    board::{Board, Source},
    event_view,
    rates::{PodMetrics, Rates},
};
use crate::{
    cluster::Cluster,
    view::sanitize,
    watched_events::{Events, WatchedEvents},
};

/// Pods of all releases in the namespace that have metrics.
const MONITORED_PODS: &str = "app.kubernetes.io/part-of=couponry,couponry.dev/monitored=true";
const COMPONENT: &str = "app.kubernetes.io/component";
const MONITOR_PORT: &str = "monitor";
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// Requests to the API server at once.
const CONCURRENCY: usize = 8;
/// After this time without a response, the API server or a pod is unreachable.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Follows the events until the end of the process.
pub(super) async fn watch_events(cluster: &Cluster, board: &Board) {
    let mut events = WatchedEvents::default();
    let mut changes = watcher(cluster.events(), watcher::Config::default()).boxed();
    while let Some(change) = changes.next().await {
        match change {
            Ok(change) => {
                let is_partial = matches!(change, Event::Init | Event::InitApply(_));
                events.apply(change);
                if !is_partial {
                    board.set_events(views(events.current()), Timestamp::now());
                    board.reached(Source::Events, None);
                }
            }
            Err(error) => {
                match error {
                    watcher::Error::InitialListFailed(error @ kube::Error::Api(_))
                    | watcher::Error::WatchStartFailed(error @ kube::Error::Api(_)) => {
                        board.reached(Source::Events, Some(cluster.explain(error, "watch").to_string()));
                    }
                    // A watch that has expired.
                    watcher::Error::WatchError(_) => {}
                    _ => board.lost(Source::Events, Timestamp::now()),
                }
                sleep(RETRY_INTERVAL).await;
            }
        }
    }
}

fn views(events: &Events) -> BTreeMap<String, (Value, u64)> {
    let view = |event: &DeserializeGuard<CouponEvent>| (event.name_any(), event_view::event(event));
    events.values().map(view).collect()
}

/// Polls the pods until the end of the process.
pub(super) async fn poll_pods(cluster: &Cluster, board: &Board) {
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let mut rates = Rates::default();
    let mut ticks = interval(POLL_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        board.add_idle_counts(Timestamp::now());
        let listed = timeout(REQUEST_TIMEOUT, pods.list(&ListParams::default().labels(MONITORED_PODS))).await;
        let listed = match listed {
            Ok(Ok(listed)) => listed.items,
            Ok(Err(kube::Error::Api(status))) => {
                let problem = if status.code == 403 {
                    forbidden(cluster, "list the pods", "pods", "list")
                } else {
                    format!("The pods cannot be listed: {}", sanitize(&status.message))
                };
                board.reached(Source::Pods, Some(problem));
                continue;
            }
            Ok(Err(_)) | Err(_) => {
                board.lost(Source::Pods, Timestamp::now());
                continue;
            }
        };
        let running: Vec<&Pod> = listed.iter().filter(|pod| is_running(pod)).collect();
        let has_issuer = running.iter().any(|pod| component(pod) == "issuer");
        let problem = format!("No issuer is running in the namespace {}: no coupon can be issued.", cluster.namespace);
        board.reached(Source::Pods, (!has_issuer).then_some(problem));
        board.set_pods(listed.iter().map(pod_view).collect());

        let requests = running.iter().map(|pod| metrics(cluster, pod));
        let responses: Vec<_> = stream::iter(requests).buffer_unordered(CONCURRENCY).collect().await;
        let (count, mut metrics, mut failure) = (responses.len(), BTreeMap::new(), None);
        for response in responses {
            match response {
                Ok((uid, found)) => drop(metrics.insert(uid, found)),
                Err(error) => failure = Some(error),
            }
        }
        let unread = count - metrics.len();
        let problem = failure.map(|error| match error {
            Unread::Forbidden => forbidden(cluster, "read the metrics of the pods", "pods/proxy", "get"),
            Unread::Failed(error) => format!("The metrics of {unread} of {count} pods cannot be read: {error}"),
        });
        board.reached(Source::Metrics, problem);
        if !metrics.is_empty()
            && let Some(sample) = rates.advance(Timestamp::now().as_millisecond(), metrics)
        {
            board.add_sample(sample);
        }
    }
}

enum Unread {
    Forbidden,
    Failed(String),
}

/// UID and metrics of a pod, through the proxy of the API server.
async fn metrics(cluster: &Cluster, pod: &Pod) -> Result<(String, PodMetrics), Unread> {
    let name = pod.name_any();
    let ports = pod.spec.iter().flat_map(|spec| &spec.containers).flat_map(|it| it.ports.iter().flatten());
    let port = ports.into_iter().find(|port| port.name.as_deref() == Some(MONITOR_PORT));
    let failed = |error: &str| Unread::Failed(format!("{name}: {}", sanitize(error)));
    let port = port.ok_or_else(|| failed("it has no port `monitor`"))?.container_port;
    let path = format!("/api/v1/namespaces/{}/pods/{name}:{port}/proxy/metrics", cluster.namespace);
    let request = Request::get(path).body(Vec::new()).map_err(|error| failed(&error.to_string()))?;
    match timeout(REQUEST_TIMEOUT, cluster.client.request_text(request)).await {
        Ok(Ok(text)) => Ok((pod.uid().unwrap_or(name), PodMetrics::parse(&text))),
        // The pod itself answers without a Status.
        Ok(Err(kube::Error::Api(status))) if status.code == 403 && status.reason == "Forbidden" => {
            Err(Unread::Forbidden)
        }
        Ok(Err(kube::Error::Api(status))) => Err(failed(&status.message)),
        Ok(Err(error)) => Err(failed(&error.to_string())),
        Err(_) => Err(failed("no response in time")),
    }
}

fn forbidden(cluster: &Cluster, what: &str, resource: &str, verb: &str) -> String {
    format!(
        "Not allowed to {what} in the namespace {}: this requires a Role with the rule {{apiGroups: [\"\"], resources: \
         [{resource}], verbs: [{verb}]}}. Rates, latency and lag are unknown.",
        cluster.namespace
    )
}

fn component(pod: &Pod) -> &str {
    pod.labels().get(COMPONENT).map_or("", String::as_str)
}

fn is_running(pod: &Pod) -> bool {
    pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Running"))
        && pod.metadata.deletion_timestamp.is_none()
}

fn pod_view(pod: &Pod) -> Value {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let is_ready = conditions.into_iter().any(|it| it.type_ == "Ready" && it.status == "True");
    json!({"name": pod.name_any(), "component": component(pod), "isReady": is_ready && is_running(pod)})
}
