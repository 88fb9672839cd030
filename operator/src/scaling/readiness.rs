//! Whether the issuers that an event requires are ready, and if not, why. Without I/O.

use couponry_crds::status::reason;
use k8s_openapi::{
    api::{apps::v1::Deployment, core::v1::Pod},
    jiff::Timestamp,
};
use kube::ResourceExt as _;

use crate::{
    blocker::Blocker,
    pod_status::{Unready, UnreadyCause, unready},
    scaling::min_replicas::{Demand, Limits, Phase},
};

/// The last observed state of the issuers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Issuers {
    #[default]
    Unknown,
    /// Scaling failed with this error.
    Failed(String),
    Observed {
        ready: u32,
        /// Why others are not ready.
        blocker: Option<Blocker>,
    },
}

/// What an event reports about the issuers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ScalingReport {
    /// The event has no spec.scaling.
    NotRequested,
    /// The issuers have not been observed yet.
    Unknown,
    Known(ScaledCondition),
}

/// The condition `Scaled`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ScaledCondition {
    pub(crate) is_scaled: bool,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl Issuers {
    pub(super) fn observe(deployment: &Deployment, pods: &[Pod]) -> Self {
        let ready = deployment.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or_default();
        Self::Observed { ready: u32::try_from(ready).unwrap_or_default(), blocker: blocker(deployment, pods) }
    }
}

fn blocker(deployment: &Deployment, pods: &[Pod]) -> Option<Blocker> {
    let conditions = deployment.status.as_ref().and_then(|status| status.conditions.as_ref());
    let failure = conditions.into_iter().flatten().find(|one| one.type_ == "ReplicaFailure" && one.status == "True");
    if let Some(failure) = failure {
        let cause = without_full_stop(failure.message.as_deref().unwrap_or_default());
        return Some(if cause.contains("exceeded quota") {
            Blocker::new(reason::QUOTA_EXCEEDED, format!("The quota of the namespace is exceeded: {cause}."))
        } else {
            Blocker::new(reason::POD_CREATION_FAILED, format!("The creation of pods fails: {cause}."))
        });
    }
    let unready: Vec<_> = pods.iter().filter_map(|pod| Some((pod, unready(pod)?))).collect();
    let with_cause = |cause| unready.iter().filter(move |(_, unready)| unready.cause == cause);
    let mut unschedulable = with_cause(UnreadyCause::Unschedulable);
    if let Some((_, Unready { message, .. })) = unschedulable.next() {
        let count = unschedulable.count() + 1;
        let cause = without_full_stop(message.as_deref().unwrap_or("the scheduler reports no cause"));
        return Some(Blocker::new(
            reason::PODS_UNSCHEDULABLE,
            format!("{count} {} cannot be scheduled to a node: {cause}.", if count == 1 { "pod" } else { "pods" }),
        ));
    }
    let (pod, Unready { reason, message, .. }) = with_cause(UnreadyCause::ContainerFailing).next()?;
    let causes: Vec<_> = [reason, message].into_iter().flatten().map(String::as_str).collect();
    let message = format!("The pod {} fails to start: {}.", pod.name_any(), without_full_stop(&causes.join(": ")));
    Some(Blocker::new(reason::PODS_FAILING, message))
}

fn without_full_stop(message: &str) -> &str {
    message.trim_end_matches('.')
}

/// The report of an event with this demand.
pub(super) fn report(demand: &Demand, limits: Limits, issuers: &Issuers, now: i64) -> ScalingReport {
    let required = demand.replicas.min(limits.max);
    let cap = if demand.replicas > required {
        format!(" The event requires {}, but --issuer-max-replicas is {required}.", demand.replicas)
    } else {
        String::new()
    };
    let known = |is_scaled, reason, message: String| {
        ScalingReport::Known(ScaledCondition { is_scaled, reason, message: message + &cap })
    };
    match demand.phase(now) {
        Phase::Before => {
            let from = demand.from.and_then(|from| Timestamp::from_millisecond(from).ok()).unwrap_or_default();
            let message = format!("At least {required} issuers will be started at {from}.");
            return known(false, reason::SCALING_SCHEDULED, message);
        }
        Phase::After => {
            return known(false, reason::SCALED_DOWN, "The event no longer requires issuers.".to_owned());
        }
        Phase::Active => {}
    }
    match issuers {
        Issuers::Unknown => ScalingReport::Unknown,
        Issuers::Failed(error) => {
            let message = format!("The issuers cannot be scaled: {error}. The operator retries.");
            known(false, reason::SCALING_FAILED, message)
        }
        Issuers::Observed { ready, .. } if *ready >= required => {
            known(true, reason::ISSUERS_READY, format!("All {required} required issuers are ready."))
        }
        Issuers::Observed { ready, blocker: Some(Blocker { reason, message, .. }) } => {
            known(false, reason, format!("{ready} of {required} required issuers are ready. {message}"))
        }
        Issuers::Observed { ready, blocker: None } => known(
            false,
            reason::ISSUERS_STARTING,
            format!("{ready} of {required} required issuers are ready. The others are starting."),
        ),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const LIMITS: Limits = Limits { min: 2, max: 10 };
    const NOW: i64 = 1_796_083_200_000;

    fn issuers(ready: u32, conditions: &Value, pods: &[Value]) -> Issuers {
        let deployment = json!({"status": {"readyReplicas": ready, "conditions": conditions}});
        let pods: Vec<Pod> = pods.iter().map(|pod| serde_json::from_value(pod.clone()).unwrap()).collect();
        Issuers::observe(&serde_json::from_value(deployment).unwrap(), &pods)
    }

    fn condition(demand: &Demand, issuers: &Issuers, now: i64) -> ScaledCondition {
        match report(demand, LIMITS, issuers, now) {
            ScalingReport::Known(condition) => condition,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn report_names_the_blocker_of_missing_issuers() {
        let none = json!([]);
        let failure = |message: &str| json!([{"type": "ReplicaFailure", "status": "True", "message": message}]);
        let pending = json!({"status": {"conditions": [{"type": "PodScheduled", "status": "False",
            "message": "0/1 nodes are available: 1 Insufficient cpu."}]}});
        let waiting = |reason: &str| {
            let state = json!({"waiting": {"reason": reason, "message": "no such image"}});
            let container = json!({"name": "issuer", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": state});
            json!({"metadata": {"name": "issuer-1"}, "status": {"containerStatuses": [container]}})
        };
        let placed = json!({"status": {"conditions": [{"type": "PodScheduled", "status": "True"}]}});
        for (issuers, is_scaled, reason, message) in [
            (issuers(8, &none, &[]), true, "IssuersReady", "All 8 required issuers are ready."),
            (
                issuers(9, &none, std::slice::from_ref(&pending)),
                true,
                "IssuersReady",
                "All 8 required issuers are ready.",
            ),
            (
                issuers(5, &none, &[placed, waiting("ContainerCreating")]),
                false,
                "IssuersStarting",
                "5 of 8 required issuers are ready. The others are starting.",
            ),
            (
                issuers(2, &failure("pods \"x\" is forbidden: exceeded quota: small, used: pods=2"), &[]),
                false,
                "QuotaExceeded",
                "2 of 8 required issuers are ready. The quota of the namespace is exceeded: pods \"x\" is forbidden: \
                 exceeded quota: small, used: pods=2.",
            ),
            (
                issuers(2, &failure("violates PodSecurity"), &[]),
                false,
                "PodCreationFailed",
                "2 of 8 required issuers are ready. The creation of pods fails: violates PodSecurity.",
            ),
            (
                issuers(6, &none, &[pending.clone(), pending.clone()]),
                false,
                "PodsUnschedulable",
                "6 of 8 required issuers are ready. 2 pods cannot be scheduled to a node: 0/1 nodes are available: 1 \
                 Insufficient cpu.",
            ),
            (
                issuers(7, &none, &[waiting("ImagePullBackOff")]),
                false,
                "PodsFailing",
                "7 of 8 required issuers are ready. The pod issuer-1 fails to start: ImagePullBackOff: no such image.",
            ),
            (
                Issuers::Failed("why".to_owned()),
                false,
                "ScalingFailed",
                "The issuers cannot be scaled: why. The operator retries.",
            ),
        ] {
            let demand = Demand { replicas: 8, from: None, until: None };
            let condition = condition(&demand, &issuers, NOW);
            assert_eq!(
                (condition.is_scaled, condition.reason, condition.message.as_str()),
                (is_scaled, reason, message)
            );
        }
    }

    #[test]
    fn report_depends_on_the_phase_and_names_the_limit() {
        let ready = Issuers::Observed { ready: 10, blocker: None };
        let demand = Demand { replicas: 12, from: Some(NOW + 1000), until: Some(NOW + 5000) };
        for (now, is_scaled, message) in [
            (NOW, false, "At least 10 issuers will be started at 2026-12-01T00:00:01Z."),
            (NOW + 1000, true, "All 10 required issuers are ready."),
            (NOW + 5000, false, "The event no longer requires issuers."),
        ] {
            let condition = condition(&demand, &ready, now);
            assert_eq!(condition.is_scaled, is_scaled);
            let cap = " The event requires 12, but --issuer-max-replicas is 10.";
            assert_eq!(condition.message, format!("{message}{cap}"));
        }
        assert_eq!(report(&demand, LIMITS, &Issuers::Unknown, NOW + 1000), ScalingReport::Unknown);
    }
}
