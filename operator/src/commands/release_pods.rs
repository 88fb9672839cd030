//! Checks that the pods of the release are ready. A failed upgrade leaves the previous pods running, so everything
//! else is healthy.

use couponry_runtime::error_chain;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, ResourceExt as _, api::ListParams};

use crate::{
    commands::check_result::CheckResult,
    pod_status::{Unready, unready},
};

const PODS: &str = "pods";

/// The labels that identify a release.
const RELEASE_LABELS: [&str; 2] = ["app.kubernetes.io/name", "app.kubernetes.io/instance"];

/// Checks all pods of the release that the pod `own` belongs to.
pub(super) async fn check(client: Client, namespace: &str, own: &str) -> Vec<CheckResult> {
    match list(&Api::namespaced(client, namespace), own).await {
        Ok(pods) => check_pods(&pods, own),
        Err(error) => vec![CheckResult::warn(PODS, format!("cannot list the pods: {}", error_chain(&error)), "")],
    }
}

async fn list(pods: &Api<Pod>, own: &str) -> kube::Result<Vec<Pod>> {
    // The Role allows only `list`.
    let found = pods.list(&ListParams::default().fields(&format!("metadata.name={own}"))).await?;
    let Some(this) = found.items.first() else { return Ok(Vec::new()) };
    let labels = RELEASE_LABELS.map(|name| this.labels().get(name).map(|value| format!("{name}={value}")));
    let [Some(name), Some(instance)] = labels else { return Ok(found.items) };
    Ok(pods.list(&ListParams::default().labels(&format!("{name},{instance}"))).await?.items)
}

fn check_pods(pods: &[Pod], own: &str) -> Vec<CheckResult> {
    // Terminated pods belong to a Helm test, or were replaced.
    let is_active = |pod: &&Pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        pod.metadata.deletion_timestamp.is_none() && !matches!(phase, Some("Succeeded" | "Failed"))
    };
    let active: Vec<_> = pods.iter().filter(is_active).collect();
    let mut results: Vec<_> = active.iter().filter_map(|pod| Some(describe(pod, unready(pod)?))).collect();
    let ready = active.len() - results.len();
    results.push(CheckResult::ok(PODS, format!("{ready} of {} are ready; checked from {own}", active.len())));
    results
}

fn describe(pod: &Pod, Unready { reason, message, .. }: Unready) -> CheckResult {
    let name = pod.name_any();
    let reason = reason.map_or_else(String::new, |reason| format!(" ({reason})"));
    let advice = message.unwrap_or_else(|| format!("see `kubectl describe pod {name}` and its log"));
    CheckResult::warn(PODS, format!("{name} is not ready{reason}"), advice)
}
