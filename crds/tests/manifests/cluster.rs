//! A namespace on the shared API server, with the CRD installed.

use std::{
    process,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use k8s_openapi::{
    api::core::v1::Namespace, apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Config, ResourceExt as _,
    api::{Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    runtime::{conditions, wait::await_condition},
};
use serde_json::{Value, json};

/// Field manager of applied manifests.
const FIELD_MANAGER: &str = "couponry-test";

/// A namespace on the shared API server.
pub(crate) struct Cluster {
    client: Client,
    namespace: String,
}

impl Cluster {
    /// Installs the CRD, which tests may do concurrently, and creates a namespace.
    pub(crate) async fn connect() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let kubeconfig = Kubeconfig::read_from(couponry_testbed::shared::kubeconfig())?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        let client = Client::try_from(config)?;
        let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
        let crd = couponry_crds::crd();
        let name = crd.name_any();
        crds.patch(&name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&crd)).await?;
        let established = await_condition(crds, &name, conditions::is_crd_established());
        tokio::time::timeout(Duration::from_mins(1), established).await.context("the CRD is not established")??;
        let namespace = format!("crds-{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let body = serde_json::from_value(json!({"metadata": {"name": namespace}}))?;
        Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &body).await?;
        Ok(Self { client, namespace })
    }

    /// Server-side apply with strict validation, as kubectl. `Err` contains the message of the API server.
    pub(crate) async fn apply(&self, manifest: &Value) -> Result<Result<Value, String>> {
        let name = manifest["metadata"]["name"].as_str().ok_or_else(|| anyhow!("no name in {manifest}"))?;
        let params = PatchParams::apply(FIELD_MANAGER).force().validation_strict();
        Self::rejection_or_object(self.api().patch(name, &params, &Patch::Apply(manifest)).await)
    }

    /// Merges fields into the status of an event, as the operator does.
    pub(crate) async fn merge_status(&self, name: &str, status: Value) -> Result<()> {
        let patch = Patch::Merge(json!({"status": status}));
        self.api().patch_status(name, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    // Untyped, because the typed object cannot represent invalid manifests.
    fn api(&self) -> Api<kube::api::DynamicObject> {
        Api::namespaced_with(
            self.client.clone(),
            &self.namespace,
            &kube::api::ApiResource::erase::<couponry_crds::CouponEvent>(&()),
        )
    }

    fn rejection_or_object(result: kube::Result<kube::api::DynamicObject>) -> Result<Result<Value, String>> {
        match result {
            Ok(object) => Ok(Ok(serde_json::to_value(object)?)),
            // The API server responds to an unknown field in an apply request with 500.
            Err(kube::Error::Api(status)) if matches!(status.code, 400 | 422 | 500) => Ok(Err(status.message)),
            Err(other) => Err(other.into()),
        }
    }
}

/// A `CouponEvent` with this name and this spec in YAML.
pub(crate) fn event(name: &str, spec: &str) -> Result<Value> {
    let spec: Value = serde_yaml::from_str(spec).with_context(|| format!("not YAML: {spec}"))?;
    Ok(json!({"apiVersion": "couponry.dev/v1alpha1", "kind": "CouponEvent", "metadata": {"name": name}, "spec": spec}))
}
