//! Resources in Kubernetes: the CRD, `CouponEvent`s and Kubernetes Events.

use std::{path::Path, time::Instant};

use anyhow::{Context as _, Result, ensure};
use couponry_crds::{CouponEvent, CouponEventStatus};
use couponry_domain::Uuid;
use couponry_testbed::{
    kubectl::{kubectl, wait_established},
    shared,
};
use k8s_openapi::api::events::v1::Event;
use kube::{
    Client, Config,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::Value;
use tokio::time::sleep;

use super::{DEADLINE, POLL_INTERVAL, World, is_true, wait_until};

/// A client of the API server of this kubeconfig.
pub(crate) async fn client(kubeconfig: &Path) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// Applies a definition of `CouponEvent` and waits until it is established.
pub(crate) fn install_crd(kubeconfig: &Path, crd: &str) -> Result<()> {
    kubectl(kubeconfig, &["apply", "--server-side", "--force-conflicts", "-f", "-"], Some(crd))?;
    wait_established(kubeconfig, &["crd/couponevents.couponry.dev"])
}

impl World {
    /// Applies an event with kubectl.
    pub(crate) fn apply(&self, name: &str, spec: &str) -> Result<()> {
        let manifest = format!(
            "{{apiVersion: couponry.dev/v1alpha1, kind: CouponEvent, metadata: {{name: {name}}}, spec: {spec}}}"
        );
        shared::kubectl_with(&["apply", "--namespace", self.namespace(), "-f", "-"], &manifest).map(drop)
    }

    /// Applies the event, and waits until it is open.
    pub(crate) async fn apply_open(&self, name: &str, spec: &str) -> Result<()> {
        self.apply(name, spec)?;
        self.wait(name, "open", |status| is_true(status, "Open")).await.map(drop)
    }

    /// Changes an annotation of an event: `NAME=VALUE`, or `NAME-` to remove it.
    pub(crate) fn annotate(&self, name: &str, annotation: &str) -> Result<()> {
        let annotate = ["annotate", "--overwrite", "ce", name, annotation, "--namespace", self.namespace()];
        shared::kubectl(&annotate).map(drop)
    }

    /// Changes an object by a JSON merge patch. `object`: its kind and name, and options of kubectl.
    pub(crate) fn patch(&self, object: &[&str], patch: &Value) -> Result<()> {
        let patch = patch.to_string();
        let args = [&["patch", "--namespace", self.namespace(), "--type=merge", "-p", &patch], object].concat();
        shared::kubectl(&args).map(drop)
    }

    /// Requests the deletion of an event.
    pub(crate) fn delete(&self, name: &str) -> Result<()> {
        shared::kubectl(&["delete", "ce", name, "--namespace", self.namespace(), "--wait=false"]).map(drop)
    }

    /// The output of `kubectl get ce`.
    pub(crate) fn kubectl_get(&self) -> Result<String> {
        shared::kubectl(&["get", "ce", "--namespace", self.namespace()])
    }

    pub(crate) async fn get(&self, name: &str) -> Result<CouponEvent> {
        self.events.get(name).await.with_context(|| format!("cannot read {name}"))
    }

    pub(crate) async fn uid(&self, name: &str) -> Result<Uuid> {
        self.get(name).await?.event_uid().context("no uid")
    }

    /// Waits until the status belongs to the present generation and satisfies the condition. `what` describes it.
    pub(crate) async fn wait(
        &self,
        name: &str,
        what: &str,
        condition: impl Fn(&CouponEventStatus) -> bool,
    ) -> Result<CouponEventStatus> {
        let started = Instant::now();
        loop {
            let event = self.get(name).await?;
            let generation = event.metadata.generation;
            let status = event.status.unwrap_or_default();
            if status.observed_generation == generation && condition(&status) {
                return Ok(status);
            }
            ensure!(started.elapsed() < DEADLINE, "{name} is not {what} after {DEADLINE:?}: {status:#?}");
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Waits until the present generation of the event is Ready.
    pub(crate) async fn wait_ready(&self, name: &str) -> Result<CouponEventStatus> {
        self.wait(name, "ready", |status| is_true(status, "Ready")).await
    }

    /// Waits until the resource is removed.
    pub(crate) async fn wait_gone(&self, name: &str) -> Result<()> {
        wait_until("the resource is removed", async || Ok(self.events.get_opt(name).await?.is_none())).await
    }

    /// The Kubernetes Events about the `CouponEvent`.
    pub(crate) async fn kube_events(&self, name: &str) -> Result<Vec<Event>> {
        let mut events = self.kube_events.list(&ListParams::default()).await?.items;
        events.retain(|event| event.regarding.as_ref().and_then(|object| object.name.as_deref()) == Some(name));
        Ok(events)
    }

    /// The reasons of the Kubernetes Events about it, once per occurrence, in alphabetical order.
    pub(crate) async fn kube_event_reasons(&self, name: &str) -> Result<Vec<String>> {
        let mut reasons: Vec<String> = self
            .kube_events(name)
            .await?
            .into_iter()
            .flat_map(|event| {
                let times = event.series.map_or(1, |series| series.count);
                std::iter::repeat_n(event.reason.unwrap_or_default(), usize::try_from(times).unwrap_or(1))
            })
            .collect();
        reasons.sort();
        Ok(reasons)
    }

    /// Waits until exactly these Kubernetes Events were published.
    pub(crate) async fn wait_kube_events(&self, name: &str, expected: &[&str]) -> Result<()> {
        let started = Instant::now();
        loop {
            let reasons = self.kube_event_reasons(name).await?;
            if reasons == expected {
                return Ok(());
            }
            ensure!(started.elapsed() < DEADLINE, "Kubernetes Events of {name}: {reasons:?}, expected {expected:?}");
            sleep(POLL_INTERVAL).await;
        }
    }
}
