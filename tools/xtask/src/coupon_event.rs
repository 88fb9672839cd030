//! The CRD `CouponEvent` and its objects on an API server.

use anyhow::{Context, Result};
use couponry_testbed::Kubernetes;
use couponry_testbed::kubectl::wait_established;
use serde_json::{Value, json};

use crate::{cargo, codegen};

/// Applies the CRD and waits until the API server serves it.
pub(crate) fn apply_crd(kubernetes: &Kubernetes) -> Result<()> {
    let crd = cargo::root().join(codegen::CRD);
    kubernetes.kubectl(&["apply", "--server-side", "-f", &crd.to_string_lossy()])?;
    wait_established(kubernetes.kubeconfig(), &["crd/couponevents.couponry.dev"])
}

/// A manifest with two discounts.
pub(crate) fn manifest(name: &str, policy_name: &str, total: u64, acknowledge: &str) -> Value {
    json!({
        "apiVersion": "couponry.dev/v1alpha1",
        "kind": "CouponEvent",
        "metadata": {"name": name},
        "spec": {
            "policyName": policy_name,
            "totalCount": total,
            "discounts": [
                {"type": "Percent", "value": 10, "allocationPercentage": 70},
                {"type": "Amount", "value": 5000, "allocationPercentage": 30},
            ],
            "acknowledge": acknowledge,
        },
    })
}

/// Returns the event of this name.
pub(crate) fn get(kubernetes: &Kubernetes, name: &str) -> Result<Value> {
    let json = kubernetes.kubectl(&["get", "couponevent", name, "-o", "json"])?;
    serde_json::from_str(&json).context("the output of kubectl is not valid JSON")
}

/// The number at this JSON pointer of an event.
pub(crate) fn number(event: &Value, pointer: &str) -> Option<u64> {
    event.pointer(pointer)?.as_u64()
}

/// The condition of this type of an event.
pub(crate) fn condition<'a>(event: &'a Value, kind: &str) -> Option<&'a Value> {
    event.pointer("/status/conditions")?.as_array()?.iter().find(|c| c["type"] == kind)
}

/// Whether the condition Ready of an event is True.
pub(crate) fn is_ready(event: &Value) -> bool {
    condition(event, "Ready").is_some_and(|ready| ready["status"] == "True")
}
