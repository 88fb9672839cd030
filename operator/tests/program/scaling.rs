//! Issuers that are ready before the crowd. This Kubernetes has no controllers: what they would write, the test writes.

use anyhow::Result;
use couponry_testbed::{ports, program::Running, shared};
use k8s_openapi::{
    api::autoscaling::v2::HorizontalPodAutoscaler,
    jiff::{SignedDuration, Timestamp},
};
use kube::ResourceExt as _;
use serde_json::{Value, json};

use crate::stage::{Stage, eventually, holds, message, reason};

const DEPLOYMENT: &str = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: issuer, \
     labels: {app.kubernetes.io/component: issuer, app.kubernetes.io/managed-by: Helm, helm.sh/chart: couponry-0.1.0}}, \
     spec: {selector: {matchLabels: {app: issuer}}, \
     template: {metadata: {labels: {app: issuer}}, spec: {containers: [{name: issuer, image: issuer}]}}}}";

fn spec(more: &str) -> String {
    format!("{{policyName: p, totalCount: 5, discounts: [{{type: Amount, value: 1, count: 5}}], {more}}}")
}

/// A time so many seconds from now.
fn at(seconds: i64) -> String {
    let at = Timestamp::now() + SignedDuration::from_secs(seconds);
    format!("'{}'", Timestamp::from_second(at.as_second()).unwrap_or(at))
}

impl Stage {
    fn scaler(&self) -> Result<Running> {
        self.program(ports::free()?)
            .args(["--issuer-deployment", "issuer", "--issuer-min-replicas", "2", "--issuer-max-replicas", "10"])
            .args(["--issuer-target-cpu-percent", "60"])
            .start()
    }

    fn create(&self, manifest: &str) -> Result<()> {
        shared::kubectl_with(&["create", "--namespace", self.namespace(), "-f", "-"], manifest).map(drop)
    }

    fn patch(&self, what: &[&str], patch: &Value) -> Result<()> {
        let patch = patch.to_string();
        let args = [&["patch", "--namespace", self.namespace(), "--type=merge", "-p", &patch], what].concat();
        shared::kubectl(&args).map(drop)
    }

    /// Writes what the controllers would say of the Deployment.
    fn deployment_is(&self, ready: u32, conditions: &Value) -> Result<()> {
        let status = json!({"status": {"replicas": 8, "readyReplicas": ready, "conditions": conditions}});
        self.patch(&["--subresource=status", "deployment", "issuer"], &status)
    }

    fn autoscaler(&self) -> Result<HorizontalPodAutoscaler> {
        let printed = shared::kubectl(&[
            "get",
            "hpa",
            "issuer",
            "--namespace",
            self.namespace(),
            "-o",
            "json",
            "--show-managed-fields",
        ])?;
        Ok(serde_json::from_str(&printed)?)
    }

    async fn wait_floor(&self, floor: i32) -> Result<()> {
        eventually(&format!("the floor is {floor}"), async || {
            let found = self.autoscaler().ok().map(|found| found.spec);
            Ok(found.is_some_and(|spec| spec.min_replicas == Some(floor)))
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_floor_follows_the_events_and_what_is_in_the_way_is_said() -> Result<()> {
    let stage = Stage::new().await?;
    let _operator = stage.scaler()?;
    stage.apply("large", &spec("startTime: '2100-01-01T00:00:00Z', scaling: {minReplicas: 8}"))?;
    let scheduled = stage.wait("large", "scheduled", |status| reason(status, "Scaled") == "ScalingScheduled").await?;
    assert_eq!(message(&scheduled, "Scaled"), "At least 8 issuers will be started at 2099-12-31T23:55:00Z.");
    stage.apply("small", &spec("startTime: '2100-01-01T00:00:00Z'"))?;
    assert!(stage.wait_ready("small").await?.condition("Scaled").is_none(), "it asks for nothing");

    // Its time has come, half an hour before its start.
    let soon =
        spec(&format!("startTime: {}, scaling: {{minReplicas: 8, leadSeconds: 3600, cooldownSeconds: 0}}", at(1800)));
    stage.apply("large", &soon)?;
    let failed = stage.wait("large", "failing", |status| reason(status, "Scaled") == "ScalingFailed").await?;
    assert_eq!(message(&failed, "Scaled"), "The issuers cannot be scaled: the Deployment issuer (--issuer-deployment) does not exist. The operator retries.");
    stage.create(DEPLOYMENT)?;
    stage.wait_floor(8).await?;
    let found = stage.autoscaler()?;
    let owner = &found.owner_references()[0];
    assert_eq!((owner.kind.as_str(), owner.name.as_str()), ("Deployment", "issuer"));
    let label = |name: &str| found.labels().get(name).map(String::as_str);
    assert_eq!(label("app.kubernetes.io/component"), Some("issuer"));
    assert_eq!(label("app.kubernetes.io/managed-by"), Some("couponry-operator"));
    assert_eq!(label("helm.sh/chart"), None, "it is not the chart's");
    let managers: Vec<_> = found.managed_fields().iter().filter_map(|one| one.manager.as_deref()).collect();
    assert_eq!(managers, ["couponry-operator"]);
    let limits = found.spec;
    assert_eq!((limits.max_replicas, limits.scale_target_ref.name.as_str()), (10, "issuer"));

    let none = json!([]);
    let starting = stage.wait("large", "starting", |status| reason(status, "Scaled") == "IssuersStarting").await?;
    assert_eq!(message(&starting, "Scaled"), "0 of 8 required issuers are ready; the others are starting.");
    let quota =
        "pods \"issuer-1\" is forbidden: exceeded quota: small, requested: pods=1, used: pods=3, limited: pods=3";
    stage.deployment_is(
        3,
        &json!([{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": quota}]),
    )?;
    let refused = stage.wait("large", "refused", |status| reason(status, "Scaled") == "QuotaExceeded").await?;
    let words = format!("3 of 8 required issuers are ready; the quota of the namespace is exceeded: {quota}");
    assert_eq!(message(&refused, "Scaled"), words);

    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: issuer-1, labels: {app: issuer}}, spec: {containers: [{name: issuer, image: issuer}]}}";
    stage.create(pod)?;
    stage.deployment_is(7, &none)?;
    let nodes = "0/1 nodes are available: 1 Insufficient cpu.";
    let unscheduled = json!([{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": nodes}]);
    stage.patch(&["--subresource=status", "pod", "issuer-1"], &json!({"status": {"conditions": unscheduled}}))?;
    let pending = stage.wait("large", "pending", |status| reason(status, "Scaled") == "PodsUnschedulable").await?;
    assert_eq!(message(&pending, "Scaled"), format!("7 of 8 required issuers are ready; 1 cannot be scheduled to a node: {nodes}"));
    let placed = json!([{"type": "PodScheduled", "status": "True"}]);
    stage.patch(&["--subresource=status", "pod", "issuer-1"], &json!({"status": {"conditions": placed}}))?;
    stage.deployment_is(8, &none)?;
    let ready = stage.wait("large", "scaled", |status| holds(status, "Scaled")).await?;
    assert_eq!(message(&ready, "Scaled"), "All 8 required issuers are ready.");

    // Another one at the same time, with more than there may be; and somebody who knows better.
    stage.apply("small", &spec(&format!("startTime: {}, scaling: {{minReplicas: 12}}", at(200))))?;
    stage.wait_floor(10).await?;
    let capped = stage.wait("small", "starting", |status| reason(status, "Scaled") == "IssuersStarting").await?;
    assert!(
        message(&capped, "Scaled").ends_with(" The event requires 12, but --issuer-max-replicas is 10."),
        "{capped:?}"
    );
    stage.patch(&["hpa", "issuer"], &json!({"spec": {"minReplicas": 1}}))?;
    stage.wait_floor(10).await?;
    stage.delete("small")?;
    stage.wait_gone("small").await?;
    stage.wait_floor(8).await?;

    let closed = soon.replacen('{', "{issuance: Closed, ", 1);
    stage.apply("large", &closed)?;
    stage.wait("large", "over", |status| reason(status, "Scaled") == "ScaledDown").await?;
    stage.wait_floor(2).await?;
    let story = stage.story("large").await?;
    for told in ["ScalingUp", "QuotaExceeded", "PodsUnschedulable", "ScaledUp", "ScaledDown", "ScalingFailed"] {
        assert_eq!(
            story.iter().filter(|one| *one == told).count(),
            usize::from(told != "ScalingUp"),
            "{told}: {story:?}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn issuers_are_there_before_the_start_and_go_after_the_last_coupon() -> Result<()> {
    let stage = Stage::new().await?;
    stage.create(DEPLOYMENT)?;
    let operator = stage.scaler()?;
    stage.wait_floor(2).await?;
    stage.deployment_is(4, &json!([]))?;
    let start = at(25);
    stage.apply(
        "event",
        &spec(&format!("startTime: {start}, scaling: {{minReplicas: 4, leadSeconds: 20, cooldownSeconds: 3}}")),
    )?;
    stage.wait_floor(4).await?;
    let scaled = stage.wait("event", "scaled", |status| holds(status, "Scaled")).await?;
    assert_eq!(reason(&scaled, "Open"), "Scheduled", "before the start");
    operator.kill9()?;
    operator.restart()?;
    stage.wait("event", "open", |status| holds(status, "Open") && holds(status, "Scaled")).await?;
    assert_eq!(stage.ask("event", 0..5).await?, 5);
    stage.wait("event", "sold out", |status| reason(status, "Open") == "SoldOut").await?;
    stage.wait_floor(2).await?;
    stage.wait("event", "no longer scaled", |status| reason(status, "Scaled") == "ScaledDown").await?;
    let story = ["Opened", "PreloadCompleted", "PreloadStarted", "ScaledDown", "ScaledUp", "SoldOut"];
    stage.wait_story("event", &story).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_knows_no_issuers_says_so() -> Result<()> {
    let stage = Stage::new().await?;
    let _operator = stage.operator()?;
    stage.apply("event", &spec("scaling: {minReplicas: 4}"))?;
    let off =
        stage.wait("event", "open", |status| holds(status, "Open") && reason(status, "Scaled") == "ScalingDisabled").await?;
    assert_eq!(message(&off, "Scaled"), "The event requires issuers, but scaling is disabled. Start the operator with --issuer-deployment.");
    assert!(stage.autoscaler().is_err());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_scales_no_more_deletes_its_autoscaler_and_no_other() -> Result<()> {
    let stage = Stage::new().await?;
    stage.create(DEPLOYMENT)?;
    let operator = stage.scaler()?;
    stage.wait_floor(2).await?;
    drop(operator);
    let theirs = |name: &str, labels: &str| {
        format!(
            "{{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {{name: {name}, labels: {labels}}}, \
             spec: {{scaleTargetRef: {{apiVersion: apps/v1, kind: Deployment, name: {name}}}, maxReplicas: 3}}}}"
        )
    };
    stage.create(&theirs("a-shop", "{}"))?;
    // The label alone does not make it ours.
    stage.create(&theirs("b-shop", "{app.kubernetes.io/managed-by: couponry-operator}"))?;

    let _operator = stage.operator()?;
    eventually("the autoscaler is gone", async || Ok(stage.autoscaler().is_err())).await?;
    let left = shared::kubectl(&["get", "hpa", "--namespace", stage.namespace(), "-o", "name"])?;
    let left: Vec<_> = left.lines().collect();
    assert_eq!(left, ["a-shop", "b-shop"].map(|name| format!("horizontalpodautoscaler.autoscaling/{name}")));
    Ok(())
}
