//! Why a pod is not ready, from its status.

use k8s_openapi::api::core::v1::Pod;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UnreadyCause {
    /// No node fits.
    Unschedulable,
    /// A container cannot start, for example because its image cannot be pulled, or it keeps crashing.
    ContainerFailing,
    /// The containers are being created, or do not pass their readiness probes yet.
    Starting,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unready {
    pub(crate) cause: UnreadyCause,
    /// Reason and message as Kubernetes reports them.
    pub(crate) reason: Option<String>,
    pub(crate) message: Option<String>,
}

/// None: the pod is ready.
pub(crate) fn unready(pod: &Pod) -> Option<Unready> {
    let status = pod.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let condition =
        |type_: &str, value: &str| conditions.iter().find(|found| found.type_ == type_ && found.status == value);
    if condition("Ready", "True").is_some() {
        return None;
    }
    if let Some(found) = condition("PodScheduled", "False") {
        let (reason, message) = (found.reason.clone(), found.message.clone());
        return Some(Unready { cause: UnreadyCause::Unschedulable, reason, message });
    }
    let containers = status.and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    let waiting = containers.iter().filter_map(|container| container.state.as_ref()?.waiting.as_ref());
    let is_failing = |reason: &str| !matches!(reason, "ContainerCreating" | "PodInitializing");
    if let Some(found) = { waiting }.find(|waiting| waiting.reason.as_deref().is_some_and(is_failing)) {
        let (reason, message) = (found.reason.clone(), found.message.clone());
        return Some(Unready { cause: UnreadyCause::ContainerFailing, reason, message });
    }
    let found = condition("Ready", "False");
    Some(Unready {
        cause: UnreadyCause::Starting,
        reason: found.and_then(|found| found.reason.clone()),
        message: found.and_then(|found| found.message.clone()),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn unready_pod_names_its_cause() {
        let condition =
            |type_: &str, status: &str| json!({"type": type_, "status": status, "reason": "R", "message": "m"});
        let waiting = |reason: &str| {
            json!([{"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"waiting": {"reason": reason}}}])
        };
        let cause = |conditions: Value, containers: Value| {
            let pod = json!({"status": {"conditions": conditions, "containerStatuses": containers}});
            unready(&serde_json::from_value(pod).unwrap())
                .map(|unready| (unready.cause, unready.reason.unwrap_or_default()))
        };
        assert_eq!(cause(json!([condition("Ready", "True")]), json!([])), None);
        assert_eq!(
            cause(json!([condition("PodScheduled", "False")]), json!([])),
            Some((UnreadyCause::Unschedulable, "R".to_owned()))
        );
        assert_eq!(
            cause(json!([condition("Ready", "False")]), waiting("ImagePullBackOff")),
            Some((UnreadyCause::ContainerFailing, "ImagePullBackOff".to_owned()))
        );
        assert_eq!(
            cause(json!([condition("Ready", "False")]), waiting("ContainerCreating")),
            Some((UnreadyCause::Starting, "R".to_owned()))
        );
        assert_eq!(cause(json!([]), json!([])), Some((UnreadyCause::Starting, String::new())));
    }
}
