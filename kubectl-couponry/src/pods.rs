//! The pods of an installation.

use k8s_openapi::api::core::v1::Pod;

pub(crate) const ISSUER_LABELS: &str = "app.kubernetes.io/part-of=couponry,app.kubernetes.io/component=issuer";
pub(crate) const OPERATOR_LABELS: &str = "app.kubernetes.io/part-of=couponry,app.kubernetes.io/component=operator";

pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// Whether its containers run and are not being stopped.
pub(crate) fn is_running(pod: &Pod) -> bool {
    phase(pod) == "Running" && pod.metadata.deletion_timestamp.is_none()
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|it| it.type_ == "Ready" && it.status == "True")
}
