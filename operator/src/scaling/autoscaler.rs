//! The `HorizontalPodAutoscaler` of the issuers, and the Deployment that it scales.

use k8s_openapi::api::{apps::v1::Deployment, autoscaling::v2::HorizontalPodAutoscaler, core::v1::Pod};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions},
};
use serde_json::{Value, json};

use super::readiness::Issuers;
use crate::reconcile::FIELD_MANAGER;

/// The label that says whose it is.
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// The one `HorizontalPodAutoscaler` that the operator owns.
pub(crate) struct Autoscaler {
    deployment: String,
    max: u32,
    target_cpu_percent: u32,
    deployments: Api<Deployment>,
    autoscalers: Api<HorizontalPodAutoscaler>,
    pods: Api<Pod>,
}

impl Autoscaler {
    pub(crate) fn new(client: &Client, namespace: &str, deployment: &str, max: u32, target_cpu_percent: u32) -> Self {
        Self {
            deployment: deployment.to_owned(),
            max,
            target_cpu_percent,
            deployments: Api::namespaced(client.clone(), namespace),
            autoscalers: Api::namespaced(client.clone(), namespace),
            pods: Api::namespaced(client.clone(), namespace),
        }
    }

    /// Puts the least number of issuers in force, unless it is, and looks at the issuers. `Err` says what is in the way.
    pub(crate) async fn settle(&self, floor: u32) -> Result<Issuers, String> {
        let name = &self.deployment;
        let deployment =
            self.deployments.get_opt(name).await.map_err(|error| failed("reading the Deployment", &error))?;
        let Some(deployment) = deployment else { return Err(format!("there is no Deployment {name} to scale")) };
        let wanted = self.manifest(&deployment, floor);
        let found = self.autoscalers.get_opt(name).await;
        let found = found.map_err(|error| failed("reading the HorizontalPodAutoscaler", &error))?;
        if !found.as_ref().is_some_and(|found| is_as(found, &wanted)) {
            let params = PatchParams::apply(FIELD_MANAGER).force();
            let applied = self.autoscalers.patch(name, &params, &Patch::Apply(&wanted)).await;
            applied.map_err(|error| failed("writing the HorizontalPodAutoscaler", &error))?;
            tracing::info!(autoscaler = name, min = floor, max = self.max, "the HorizontalPodAutoscaler is set");
        }
        let ready = deployment.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or_default();
        let is_enough = u32::try_from(ready).is_ok_and(|ready| ready >= floor);
        let pods = if is_enough { Vec::new() } else { self.pods_of(&deployment).await? };
        Ok(Issuers::of(&deployment, &pods))
    }

    async fn pods_of(&self, deployment: &Deployment) -> Result<Vec<Pod>, String> {
        let labels = deployment.spec.as_ref().and_then(|spec| spec.selector.match_labels.as_ref());
        let selector: Vec<_> = labels.into_iter().flatten().map(|(key, value)| format!("{key}={value}")).collect();
        let params = ListParams::default().labels(&selector.join(","));
        let pods = self.pods.list(&params).await.map_err(|error| failed("listing the issuers' pods", &error))?;
        Ok(pods.items)
    }

    fn manifest(&self, deployment: &Deployment, floor: u32) -> Value {
        let name = &self.deployment;
        // So that whoever looks for what belongs to the issuer finds it. Of the chart itself it is not.
        let mut labels = deployment.labels().clone();
        labels.retain(|name, _| !name.starts_with("helm.sh/"));
        labels.insert(MANAGED_BY.to_owned(), FIELD_MANAGER.to_owned());
        json!({
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {
                "name": name,
                "labels": labels,
                // It goes with the Deployment, also when the operator goes first.
                "ownerReferences": [
                    {"apiVersion": "apps/v1", "kind": "Deployment", "name": name, "uid": deployment.metadata.uid},
                ],
            },
            "spec": {
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
                "minReplicas": floor,
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

/// Deletes what an operator made that did scale. `Err` says what is in the way.
pub(crate) async fn remove_leftovers(autoscalers: &Api<HorizontalPodAutoscaler>) -> Result<(), String> {
    let ours = ListParams::default().labels(&format!("{MANAGED_BY}={FIELD_MANAGER}"));
    let found = autoscalers.list(&ours).await.map_err(|error| failed("looking for an old autoscaler", &error))?;
    for left in found.items.iter().filter(|found| is_made_by_us(found)) {
        let name = left.metadata.name.as_deref().unwrap_or_default();
        // The one that was looked at, and no other that has taken its name.
        let preconditions = Preconditions { uid: left.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match autoscalers.delete(name, &params).await {
            Ok(_) => tracing::info!(autoscaler = name, "scaling is off: the HorizontalPodAutoscaler is deleted"),
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(failed("deleting the old HorizontalPodAutoscaler", &error)),
        }
    }
    Ok(())
}

/// Whether it belongs to the Deployment of its own name, as every one does that [`Autoscaler::settle`] makes.
fn is_made_by_us(found: &HorizontalPodAutoscaler) -> bool {
    let owners = found.metadata.owner_references.iter().flatten();
    owners.into_iter().any(|owner| owner.kind == "Deployment" && Some(&owner.name) == found.metadata.name.as_ref())
}

/// Whether it says already what we would write.
fn is_as(found: &HorizontalPodAutoscaler, wanted: &Value) -> bool {
    let found = serde_json::to_value(found).unwrap_or_default();
    let same = |pointer: &str| found.pointer(pointer) == wanted.pointer(pointer);
    let owner = "/metadata/ownerReferences/0/uid";
    let labels = |object: &Value| object.pointer("/metadata/labels").and_then(Value::as_object).cloned();
    // There may be more labels, of others.
    let (here, ours) = (labels(&found).unwrap_or_default(), labels(wanted).unwrap_or_default());
    let is_labelled = ours.iter().all(|(name, value)| here.get(name) == Some(value));
    is_labelled
        && ["/spec/scaleTargetRef", "/spec/minReplicas", "/spec/maxReplicas", "/spec/metrics", owner]
            .into_iter()
            .all(same)
}

fn failed(operation: &str, error: &kube::Error) -> String {
    format!("{operation}: {error}")
}
