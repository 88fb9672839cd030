//! Restarts, an upgrade and a rollback under load.

use anyhow::{Context, Result, ensure};
use couponry_testbed::progress::Step;

use super::environment::Environment;
use super::lifecycle::manifest;
use super::load::Load;

const EVENT: &str = "rollout";
const COUPONS: u64 = 60_000;

pub(super) fn run(environment: &Environment) -> Result<()> {
    let Environment { kubectl, .. } = environment;
    environment.apply_event(EVENT, &manifest(EVENT, COUPONS))?;
    let load = Load::start(environment, EVENT, 200_000, 300)?;
    for deployment in kubectl.names("deployments", "app.kubernetes.io/name=couponry")? {
        let step = Step::start(format!("kubectl rollout restart {deployment}"));
        kubectl.run(&["rollout", "restart", &deployment])?;
        kubectl.run(&["rollout", "status", &deployment, "--timeout=180s"])?;
        step.done();
    }
    environment.upgrade(&["issuer.podAnnotations.revision=second", "consumer.podAnnotations.revision=second"])?;
    environment.roll_back()?;
    let issuers = kubectl.get(&["hpa/couponry-issuer"])?["status"]["desiredReplicas"].clone();
    load.stop().context("load during restarts and an upgrade failed")?;
    println!("the autoscaler requests {issuers} issuers for this load");
    ensure!(issuers.as_u64() > Some(2), "the autoscaler did not scale up: it requests {issuers} issuers");
    environment.check(EVENT, COUPONS, &load.history())
}
