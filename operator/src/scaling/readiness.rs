//! Whether as many issuers are ready as an event asks for, and why not, in plain words: without a client.

use couponry_crds::status::reason;
use k8s_openapi::{
    api::{apps::v1::Deployment, core::v1::Pod},
    jiff::Timestamp,
};

use super::floor::{Demand, Limits, Phase};

/// What is known of the issuers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Issuers {
    /// Nothing yet.
    #[default]
    Unknown,
    /// They cannot be scaled: why.
    Failed(String),
    /// They were looked at.
    Seen {
        /// How many are ready.
        ready: u32,
        /// What keeps others from being it.
        hindrance: Option<Hindrance>,
    },
}

/// What keeps an issuer from being ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hindrance {
    reason: &'static str,
    message: String,
}

/// The condition Scaled of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scaled {
    pub(crate) holds: bool,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl Issuers {
    /// What the Deployment and its pods say.
    pub(crate) fn of(deployment: &Deployment, pods: &[Pod]) -> Self {
        let ready = deployment.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or_default();
        Self::Seen { ready: u32::try_from(ready).unwrap_or_default(), hindrance: hindrance(deployment, pods) }
    }
}

fn hindrance(deployment: &Deployment, pods: &[Pod]) -> Option<Hindrance> {
    let conditions = deployment.status.as_ref().and_then(|status| status.conditions.as_ref());
    let failure = conditions.into_iter().flatten().find(|one| one.type_ == "ReplicaFailure" && one.status == "True");
    if let Some(failure) = failure {
        let said = failure.message.as_deref().unwrap_or_default();
        return Some(if said.contains("exceeded quota") {
            let message = format!("a quota of the namespace has no room for more: {said}");
            Hindrance { reason: reason::QUOTA_EXCEEDED, message }
        } else {
            Hindrance {
                reason: reason::PODS_REFUSED,
                message: format!("the cluster refuses to make more pods: {said}"),
            }
        });
    }
    let homeless: Vec<_> = pods.iter().filter_map(unscheduled).collect();
    if let Some(said) = homeless.first() {
        let message = match homeless.len() {
            1 => format!("one more finds no node: {said}"),
            count => format!("{count} more find no node: {said}"),
        };
        return Some(Hindrance { reason: reason::PODS_PENDING, message });
    }
    let message = pods.iter().find_map(failing)?;
    Some(Hindrance { reason: reason::PODS_FAILING, message })
}

/// Why the pod has no node.
fn unscheduled(pod: &Pod) -> Option<&str> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let scheduled = conditions.iter().find(|one| one.type_ == "PodScheduled" && one.status == "False")?;
    Some(scheduled.message.as_deref().unwrap_or("nobody knows why"))
}

/// Why a container of the pod does not start, when it is more than that it has not started yet.
fn failing(pod: &Pod) -> Option<String> {
    let containers = pod.status.as_ref()?.container_statuses.as_ref()?;
    let waiting = containers.iter().filter_map(|container| container.state.as_ref()?.waiting.as_ref());
    let waiting = waiting.filter_map(|waiting| Some((waiting.reason.as_deref()?, waiting.message.as_deref())));
    let (why, said) = { waiting }.find(|(why, _)| !matches!(*why, "ContainerCreating" | "PodInitializing"))?;
    let name = pod.metadata.name.as_deref().unwrap_or("a pod");
    Some(format!("{name} does not start: {}", said.map_or_else(|| why.to_owned(), |said| format!("{why}: {said}"))))
}

/// The condition of an event that asks for so much. None: nothing is known yet.
pub(crate) fn scaled(demand: &Demand, limits: Limits, issuers: &Issuers, now: i64) -> Option<Scaled> {
    let wanted = demand.replicas.min(limits.max);
    let capped = if demand.replicas > wanted {
        format!(" (the event asks for {}, --issuer-max-replicas allows {wanted})", demand.replicas)
    } else {
        String::new()
    };
    let told = |holds, reason, message: String| Some(Scaled { holds, reason, message: message + &capped });
    match demand.phase(now) {
        Phase::Before => {
            let from = demand.from.and_then(|from| Timestamp::from_millisecond(from).ok()).unwrap_or_default();
            return told(false, reason::SCALING_SCHEDULED, format!("There will be {wanted} issuers from {from} on"));
        }
        Phase::After => {
            return told(false, reason::SCALED_DOWN, "The event does not ask for issuers any more".to_owned());
        }
        Phase::Now => {}
    }
    match issuers {
        Issuers::Unknown => None,
        Issuers::Failed(why) => told(false, reason::SCALING_FAILED, why.clone()),
        Issuers::Seen { ready, .. } if *ready >= wanted => {
            told(true, reason::ISSUERS_READY, format!("{wanted} of {wanted} issuers are ready"))
        }
        Issuers::Seen { ready, hindrance: Some(Hindrance { reason, message }) } => {
            told(false, reason, format!("{ready} of {wanted} issuers are ready; {message}"))
        }
        Issuers::Seen { ready, hindrance: None } => told(
            false,
            reason::ISSUERS_STARTING,
            format!("{ready} of {wanted} issuers are ready; the others are starting"),
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
        Issuers::of(&serde_json::from_value(deployment).unwrap(), &pods)
    }

    #[test]
    fn what_is_in_the_way_is_said() {
        let none = json!([]);
        let failure = |message: &str| json!([{"type": "ReplicaFailure", "status": "True", "message": message}]);
        let pending = json!({"status": {"conditions": [{"type": "PodScheduled", "status": "False",
            "message": "0/1 nodes are available: 1 Insufficient cpu."}]}});
        let waiting = |reason: &str| {
            json!({"metadata": {"name": "issuer-1"}, "status": {"containerStatuses": [{"name": "issuer", "image": "", "imageID": "",
                "ready": false, "restartCount": 0, "state": {"waiting": {"reason": reason, "message": "no such image"}}}]}})
        };
        let placed = json!({"status": {"conditions": [{"type": "PodScheduled", "status": "True"}]}});
        for (issuers, holds, reason, message) in [
            (issuers(8, &none, &[]), true, "IssuersReady", "8 of 8 issuers are ready"),
            (issuers(9, &none, std::slice::from_ref(&pending)), true, "IssuersReady", "8 of 8 issuers are ready"),
            (
                issuers(5, &none, &[placed, waiting("ContainerCreating")]),
                false,
                "IssuersStarting",
                "5 of 8 issuers are ready; the others are starting",
            ),
            (
                issuers(2, &failure("pods \"x\" is forbidden: exceeded quota: small, used: pods=2"), &[]),
                false,
                "QuotaExceeded",
                "2 of 8 issuers are ready; a quota of the namespace has no room for more: pods \"x\" is forbidden: exceeded \
                 quota: small, used: pods=2",
            ),
            (
                issuers(2, &failure("violates PodSecurity"), &[]),
                false,
                "PodsRefused",
                "2 of 8 issuers are ready; the cluster refuses to make more pods: violates PodSecurity",
            ),
            (
                issuers(6, &none, &[pending.clone(), pending.clone()]),
                false,
                "PodsPending",
                "6 of 8 issuers are ready; 2 more find no node: 0/1 nodes are available: 1 Insufficient cpu.",
            ),
            (
                issuers(7, &none, &[waiting("ImagePullBackOff")]),
                false,
                "PodsFailing",
                "7 of 8 issuers are ready; issuer-1 does not start: ImagePullBackOff: no such image",
            ),
            (Issuers::Failed("why".to_owned()), false, "ScalingFailed", "why"),
        ] {
            let demand = Demand { replicas: 8, from: None, until: None };
            let told = scaled(&demand, LIMITS, &issuers, NOW).unwrap();
            assert_eq!((told.holds, told.reason, told.message.as_str()), (holds, reason, message));
        }
    }

    #[test]
    fn the_time_and_the_limit_are_said() {
        let none = Issuers::Seen { ready: 10, hindrance: None };
        let demand = Demand { replicas: 12, from: Some(NOW + 1000), until: Some(NOW + 5000) };
        for (now, holds, message) in [
            (NOW, false, "There will be 10 issuers from 2026-12-01T00:00:01Z on"),
            (NOW + 1000, true, "10 of 10 issuers are ready"),
            (NOW + 5000, false, "The event does not ask for issuers any more"),
        ] {
            let told = scaled(&demand, LIMITS, &none, now).unwrap();
            assert_eq!(told.holds, holds);
            assert_eq!(told.message, format!("{message} (the event asks for 12, --issuer-max-replicas allows 10)"));
        }
        assert_eq!(scaled(&demand, LIMITS, &Issuers::Unknown, NOW + 1000), None);
    }
}
