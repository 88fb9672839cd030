//! `kubectl couponry plan`: what a manifest would do, before it is applied.
//!
//! [`manifest`] reads it, [`estimate`] computes what would be generated, [`findings`] compares it with the other events
//! of the namespace. [`text`] and [`json`] format the result, a [`planned_event`].

mod estimate;
mod findings;
mod json;
mod manifest;
mod planned_event;
mod text;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, bail};
use clap::Args;
use couponry_crds::CouponEvent;
use couponry_output::{Stderr, Stdout};
use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, Patch, PatchParams},
    core::DeserializeGuard,
};
use serde_json::Value;

use self::{
    estimate::{Estimate, PreloadRate},
    findings::{Findings, IssuerLimit, Surroundings},
    manifest::Manifest,
    planned_event::PlannedEvent,
};
use crate::{
    cluster::{Cluster, ClusterArgs, parsed},
    output_format::OutputFormat,
    pods::ISSUER_LABELS,
    view,
};

/// The field manager of the dry run, unless the event has one.
const FIELD_MANAGER: &str = "kubectl-couponry-plan";
/// The annotation in which `kubectl apply` stores the manifest.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// Manifest with one or more `CouponEvent`s, as YAML or JSON. `-` is standard input.
    #[arg(long, short, value_name = "FILE")]
    filename: PathBuf,
    /// Do not connect to a cluster. The rules of the API server and the other events are not checked then.
    #[arg(long)]
    offline: bool,
    /// Output format.
    #[arg(long, short, value_enum, default_value = "text", value_name = "FORMAT")]
    output: OutputFormat,
}

impl Plan {
    pub(crate) async fn run(self, cluster: ClusterArgs) -> anyhow::Result<ExitCode> {
        let manifests = manifest::read(&self.filename)?;
        let cluster = if self.offline { None } else { Some(cluster.connect().await?) };
        let now = Timestamp::now();
        let mut planned = Vec::new();
        for manifest in &manifests {
            let planned_event = match &cluster {
                None => plan_offline(manifest, now),
                Some(cluster) => plan_online(manifest, cluster, now).await,
            };
            planned.push(planned_event.with_context(|| format!("{} cannot be applied", manifest.name))?);
        }
        match self.output {
            OutputFormat::Text => {
                let texts: Vec<String> = planned.iter().map(|planned| text::format(planned, now)).collect();
                write!(Stdout, "{}", texts.join("\n"))?;
            }
            OutputFormat::Json => {
                let plans: Vec<Value> = planned.iter().map(json::plan).collect();
                writeln!(Stdout, "{:#}", Value::from(plans))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn plan_offline(manifest: &Manifest, now: Timestamp) -> anyhow::Result<PlannedEvent> {
    let event = manifest.event()?;
    let estimate = Estimate::new(&event, None, PreloadRate::Benchmark)?;
    let findings = Findings::new(&event, &estimate, None, now);
    Ok(PlannedEvent { event, estimate, findings, namespace: None })
}

async fn plan_online(manifest: &Manifest, cluster: &Cluster, now: Timestamp) -> anyhow::Result<PlannedEvent> {
    let namespace = &cluster.namespace;
    if let Some(other) = manifest.namespace.as_ref().filter(|other| *other != namespace) {
        bail!("its namespace is {other}, not {namespace}: select it with -n {other}");
    }
    let listed = cluster.events().list(&ListParams::default()).await;
    let listed = listed.map_err(|error| cluster.explain(error, "list"))?;
    // An event that does not match the schema is reported by `status`.
    let events: Vec<CouponEvent> = listed.items.into_iter().filter_map(|DeserializeGuard(event)| event.ok()).collect();
    let (same_name, others): (Vec<_>, Vec<_>) = events.into_iter().partition(|other| other.name_any() == manifest.name);
    let existing = same_name.into_iter().next();
    let event = apply_dry_run(manifest, cluster, existing.as_ref()).await?;
    let rate = PreloadRate::measured(others.iter().chain(&existing)).unwrap_or(PreloadRate::Benchmark);
    let estimate = Estimate::new(&event, existing.as_ref(), rate)?;
    let issuer_limit = issuer_limit(cluster).await;
    let surroundings = Surroundings { existing: existing.as_ref(), others: &others, issuer_limit };
    let findings = Findings::new(&event, &estimate, Some(&surroundings), now);
    Ok(PlannedEvent { event, estimate, findings, namespace: Some(namespace.clone()) })
}

/// The event as the API server would store it, or an error if it rejects the manifest. Fields that the manifest no
/// longer has are removed in the way in which the existing event was applied.
async fn apply_dry_run(
    manifest: &Manifest,
    cluster: &Cluster,
    existing: Option<&CouponEvent>,
) -> anyhow::Result<CouponEvent> {
    let last_applied = existing.and_then(|existing| existing.annotations().get(LAST_APPLIED));
    let (params, patch) = if let Some(last_applied) = last_applied {
        let last_applied = serde_json::from_str(last_applied);
        let last_applied = last_applied.with_context(|| format!("the annotation {LAST_APPLIED} is not valid"))?;
        let patch = manifest.merge_patch(&last_applied, &cluster.namespace);
        (PatchParams::default().validation_strict(), Patch::Merge(patch))
    } else {
        let manager = existing.and_then(field_manager).unwrap_or(FIELD_MANAGER);
        (PatchParams::apply(manager).force(), Patch::Apply(manifest.object.clone()))
    };
    let applied = cluster.events().patch(&manifest.name, &params.dry_run(), &patch).await;
    parsed(&applied.map_err(|error| cluster.explain(error, "patch"))?).cloned()
}

/// The field manager that has applied the spec with server-side apply.
fn field_manager(event: &CouponEvent) -> Option<&str> {
    let applied_spec = event.metadata.managed_fields.iter().flatten().find(|managed| {
        let has_spec = managed.fields_v1.as_ref().is_some_and(|fields| fields.0.get("f:spec").is_some());
        managed.operation.as_deref() == Some("Apply") && has_spec
    });
    applied_spec?.manager.as_deref()
}

/// The limit of the issuers' autoscaler.
async fn issuer_limit(cluster: &Cluster) -> IssuerLimit {
    let autoscalers: Api<HorizontalPodAutoscaler> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    match autoscalers.list(&ListParams::default().labels(ISSUER_LABELS)).await {
        Ok(found) => {
            let limits = found.items.into_iter().filter_map(|found| found.spec.max_replicas.try_into().ok());
            limits.max().map_or(IssuerLimit::NoAutoscaler, IssuerLimit::Max)
        }
        Err(error) => {
            let cause = view::sanitize(&error.to_string());
            writeln!(Stderr, "the limit of the issuers is not checked: cannot read the autoscalers: {cause}");
            IssuerLimit::Unknown
        }
    }
}
