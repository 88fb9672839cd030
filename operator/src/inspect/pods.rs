//! Whether the pods of the release are Ready. An upgrade that fails leaves those of before at work: then all else is well.

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, ResourceExt as _, api::ListParams};

use super::check::{Finding, Level, PATIENCE};

const WHAT: &str = "pods";

/// What the pods of a release have in common.
const RELEASE: [&str; 2] = ["app.kubernetes.io/name", "app.kubernetes.io/instance"];

/// Looks at all pods of the release that this one is of.
pub(super) async fn look(client: Client, namespace: &str, own: &str) -> Vec<Finding> {
    match tokio::time::timeout(PATIENCE, of_the_release(&Api::namespaced(client, namespace), own)).await {
        Ok(Ok(pods)) => judge(&pods, own),
        Ok(Err(error)) => vec![Finding::new(Level::Warn, WHAT, format!("cannot list them: {error}"), "")],
        Err(_) => vec![Finding::new(Level::Warn, WHAT, "no answer in time", "")],
    }
}

async fn of_the_release(pods: &Api<Pod>, own: &str) -> kube::Result<Vec<Pod>> {
    // The Role has `list` only.
    let found = pods.list(&ListParams::default().fields(&format!("metadata.name={own}"))).await?;
    let Some(this) = found.items.first() else { return Ok(Vec::new()) };
    let labels = RELEASE.map(|name| this.labels().get(name).map(|value| format!("{name}={value}")));
    let [Some(name), Some(instance)] = labels else { return Ok(found.items) };
    Ok(pods.list(&ListParams::default().labels(&format!("{name},{instance}"))).await?.items)
}

fn judge(pods: &[Pod], own: &str) -> Vec<Finding> {
    let phase = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default();
    // Those that have ended are a test's, or replaced already.
    let is_meant = |pod: &&Pod| {
        pod.metadata.deletion_timestamp.is_none() && !["Succeeded", "Failed"].contains(&phase(pod).as_str())
    };
    let meant: Vec<_> = pods.iter().filter(is_meant).collect();
    let mut findings: Vec<_> = meant.iter().filter_map(|pod| unready(pod)).collect();
    let ready = meant.len() - findings.len();
    findings.push(Finding::ok(WHAT, format!("{ready} of {} are Ready; {own} answers", meant.len())));
    findings
}

/// Why the pod is not Ready, if it is not.
fn unready(pod: &Pod) -> Option<Finding> {
    let name = pod.name_any();
    let status = pod.status.clone().unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    let condition = |type_: &str| conditions.iter().find(|said| said.type_ == type_);
    if condition("Ready").is_some_and(|ready| ready.status == "True") {
        return None;
    }
    let containers = status.container_statuses.into_iter().flatten();
    let waiting = containers.filter_map(|container| container.state?.waiting).find(|waiting| waiting.reason.is_some());
    let unscheduled = condition("PodScheduled").filter(|said| said.status == "False");
    let (reason, message) = match (waiting, unscheduled.or(condition("Ready"))) {
        (Some(waiting), _) => (waiting.reason, waiting.message),
        (None, Some(said)) => (said.reason.clone(), said.message.clone()),
        (None, None) => (None, None),
    };
    let reason = reason.map_or_else(String::new, |reason| format!(" ({reason})"));
    let advice = message.unwrap_or_else(|| format!("kubectl describe pod {name}, and its log"));
    Some(Finding::new(Level::Warn, WHAT, format!("{name} is not Ready{reason}"), advice))
}
