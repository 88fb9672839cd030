//! The lifecycle of an event, and a failover of the operator.

use anyhow::{Context, Result, ensure};
use couponry_testbed::progress::Step;
use serde_json::{Value, json};

use super::environment::Environment;

/// An event with one discount.
pub(super) fn manifest(name: &str, total: u64) -> String {
    manifest_with(name, total, &json!({}))
}

/// An event with additional fields in its spec.
pub(super) fn manifest_with(name: &str, total: u64, fields: &Value) -> String {
    let mut spec = json!({
        "policyName": name,
        "totalCount": total,
        "discounts": [
            {"type": "Percent", "value": 10, "allocationPercentage": 70},
            {"type": "Amount", "value": 5000, "allocationPercentage": 30},
        ],
    });
    if let (Some(spec), Some(fields)) = (spec.as_object_mut(), fields.as_object()) {
        spec.extend(fields.clone());
    }
    json!({"apiVersion": "couponry.dev/v1alpha1", "kind": "CouponEvent", "metadata": {"name": name}, "spec": spec})
        .to_string()
}

pub(super) fn run(environment: &Environment) -> Result<()> {
    let Environment { kubectl, .. } = environment;
    let event = "couponevent/lifecycle";
    environment.apply_event("lifecycle", &manifest("lifecycle", 10))?;
    let first = environment.issue("lifecycle", "anna")?;
    ensure!(first["success"] == true, "anna did not receive a coupon: {first}");
    erase_user(environment)?;

    for (spec, reason) in [
        (json!({"issuance": "Paused"}), "PAUSED"),
        (json!({"issuance": "Auto", "totalCount": 20}), "DUPLICATE"),
        (json!({"issuance": "Closed"}), "ENDED"),
    ] {
        let step = Step::start(format!("{spec}"));
        let generation = environment.patch_spec(event, &spec)?;
        kubectl.wait(event, &format!("jsonpath={{.status.observedGeneration}}={generation}"), 60)?;
        let response = environment.issue("lifecycle", if reason == "DUPLICATE" { "anna" } else { "bert" })?;
        ensure!(response["reason"] == reason, "response after {spec}: {response}");
        step.done();
    }
    let reopened = environment.patch_spec(event, &json!({"issuance": "Auto"}));
    ensure!(reopened.is_err(), "a closed event was reopened");

    let uid = kubectl.get(&[event])?["metadata"]["uid"].clone();
    kubectl.run(&["delete", event, "--timeout=120s"])?;
    environment.apply_event("lifecycle", &manifest("lifecycle", 10))?;
    ensure!(kubectl.get(&[event])?["metadata"]["uid"] != uid, "the recreated event has the same uid");
    let second = environment.issue("lifecycle", "anna")?;
    ensure!(
        second["success"] == true && second["couponKey"] != first["couponKey"],
        "anna received {first} and after the recreation {second}"
    );
    kubectl.run(&["delete", event, "--timeout=120s"]).map(drop)
}

/// Erases a user: the coupon stays issued, and the user receives no other one.
fn erase_user(environment: &Environment) -> Result<()> {
    let coupon = environment.issue("lifecycle", "clara")?;
    let key = coupon["couponKey"].as_str().context("clara did not receive a coupon")?;
    let step = Step::start("erasing a user");
    let listed = environment.couponry_text(&["erase-user", "clara", "--dry-run"])?;
    ensure!(listed.contains("lifecycle") && listed.contains("nothing was changed"), "{listed}");
    for expected in ["erased the user in 1 event", "erased the user in 0 events"] {
        let erased = environment.couponry_text(&["erase-user", "clara"])?;
        ensure!(erased.contains(expected), "{expected:?} is missing: {erased}");
        let issuances = environment.couponry_text(&["export", "lifecycle", "issuances"])?;
        let row = issuances.lines().find(|row| row.contains(key)).context("the coupon is not issued any more")?;
        ensure!(row.contains("erased:") && !issuances.contains("clara"), "the user is not erased:\n{issuances}");
        let response = environment.issue("lifecycle", "clara")?;
        ensure!(
            response["reason"] == "VOIDED" && response["couponKey"].is_null(),
            "the response to an erased user: {response}"
        );
    }
    let audit = environment.couponry_text(&["audit", "lifecycle"])?;
    ensure!(audit.contains("OK"), "{audit}");
    step.done();
    Ok(())
}

/// Kills the leading operator during a preload.
pub(super) fn failover(environment: &Environment) -> Result<()> {
    let Environment { kubectl, cluster, .. } = environment;
    let leader = || -> Result<String> {
        let lease = kubectl.get(&["lease", "couponry-operator"])?;
        Ok(lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned())
    };
    let first = leader()?;
    kubectl.apply(&manifest("failover", 200_000))?;
    kubectl.wait("couponevent/failover", "condition=Preloaded=False", 60)?;
    let step = Step::start(format!("sending SIGKILL to the leader {first}"));
    cluster.kill9(&first)?;
    // Otherwise the kubelet would restart it, and it would keep the lease.
    kubectl.run(&["delete", "pod", &first, "--force", "--grace-period=0"])?;
    environment.wait_ready("failover")?;
    let second = leader()?;
    ensure!(second != first && !second.is_empty(), "{first} still holds the lease");
    step.done_with(&format!("{second} holds the lease, and the event is Ready"));
    let status = kubectl.get(&["couponevent/failover"])?["status"].clone();
    ensure!(status["loaded"] == 200_000, "{status}");
    kubectl.run(&["delete", "couponevent/failover", "--timeout=120s"]).map(drop)
}

impl Environment {
    /// Patches the spec of an event and returns its new generation.
    fn patch_spec(&self, event: &str, spec: &Value) -> Result<u64> {
        let patch = json!({"spec": spec}).to_string();
        self.kubectl.run(&["patch", event, "--type=merge", "--patch", &patch])?;
        Ok(self.kubectl.get(&[event])?["metadata"]["generation"].as_u64().unwrap_or_default())
    }
}
