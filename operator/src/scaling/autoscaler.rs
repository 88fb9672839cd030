//! The `HorizontalPodAutoscaler` of the issuers, and the Deployment that it scales.

use k8s_openapi::api::{apps::v1::Deployment, autoscaling::v2::HorizontalPodAutoscaler, core::v1::Pod};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use super::readiness::Issuers;
use crate::reconcile::FIELD_MANAGER;

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
        json!({
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {
                "name": name,
                "labels": {"app.kubernetes.io/managed-by": FIELD_MANAGER},
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

/// Whether it says already what we would write.
fn is_as(found: &HorizontalPodAutoscaler, wanted: &Value) -> bool {
    let found = serde_json::to_value(found).unwrap_or_default();
    let same = |pointer: &str| found.pointer(pointer) == wanted.pointer(pointer);
    let owner = "/metadata/ownerReferences/0/uid";
    ["/spec/scaleTargetRef", "/spec/minReplicas", "/spec/maxReplicas", "/spec/metrics", owner].into_iter().all(same)
}

fn failed(operation: &str, error: &kube::Error) -> String {
    format!("{operation}: {error}")
}
