//! The health script for Argo CD, run by a Lua interpreter (that of Redis) on objects whose status the operator wrote.

use std::{fs, process::Command};

use anyhow::{Context as _, Result, ensure};
use couponry_testbed::shared;
use serde_json::Value;

use crate::support::{World, is_true, reason};

const SPEC: &str =
    "{policyName: p, totalCount: 100, discounts: [{type: Percent, value: 10, allocationPercentage: 100}]}";
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/argocd/couponevent-health.lua");
const OPERATIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operate/operations.md");

fn with(fields: &str) -> String {
    SPEC.replacen('{', &format!("{{{fields}, "), 1)
}

impl World {
    /// The health of an event as the script returns it: `STATUS MESSAGE`.
    fn health(&self, name: &str) -> Result<String> {
        let object = shared::kubectl(&["get", "ce", name, "--namespace", self.namespace(), "--output", "json"])?;
        let script = fs::read_to_string(SCRIPT)?;
        // As Argo CD does it: the object is a variable, and only the basic functions and those of tables exist.
        let run = format!(
            "local obj = cjson.decode(ARGV[1])\n\
             local run = function()\n\
             local string, math, cjson, redis, bit, struct, cmsgpack = nil\n\
             {script}\n\
             end\n\
             local health = run()\n\
             return health.status .. ' ' .. health.message"
        );
        let reply = self.redis(&["EVAL", &run, "0", &object])?;
        let (_, text) = reply.split_once("\r\n").filter(|_| reply.starts_with('$')).with_context(|| reply.clone())?;
        Ok(text.trim_end().to_owned())
    }

    fn expect_health(&self, name: &str, expected: &str) -> Result<()> {
        let health = self.health(name)?;
        ensure!(health.starts_with(expected), "the health of {name} is {health:?}, expected {expected:?}");
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_follows_the_conditions_of_real_events() -> Result<()> {
    let world = World::shared().await?;
    world.apply("event", SPEC)?;
    world.expect_health("event", "Progressing The operator has not observed the event yet.")?;

    let _operator = world.start_operator()?;
    world.wait("event", "open", |status| is_true(status, "Open") && is_true(status, "Ready")).await?;
    world.expect_health("event", "Healthy Open: Coupons are being issued.")?;
    world.annotate("event", "couponry.dev/hold=wrong discount")?;
    world.wait("event", "held", |status| reason(status, "Open") == "Held").await?;
    world.expect_health("event", "Suspended Held: Issuing is held: wrong discount.")?;
    world.annotate("event", "couponry.dev/hold-")?;
    world.apply("event", &with("issuance: Paused"))?;
    world.wait("event", "paused", |status| reason(status, "Open") == "Paused").await?;
    world.expect_health("event", "Suspended Paused: ")?;
    world.apply("event", SPEC)?;
    world.wait("event", "open again", |status| is_true(status, "Open")).await?;
    assert_eq!(world.issue("event", 0..100).await?, 100);
    world.wait("event", "sold out", |status| reason(status, "Open") == "SoldOut").await?;
    world.expect_health("event", "Healthy SoldOut: All coupons are issued.")?;
    world.record_all("event").await?;
    world.apply("event", &with("issuance: Closed"))?;
    world.wait("event", "closed", |status| reason(status, "Open") == "Closed" && is_true(status, "Ready")).await?;
    world.expect_health("event", "Healthy Closed: ")?;

    world.apply("scheduled", &with("startTime: '2100-01-01T00:00:00Z'"))?;
    world.wait("scheduled", "scheduled", |status| reason(status, "Open") == "Scheduled").await?;
    world.expect_health("scheduled", "Healthy Scheduled: Issuing starts at startTime.")?;

    world.apply("imported", &with("code: {source: Imported}"))?;
    world.wait("imported", "waiting for codes", |status| reason(status, "Ready") == "AwaitingCodes").await?;
    world.expect_health("imported", "Progressing AwaitingCodes: ")?;

    world.apply_open("broken", SPEC).await?;
    world.remove_available_coupon("broken")?;
    world.wait("broken", "stalled", |status| is_true(status, "Stalled")).await?;
    world.expect_health("broken", "Degraded DriftFound: ")
}

#[tokio::test(flavor = "multi_thread")]
async fn health_script_is_installed_by_the_documented_command() -> Result<()> {
    let world = World::shared().await?;
    let page = fs::read_to_string(OPERATIONS)?;
    let blocks = page.split("```\n").skip(1).step_by(2);
    let commands = blocks.into_iter().find(|block| block.contains("couponevent-health.lua")).context("no command")?;
    shared::kubectl(&["create", "configmap", "argocd-cm", "--namespace", world.namespace()])?;
    let commands = commands.replace("-n argocd", &format!("-n {}", world.namespace()));
    let output = Command::new("bash")
        .args(["-ec", &commands])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .env("KUBECONFIG", shared::kubeconfig())
        .output()?;
    ensure!(output.status.success(), "{output:?}");
    let get = ["get", "configmap", "argocd-cm", "--namespace", world.namespace(), "--output", "json"];
    let installed: Value = serde_json::from_str(&shared::kubectl(&get)?)?;
    let script = &installed["data"]["resource.customizations.health.couponry.dev_CouponEvent"];
    assert_eq!(script.as_str(), Some(fs::read_to_string(SCRIPT)?.as_str()));
    Ok(())
}
