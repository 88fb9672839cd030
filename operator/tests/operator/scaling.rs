//! Scaling of the issuers for events. This Kubernetes has no controllers, so the tests write the status in their place.

use anyhow::Result;
use couponry_testbed::{ports, program::Running, shared};
use k8s_openapi::{
    api::autoscaling::v2::HorizontalPodAutoscaler,
    jiff::{SignedDuration, Timestamp},
};
use kube::ResourceExt as _;
use serde_json::{Value, json};

use crate::support::{World, is_true, message, reason, wait_until};

const DEPLOYMENT: &str = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: issuer, \
     labels: {app.kubernetes.io/component: issuer, app.kubernetes.io/managed-by: Helm, \
     helm.sh/chart: couponry-0.1.0}}, spec: {selector: {matchLabels: {app: issuer}}, \
     template: {metadata: {labels: {app: issuer}}, spec: {containers: [{name: issuer, image: issuer}]}}}}";

fn spec(fields: &str) -> String {
    format!("{{policyName: p, totalCount: 5, discounts: [{{type: Amount, value: 1, count: 5}}], {fields}}}")
}

/// The quoted time this many seconds from now.
fn in_seconds(seconds: i64) -> String {
    let at = Timestamp::now() + SignedDuration::from_secs(seconds);
    format!("'{}'", Timestamp::from_second(at.as_second()).unwrap_or(at))
}

impl World {
    fn start_operator_with_scaling(&self) -> Result<Running> {
        self.operator_program(ports::free()?)
            .args(["--issuer-deployment", "issuer", "--issuer-min-replicas", "2", "--issuer-max-replicas", "10"])
            .args(["--issuer-target-cpu-percent", "60"])
            .start()
    }

    fn create(&self, manifest: &str) -> Result<()> {
        shared::kubectl_with(&["create", "--namespace", self.namespace(), "-f", "-"], manifest).map(drop)
    }

    /// Writes the status of the Deployment, in place of its controller.
    fn set_deployment_status(&self, ready: u32, conditions: &Value) -> Result<()> {
        let status = json!({"status": {"replicas": 8, "readyReplicas": ready, "conditions": conditions}});
        self.patch(&["--subresource=status", "deployment", "issuer"], &status)
    }

    fn autoscaler(&self) -> Result<HorizontalPodAutoscaler> {
        let json = shared::kubectl(&[
            "get",
            "hpa",
            "issuer",
            "--namespace",
            self.namespace(),
            "-o",
            "json",
            "--show-managed-fields",
        ])?;
        Ok(serde_json::from_str(&json)?)
    }

    async fn wait_min_replicas(&self, min_replicas: i32) -> Result<()> {
        wait_until(&format!("minReplicas is {min_replicas}"), async || {
            let found = self.autoscaler().ok().map(|found| found.spec);
            Ok(found.is_some_and(|spec| spec.min_replicas == Some(min_replicas)))
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn min_replicas_follow_events_and_blockers_are_reported() -> Result<()> {
    let world = World::shared().await?;
    let _operator = world.start_operator_with_scaling()?;
    world.apply("large", &spec("startTime: '2100-01-01T00:00:00Z', scaling: {minReplicas: 8}"))?;
    let scheduled = world.wait("large", "scheduled", |status| reason(status, "Scaled") == "ScalingScheduled").await?;
    assert_eq!(message(&scheduled, "Scaled"), "At least 8 issuers will be started at 2099-12-31T23:55:00Z.");
    world.apply("small", &spec("startTime: '2100-01-01T00:00:00Z'"))?;
    assert!(world.wait_ready("small").await?.condition("Scaled").is_none(), "the event has no scaling");

    // The start is in half an hour, within leadSeconds.
    let soon = spec(&format!(
        "startTime: {}, scaling: {{minReplicas: 8, leadSeconds: 3600, cooldownSeconds: 0}}",
        in_seconds(1800)
    ));
    world.apply("large", &soon)?;
    let failed = world.wait("large", "failing", |status| reason(status, "Scaled") == "ScalingFailed").await?;
    assert_eq!(
        message(&failed, "Scaled"),
        "The issuers cannot be scaled: the Deployment issuer (--issuer-deployment) does not exist. \
         The operator retries."
    );
    world.create(DEPLOYMENT)?;
    world.wait_min_replicas(8).await?;
    let found = world.autoscaler()?;
    let owner = &found.owner_references()[0];
    assert_eq!((owner.kind.as_str(), owner.name.as_str()), ("Deployment", "issuer"));
    let label = |name: &str| found.labels().get(name).map(String::as_str);
    assert_eq!(label("app.kubernetes.io/component"), Some("issuer"));
    assert_eq!(label("app.kubernetes.io/managed-by"), Some("couponry-operator"));
    assert_eq!(label("helm.sh/chart"), None, "the autoscaler does not belong to the chart");
    let managers: Vec<_> = found.managed_fields().iter().filter_map(|entry| entry.manager.as_deref()).collect();
    assert_eq!(managers, ["couponry-operator"]);
    let limits = found.spec;
    assert_eq!((limits.max_replicas, limits.scale_target_ref.name.as_str()), (10, "issuer"));

    let none = json!([]);
    let starting = world.wait("large", "starting", |status| reason(status, "Scaled") == "IssuersStarting").await?;
    assert_eq!(message(&starting, "Scaled"), "0 of 8 required issuers are ready. The others are starting.");
    let quota =
        "pods \"issuer-1\" is forbidden: exceeded quota: small, requested: pods=1, used: pods=3, limited: pods=3";
    world.set_deployment_status(
        3,
        &json!([{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": quota}]),
    )?;
    let refused = world.wait("large", "refused", |status| reason(status, "Scaled") == "QuotaExceeded").await?;
    let words = format!("3 of 8 required issuers are ready. The quota of the namespace is exceeded: {quota}.");
    assert_eq!(message(&refused, "Scaled"), words);

    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: issuer-1, labels: {app: issuer}}, \
               spec: {containers: [{name: issuer, image: issuer}]}}";
    world.create(pod)?;
    world.set_deployment_status(7, &none)?;
    let nodes = "0/1 nodes are available: 1 Insufficient cpu.";
    let unscheduled = json!([{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": nodes}]);
    world.patch(&["--subresource=status", "pod", "issuer-1"], &json!({"status": {"conditions": unscheduled}}))?;
    let pending = world.wait("large", "pending", |status| reason(status, "Scaled") == "PodsUnschedulable").await?;
    assert_eq!(
        message(&pending, "Scaled"),
        format!("7 of 8 required issuers are ready. 1 pod cannot be scheduled to a node: {nodes}")
    );
    let placed = json!([{"type": "PodScheduled", "status": "True"}]);
    world.patch(&["--subresource=status", "pod", "issuer-1"], &json!({"status": {"conditions": placed}}))?;
    world.set_deployment_status(8, &none)?;
    let ready = world.wait("large", "scaled", |status| is_true(status, "Scaled")).await?;
    assert_eq!(message(&ready, "Scaled"), "All 8 required issuers are ready.");

    // A second event at the same time requires more than the maximum, and the autoscaler is changed by hand.
    world.apply("small", &spec(&format!("startTime: {}, scaling: {{minReplicas: 12}}", in_seconds(200))))?;
    world.wait_min_replicas(10).await?;
    let capped = world.wait("small", "starting", |status| reason(status, "Scaled") == "IssuersStarting").await?;
    assert!(
        message(&capped, "Scaled").ends_with(" The event requires 12, but --issuer-max-replicas is 10."),
        "{capped:?}"
    );
    world.patch(&["hpa", "issuer"], &json!({"spec": {"minReplicas": 1}}))?;
    world.wait_min_replicas(10).await?;
    world.delete("small")?;
    world.wait_gone("small").await?;
    world.wait_min_replicas(8).await?;

    let closed = soon.replacen('{', "{issuance: Closed, ", 1);
    world.apply("large", &closed)?;
    world.wait("large", "over", |status| reason(status, "Scaled") == "ScaledDown").await?;
    world.wait_min_replicas(2).await?;
    let reasons = world.kube_event_reasons("large").await?;
    for reason in ["ScalingUp", "QuotaExceeded", "PodsUnschedulable", "ScaledUp", "ScaledDown", "ScalingFailed"] {
        assert_eq!(
            reasons.iter().filter(|published| *published == reason).count(),
            usize::from(reason != "ScalingUp"),
            "{reason}: {reasons:?}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn issuers_scale_up_before_start_and_down_after_sold_out() -> Result<()> {
    let world = World::shared().await?;
    world.create(DEPLOYMENT)?;
    let operator = world.start_operator_with_scaling()?;
    world.wait_min_replicas(2).await?;
    world.set_deployment_status(4, &json!([]))?;
    let start = in_seconds(25);
    world.apply(
        "event",
        &spec(&format!("startTime: {start}, scaling: {{minReplicas: 4, leadSeconds: 20, cooldownSeconds: 3}}")),
    )?;
    world.wait_min_replicas(4).await?;
    let scaled = world.wait("event", "scaled", |status| is_true(status, "Scaled")).await?;
    assert_eq!(reason(&scaled, "Open"), "Scheduled", "before the start");
    operator.kill9()?;
    operator.restart()?;
    world.wait("event", "open", |status| is_true(status, "Open") && is_true(status, "Scaled")).await?;
    assert_eq!(world.issue("event", 0..5).await?, 5);
    world.wait("event", "sold out", |status| reason(status, "Open") == "SoldOut").await?;
    world.wait_min_replicas(2).await?;
    world.wait("event", "scaled down", |status| reason(status, "Scaled") == "ScaledDown").await?;
    let expected = ["Opened", "PreloadCompleted", "PreloadStarted", "ScaledDown", "ScaledUp", "SoldOut"];
    world.wait_kube_events("event", &expected).await
}

#[tokio::test(flavor = "multi_thread")]
async fn event_without_issuer_deployment_reports_scaling_disabled() -> Result<()> {
    let world = World::shared().await?;
    let _operator = world.start_operator()?;
    world.apply("event", &spec("scaling: {minReplicas: 4}"))?;
    let off = world
        .wait("event", "open", |status| is_true(status, "Open") && reason(status, "Scaled") == "ScalingDisabled")
        .await?;
    assert_eq!(
        message(&off, "Scaled"),
        "The event requires issuers, but scaling is disabled. Start the operator with --issuer-deployment."
    );
    assert!(world.autoscaler().is_err());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn operator_with_scaling_disabled_deletes_only_its_autoscaler() -> Result<()> {
    let world = World::shared().await?;
    world.create(DEPLOYMENT)?;
    let operator = world.start_operator_with_scaling()?;
    world.wait_min_replicas(2).await?;
    drop(operator);
    let foreign = |name: &str, labels: &str| {
        format!(
            "{{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, \
             metadata: {{name: {name}, labels: {labels}}}, spec: {{maxReplicas: 3, \
             scaleTargetRef: {{apiVersion: apps/v1, kind: Deployment, name: {name}}}}}}}"
        )
    };
    world.create(&foreign("a-shop", "{}"))?;
    // The label alone does not make it the operator's.
    world.create(&foreign("b-shop", "{app.kubernetes.io/managed-by: couponry-operator}"))?;

    let _operator = world.start_operator()?;
    wait_until("the autoscaler is deleted", async || Ok(world.autoscaler().is_err())).await?;
    let left = shared::kubectl(&["get", "hpa", "--namespace", world.namespace(), "-o", "name"])?;
    let left: Vec<_> = left.lines().collect();
    assert_eq!(left, ["a-shop", "b-shop"].map(|name| format!("horizontalpodautoscaler.autoscaling/{name}")));
    Ok(())
}
