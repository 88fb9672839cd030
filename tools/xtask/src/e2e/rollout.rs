//! Restarts and upgrades while users ask.

use anyhow::{Context, Result, ensure};
use couponry_testbed::progress::Step;

use super::life::manifest;
use super::load::Load;
use super::stage::Stage;

const EVENT: &str = "rollout";
const COUPONS: u64 = 60_000;

pub(super) fn play(stage: &Stage) -> Result<()> {
    let Stage { kubectl, .. } = stage;
    stage.ready(EVENT, &manifest(EVENT, COUPONS))?;
    let load = Load::start(stage, EVENT, 200_000, 300)?;
    for deployment in kubectl.names("deployments", "app.kubernetes.io/name=couponry")? {
        let step = Step::start(format!("kubectl rollout restart {deployment}"));
        kubectl.run(&["rollout", "restart", &deployment])?;
        kubectl.run(&["rollout", "status", &deployment, "--timeout=180s"])?;
        step.done();
    }
    stage.upgrade(&["issuer.podAnnotations.revision=second", "consumer.podAnnotations.revision=second"])?;
    stage.roll_back()?;
    let issuers = kubectl.get(&["hpa/couponry-issuer"])?["status"]["desiredReplicas"].clone();
    load.end().context("under restarts and an upgrade")?;
    println!("the autoscaler wants {issuers} issuers for this load");
    ensure!(issuers.as_u64() > Some(2), "the load was not seen: the autoscaler wants {issuers} issuers");
    stage.check(EVENT, COUPONS, &load.history())
}
