//! The `HorizontalPodAutoscaler` of the issuers, and the Deployment that it scales.

use couponry_runtime::error_chain;
use k8s_openapi::api::{apps::v1::Deployment, autoscaling::v2::HorizontalPodAutoscaler, core::v1::Pod};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions},
};
use serde_json::{Value, json};

use crate::{kubernetes::FIELD_MANAGER, scaling::readiness::Issuers};

const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// The `HorizontalPodAutoscaler` that the operator owns.
pub(super) struct Autoscaler {
    deployment: String,
    max: u32,
    target_cpu_percent: u32,
    deployments: Api<Deployment>,
    autoscalers: Api<HorizontalPodAutoscaler>,
    pods: Api<Pod>,
}

impl Autoscaler {
    pub(super) fn new(client: &Client, namespace: &str, deployment: &str, max: u32, target_cpu_percent: u32) -> Self {
        Self {
            deployment: deployment.to_owned(),
            max,
            target_cpu_percent,
            deployments: Api::namespaced(client.clone(), namespace),
            autoscalers: Api::namespaced(client.clone(), namespace),
            pods: Api::namespaced(client.clone(), namespace),
        }
    }

    /// Applies the minimum number of issuers, and observes the issuers. The error describes the failed operation.
    pub(super) async fn apply(&self, minimum: u32) -> Result<Issuers, String> {
        let name = &self.deployment;
        let deployment = self.deployments.get_opt(name).await.map_err(failed("read the Deployment"))?;
        let Some(deployment) = deployment else {
            return Err(format!("the Deployment {name} (--issuer-deployment) does not exist"));
        };
        let desired = self.manifest(&deployment, minimum);
        let found = self.autoscalers.get_opt(name).await.map_err(failed("read the HorizontalPodAutoscaler"))?;
        if !found.as_ref().is_some_and(|found| is_up_to_date(found, &desired)) {
            let params = PatchParams::apply(FIELD_MANAGER).force();
            let applied = self.autoscalers.patch(name, &params, &Patch::Apply(&desired)).await;
            applied.map_err(failed("apply the HorizontalPodAutoscaler"))?;
            tracing::info!(autoscaler = name, minimum, maximum = self.max, "HorizontalPodAutoscaler applied");
        }
        let ready = deployment.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or_default();
        let are_enough = u32::try_from(ready).is_ok_and(|ready| ready >= minimum);
        let pods = if are_enough { Vec::new() } else { self.pods_of(&deployment).await? };
        Ok(Issuers::observe(&deployment, &pods))
    }

    async fn pods_of(&self, deployment: &Deployment) -> Result<Vec<Pod>, String> {
        let labels = deployment.spec.as_ref().and_then(|spec| spec.selector.match_labels.as_ref());
        let selector: Vec<_> = labels.into_iter().flatten().map(|(key, value)| format!("{key}={value}")).collect();
        let params = ListParams::default().labels(&selector.join(","));
        Ok(self.pods.list(&params).await.map_err(failed("list the pods of the issuers"))?.items)
    }

    fn manifest(&self, deployment: &Deployment, minimum: u32) -> Value {
        let name = &self.deployment;
        // The labels of the issuer's objects, so that selectors find it; but it is not part of the Helm release.
        let mut labels = deployment.labels().clone();
        labels.retain(|name, _| !name.starts_with("helm.sh/"));
        labels.insert(MANAGED_BY.to_owned(), FIELD_MANAGER.to_owned());
        json!({
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {
                "name": name,
                "labels": labels,
                // Deleted with the Deployment, even if the operator is deleted first.
                "ownerReferences": [
                    {"apiVersion": "apps/v1", "kind": "Deployment", "name": name, "uid": deployment.metadata.uid},
                ],
            },
            "spec": {
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
                "minReplicas": minimum,
                "maxReplicas": self.max,
                "metrics": [{
                    "type": "Resource",
                    "resource": {
                        "name": "cpu",
                        "target": {"type": "Utilization", "averageUtilization": self.target_cpu_percent},
                    },
                }],
            },
        })
    }
}

/// Deletes the autoscaler that the operator created when scaling was on.
pub(super) async fn delete_obsolete(autoscalers: &Api<HorizontalPodAutoscaler>) -> Result<(), String> {
    let params = ListParams::default().labels(&format!("{MANAGED_BY}={FIELD_MANAGER}"));
    let found = autoscalers.list(&params).await.map_err(failed("list the HorizontalPodAutoscalers"))?;
    for obsolete in found.items.iter().filter(|found| is_created_by_operator(found)) {
        let name = obsolete.metadata.name.as_deref().unwrap_or_default();
        // Only the listed object, not another one that has the same name meanwhile.
        let preconditions = Preconditions { uid: obsolete.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match autoscalers.delete(name, &params).await {
            Ok(_) => tracing::info!(autoscaler = name, "HorizontalPodAutoscaler deleted because scaling is off"),
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(failed("delete the HorizontalPodAutoscaler")(error)),
        }
    }
    Ok(())
}

/// Whether it is owned by the Deployment of the same name, as those are that [`Autoscaler::apply`] creates.
fn is_created_by_operator(found: &HorizontalPodAutoscaler) -> bool {
    let owners = found.metadata.owner_references.iter().flatten();
    owners.into_iter().any(|owner| owner.kind == "Deployment" && Some(&owner.name) == found.metadata.name.as_ref())
}

/// Whether applying `desired` would change nothing.
fn is_up_to_date(found: &HorizontalPodAutoscaler, desired: &Value) -> bool {
    let found = serde_json::to_value(found).unwrap_or_default();
    let is_same = |pointer: &str| found.pointer(pointer) == desired.pointer(pointer);
    let owner = "/metadata/ownerReferences/0/uid";
    let labels = |object: &Value| object.pointer("/metadata/labels").and_then(Value::as_object).cloned();
    // Other writers may have added labels.
    let (found_labels, desired_labels) = (labels(&found).unwrap_or_default(), labels(desired).unwrap_or_default());
    let has_labels = desired_labels.iter().all(|(name, value)| found_labels.get(name) == Some(value));
    has_labels
        && ["/spec/scaleTargetRef", "/spec/minReplicas", "/spec/maxReplicas", "/spec/metrics", owner]
            .into_iter()
            .all(is_same)
}

fn failed(operation: &'static str) -> impl Fn(kube::Error) -> String {
    move |error| format!("cannot {operation}: {}", error_chain(&error))
}
