//! Checks of the CRD, the pods of the release and the events.

use std::time::Duration;

use couponry_crds::{
    CouponEvent,
    status::{condition, reason},
};
use couponry_runtime::error_chain;
use kube::{
    Api, Client, ResourceExt as _,
    api::ListParams,
    core::{DeserializeGuard, error_boundary::InvalidObject},
};
use tokio::time::timeout;

use crate::{
    commands::{
        check_result::{CheckResult, Severity},
        crd::{SchemaDifference, compare_installed},
        release_pods,
    },
    kubernetes,
};

const KUBERNETES: &str = "Kubernetes";
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const NO_RESPONSE: &str = "no response in time";

/// `pod`: a pod of the release to check.
pub(super) async fn check_kubernetes(namespace: Option<&str>, pod: Option<&str>) -> Vec<CheckResult> {
    let (client, namespace) = match kubernetes::connect(namespace).await {
        Ok(found) => found,
        Err(error) => return vec![CheckResult::fail(KUBERNETES, format!("{error:#}"), "")],
    };
    let mut results = vec![check_crd(&client).await];
    if let Some(pod) = pod {
        let checked = timeout(REQUEST_TIMEOUT, release_pods::check(client.clone(), &namespace, pod)).await;
        results.extend(checked.unwrap_or_else(|_| vec![CheckResult::warn("pods", NO_RESPONSE, "")]));
    }
    results.extend(check_events(client, &namespace).await);
    results
}

async fn check_crd(client: &Client) -> CheckResult {
    const CRD: &str = "CRD";
    let apply = format!("kubectl apply --server-side -f {}", couponry_crds::CRD_FILE);
    match timeout(REQUEST_TIMEOUT, compare_installed(client)).await {
        Err(_) => CheckResult::fail(KUBERNETES, NO_RESPONSE, ""),
        Ok(Err(error)) => CheckResult::fail(KUBERNETES, format!("{error:#}"), ""),
        Ok(Ok(None)) => CheckResult::fail(CRD, "CouponEvent is not installed", apply),
        Ok(Ok(Some(SchemaDifference { missing, unknown }))) => match (&missing[..], &unknown[..]) {
            ([], []) => CheckResult::ok(CRD, "CouponEvent v1alpha1 matches this operator"),
            ([], unknown) => {
                let found =
                    format!("the installed CouponEvent is newer than this operator: it has {}", unknown.join(", "));
                CheckResult::warn(CRD, found, "upgrade the operator")
            }
            (missing, _) => {
                let found =
                    format!("the installed CouponEvent does not match this operator: it lacks {}", missing.join(", "));
                CheckResult::warn(CRD, found, apply)
            }
        },
    }
}

async fn check_events(client: Client, namespace: &str) -> Vec<CheckResult> {
    const EVENTS: &str = "events";
    let events: Api<DeserializeGuard<CouponEvent>> = Api::namespaced(client, namespace);
    let events = match timeout(REQUEST_TIMEOUT, events.list(&ListParams::default())).await {
        Ok(Ok(events)) => events.items,
        Ok(Err(error)) => return vec![CheckResult::fail(EVENTS, error_chain(&error), "")],
        Err(_) => return vec![CheckResult::fail(EVENTS, NO_RESPONSE, "")],
    };
    let problems: Vec<_> = events
        .iter()
        .flat_map(|DeserializeGuard(event)| match event {
            Ok(event) => problems_of(event),
            Err(invalid) => vec![invalid_object(invalid)],
        })
        .collect();
    if problems.is_empty() {
        return vec![CheckResult::ok(EVENTS, format!("{} in {namespace}, no problems", events.len()))];
    }
    problems
}

fn invalid_object(invalid: &InvalidObject) -> CheckResult {
    let name = invalid.metadata.name.as_deref().unwrap_or_default();
    let found = format!("the object is invalid: {}", invalid.error);
    CheckResult::fail(format!("event {name}"), found, format!("correct it with `kubectl edit ce {name}`, or delete it"))
}

/// The problems that the status of an event reports.
fn problems_of(event: &CouponEvent) -> Vec<CheckResult> {
    let name = format!("event {}", event.name_any());
    let Some(status) = &event.status else {
        let advice = "check that the operator is running, and its log";
        return vec![CheckResult::warn(name, "not reconciled by any operator yet", advice)];
    };
    let mut problems = Vec::new();
    for found in &status.conditions {
        let (is_true, is_false) = (found.status == "True", found.status == "False");
        let severity = match found.type_.as_str() {
            condition::STALLED if is_true && found.reason == reason::DELETING => Severity::Warn,
            condition::STALLED if is_true => Severity::Fail,
            // Before the start and after the end no issuers are required.
            condition::SCALED if [reason::SCALING_SCHEDULED, reason::SCALED_DOWN].contains(&found.reason.as_str()) => {
                continue;
            }
            // Durable is the same for all events, and checked with Redis.
            condition::BALANCED | condition::SCALED if is_false => Severity::Warn,
            _ => continue,
        };
        problems.push(CheckResult::new(severity, &name, format!("{} ({})", found.type_, found.reason), &found.message));
    }
    if status.observed_generation != event.metadata.generation {
        problems.push(CheckResult::warn(
            &name,
            "the latest change is not reconciled yet",
            "check again; if it persists, check that the operator is running",
        ));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_issuers_outside_the_scaling_period_are_no_problem() {
        let problems = |reason: &str| {
            let time = "lastTransitionTime: '2026-12-01T00:00:00Z'";
            let condition = format!("{{type: Scaled, status: 'False', reason: {reason}, message: m, {time}}}");
            let spec = "{policyName: p, totalCount: 1, discounts: []}";
            let yaml = format!("{{metadata: {{name: e}}, spec: {spec}, status: {{conditions: [{condition}]}}}}");
            let event: CouponEvent = serde_yaml::from_str(&yaml).unwrap();
            problems_of(&event).into_iter().map(|problem| problem.found).collect::<Vec<_>>()
        };
        assert_eq!(problems("ScaledDown"), Vec::<String>::new());
        assert_eq!(problems("ScalingScheduled"), Vec::<String>::new());
        assert_eq!(problems("QuotaExceeded"), ["Scaled (QuotaExceeded)"]);
    }
}
