//! Fills the board with the pods of the namespace, and with the metrics that they serve.

use std::{cell::RefCell, collections::BTreeMap, time::Duration};

use futures::{StreamExt as _, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt as _, api::ListParams};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use super::{
    board::{Board, Source},
    event_feeds::{forbidden, problem},
    object_watch::{Change, Failure, follow},
    rates::{Rates, Scrape},
};
use crate::{
    cluster::Cluster,
    pod_metrics::{self, Unread},
    pods,
};

/// Pods of all releases in the namespace that have metrics.
const MONITORED_PODS: &str = "app.kubernetes.io/part-of=couponry,couponry.dev/monitored=true";
const COMPONENT: &str = "app.kubernetes.io/component";
const SCRAPE_INTERVAL: Duration = Duration::from_secs(2);
/// Limits the load on the API server to 25 requests per second: with more than 50 pods, the interval is longer.
const INTERVAL_PER_POD: Duration = Duration::from_millis(40);
/// Requests to pods at once. Pods that do not respond do not delay the others until so many do not.
const CONCURRENCY: usize = 16;

/// What is needed of a pod.
#[derive(Clone)]
struct Target {
    name: String,
    component: String,
    port: Option<i32>,
    is_running: bool,
    is_ready: bool,
    restarts: i32,
    /// When its metrics were read last, in milliseconds of Unix time.
    read_at: Option<i64>,
}

type Targets = BTreeMap<String, Target>;

/// Follows the pods and reads their metrics until the end of the process.
pub(super) async fn run(cluster: &Cluster, board: &Board) {
    // None until the pods were listed.
    let targets = RefCell::new(None);
    tokio::join!(follow_pods(cluster, board, &targets), scrape_pods(cluster, board, &targets));
}

async fn follow_pods(cluster: &Cluster, board: &Board, targets: &RefCell<Option<Targets>>) {
    let report = |change: Result<Change<Pod>, Failure>| {
        let mut targets = targets.borrow_mut();
        let add = |targets: &mut Targets, pod: &Pod| {
            let uid = pod.uid().unwrap_or_default();
            let read_at = targets.get(&uid).and_then(|target| target.read_at);
            targets.insert(uid, Target { read_at, ..target(pod) });
        };
        match change {
            Ok(Change::Listed(pods)) => {
                let mut listed = targets.take().unwrap_or_default();
                listed.retain(|uid, _| pods.iter().any(|pod| pod.metadata.uid.as_ref() == Some(uid)));
                for pod in &pods {
                    add(&mut listed, pod);
                }
                *targets = Some(listed);
            }
            Ok(Change::Applied(pod)) => add(targets.get_or_insert_default(), &pod),
            Ok(Change::Deleted(pod)) => {
                targets.get_or_insert_default().remove(&pod.uid().unwrap_or_default());
            }
            Ok(Change::None) => {}
            Err(failure) => {
                return board.fail(Source::Pods, problem(cluster, failure, Some(("list the pods", "pods"))));
            }
        }
        board.confirm(Source::Pods, Timestamp::now());
        board.set_pods(views(targets.as_ref()));
    };
    let api: Api<Pod> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    follow(api, &ListParams::default().labels(MONITORED_PODS), report).await;
}

async fn scrape_pods(cluster: &Cluster, board: &Board, targets: &RefCell<Option<Targets>>) {
    let mut rates = Rates::default();
    loop {
        let started = Instant::now();
        let current = targets.borrow().clone().unwrap_or_default();
        let running: Vec<_> = current.iter().filter(|(_, target)| target.is_running).collect();
        if targets.borrow().is_some() {
            let requests = running.iter().map(|(uid, target)| scrape(cluster, uid, target));
            let responses: Vec<_> = stream::iter(requests).buffer_unordered(CONCURRENCY).collect().await;
            let (scrapes, failures): (Vec<_>, Vec<_>) = responses.into_iter().partition(Result::is_ok);
            let scrapes: Vec<Scrape> = scrapes.into_iter().flatten().collect();
            let count = running.len();
            let problem = failures.into_iter().find_map(Result::err).map(|error| match error {
                Unread::Forbidden => {
                    let problem = forbidden(cluster, "read the metrics of the pods", "pods/proxy", "get");
                    format!("{problem}. Rates, latency and lag are unknown")
                }
                Unread::Failed(error) => {
                    format!("The metrics of {} of {count} pods cannot be read: {error}", count - scrapes.len())
                }
            });
            if let Some(known) = targets.borrow_mut().as_mut() {
                for scrape in &scrapes {
                    if let Some(target) = known.get_mut(&scrape.uid) {
                        target.read_at = Some(scrape.at);
                    }
                }
            }
            let issuers = running.iter().filter(|(_, target)| target.component == "issuer").count();
            let is_running = |uid: &str| running.iter().any(|(running, _)| *running == uid);
            let now = Timestamp::now();
            board.add_sample(rates.advance(now.as_millisecond(), scrapes, issuers, is_running));
            board.set_pods(views(targets.borrow().as_ref()));
            board.confirm_with(Source::Metrics, now, problem);
        }
        let scrape_count = u32::try_from(running.len()).unwrap_or(u32::MAX);
        sleep_until(started + SCRAPE_INTERVAL.max(INTERVAL_PER_POD.saturating_mul(scrape_count))).await;
    }
}

async fn scrape(cluster: &Cluster, uid: &str, target: &Target) -> Result<Scrape, Unread> {
    let metrics = pod_metrics::read(cluster, &target.name, target.port).await?;
    let at = Timestamp::now().as_millisecond();
    Ok(Scrape { uid: uid.to_owned(), at, restarts: target.restarts, metrics })
}

fn target(pod: &Pod) -> Target {
    let is_running = pods::is_running(pod);
    let containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    Target {
        name: pod.name_any(),
        component: pod.labels().get(COMPONENT).cloned().unwrap_or_default(),
        port: pod_metrics::monitor_port(pod),
        is_running,
        is_ready: is_running && pods::is_ready(pod),
        restarts: containers.map(|it| it.restart_count).sum(),
        read_at: None,
    }
}

fn views(targets: Option<&Targets>) -> Vec<Value> {
    let view = |target: &Target| {
        json!({
            "name": target.name,
            "component": target.component,
            "isRunning": target.is_running,
            "isReady": target.is_ready,
            "readAt": target.read_at,
        })
    };
    targets.into_iter().flat_map(BTreeMap::values).map(view).collect()
}
