//! The number of issuers before, during and after an event with a start time.

use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use couponry_testbed::progress::Step;
use serde_json::json;

use super::environment::Environment;
use super::lifecycle::manifest_with;

const EVENT: &str = "couponevent/scaling";
const ISSUERS: &str = "hpa/couponry-issuer";

pub(super) fn run(environment: &Environment) -> Result<()> {
    let Environment { kubectl, .. } = environment;
    let step = Step::start("waiting until the autoscalers have metrics of the pods");
    for autoscaler in [ISSUERS, "hpa/couponry-consumer"] {
        kubectl.wait(autoscaler, "condition=ScalingActive", 180)?;
    }
    step.done();

    let start = jiff::Timestamp::try_from(SystemTime::now() + Duration::from_secs(90))?;
    let spec = json!({
        "startTime": start.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        "scaling": {"minReplicas": 3, "leadSeconds": 60, "cooldownSeconds": 5},
    });
    let step = Step::start(format!("waiting for 3 issuers before the start at {start}"));
    environment.kubectl.apply(&manifest_with("scaling", 1000, &spec))?;
    kubectl.wait(EVENT, "condition=Scaled", 180)?;
    let ready = kubectl.get(&["deployment/couponry-issuer"])?["status"]["readyReplicas"].as_u64();
    ensure!(ready >= Some(3), "{ready:?} issuers are ready");
    ensure!(jiff::Timestamp::now() < start, "the issuers were ready only after the start");
    step.done_with("3 issuers are ready before the start");

    let step = Step::start("waiting until the event opens");
    kubectl.wait(EVENT, "condition=Open", 120)?;
    ensure!(environment.issue("scaling", "anna")?["success"] == true, "anna did not receive a coupon");
    step.done();

    let step = Step::start("closing the event and waiting for fewer issuers");
    kubectl.run(&["patch", EVENT, "--type=merge", "--patch", r#"{"spec":{"issuance":"Closed"}}"#])?;
    kubectl.wait(ISSUERS, "jsonpath={.spec.minReplicas}=2", 60)?;
    step.done();
    kubectl.run(&["delete", EVENT, "--timeout=120s"]).map(drop)
}
