//! What happens to an event in its life.

use anyhow::{Result, ensure};
use couponry_testbed::progress::Step;
use serde_json::{Value, json};

use super::stage::Stage;

/// An event with one discount.
pub(super) fn manifest(name: &str, total: u64) -> String {
    with(name, total, &json!({}))
}

/// The same, with more in its spec.
pub(super) fn with(name: &str, total: u64, more: &Value) -> String {
    let mut spec = json!({
        "policyName": name,
        "totalCount": total,
        "discounts": [
            {"type": "Percent", "value": 10, "allocationPercentage": 70},
            {"type": "Amount", "value": 5000, "allocationPercentage": 30},
        ],
    });
    if let (Some(spec), Some(more)) = (spec.as_object_mut(), more.as_object()) {
        spec.extend(more.clone());
    }
    json!({"apiVersion": "couponry.dev/v1alpha1", "kind": "CouponEvent", "metadata": {"name": name}, "spec": spec})
        .to_string()
}

/// The scene of one event's life.
pub(super) fn play(stage: &Stage) -> Result<()> {
    let Stage { kubectl, .. } = stage;
    let event = "couponevent/life";
    stage.ready("life", &manifest("life", 10))?;
    let first = stage.ask("life", "anna")?;
    ensure!(first["success"] == true, "anna got {first}");

    for (spec, reason) in [
        (json!({"issuance": "Paused"}), "PAUSED"),
        (json!({"issuance": "Auto", "totalCount": 20}), "DUPLICATE"),
        (json!({"issuance": "Closed"}), "ENDED"),
    ] {
        let step = Step::start(format!("{spec}"));
        let generation = stage.change(event, &spec)?;
        kubectl.wait(event, &format!("jsonpath={{.status.observedGeneration}}={generation}"), 60)?;
        let answer = stage.ask("life", if reason == "DUPLICATE" { "anna" } else { "bert" })?;
        ensure!(answer["reason"] == reason, "after {spec}: {answer}");
        step.done();
    }
    let refused = stage.change(event, &json!({"issuance": "Auto"}));
    ensure!(refused.is_err(), "a closed event was opened again");

    let uid = kubectl.get(&[event])?["metadata"]["uid"].clone();
    kubectl.run(&["delete", event, "--timeout=120s"])?;
    stage.ready("life", &manifest("life", 10))?;
    ensure!(kubectl.get(&[event])?["metadata"]["uid"] != uid, "it is the same event");
    let anew = stage.ask("life", "anna")?;
    ensure!(anew["success"] == true && anew["couponKey"] != first["couponKey"], "anna had {first} and now has {anew}");
    kubectl.run(&["delete", event, "--timeout=120s"]).map(drop)
}

/// The scene of a leader that dies.
pub(super) fn failover(stage: &Stage) -> Result<()> {
    let Stage { kubectl, cluster, .. } = stage;
    let leader = || -> Result<String> {
        let lease = kubectl.get(&["lease", "couponry-operator"])?;
        Ok(lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned())
    };
    let first = leader()?;
    kubectl.apply(&manifest("failover", 200_000))?;
    let begun = "condition=Preloaded=False";
    kubectl.wait("couponevent/failover", begun, 60)?;
    let step = Step::start(format!("kill -9 of {first}, which leads"));
    cluster.kill9(&first)?;
    // Or the kubelet would start it again, still as the leader.
    kubectl.run(&["delete", "pod", &first, "--force", "--grace-period=0"])?;
    stage.await_ready("failover")?;
    let second = leader()?;
    ensure!(second != first && !second.is_empty(), "{first} still leads");
    step.done_with(&format!("{second} leads, and the event is Ready"));
    let status = kubectl.get(&["couponevent/failover"])?["status"].clone();
    ensure!(status["loaded"] == 200_000, "{status}");
    kubectl.run(&["delete", "couponevent/failover", "--timeout=120s"]).map(drop)
}

impl Stage {
    /// Changes the spec of an event and gives its new generation.
    fn change(&self, event: &str, spec: &Value) -> Result<u64> {
        let patch = json!({"spec": spec}).to_string();
        self.kubectl.run(&["patch", event, "--type=merge", "--patch", &patch])?;
        Ok(self.kubectl.get(&[event])?["metadata"]["generation"].as_u64().unwrap_or_default())
    }
}
