//! Users who ask through the ingress.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use couponry_testbed::Process;
use couponry_testbed::process::Launch;
use couponry_testbed::progress::Step;
use couponry_testbed::scratch::Scratch;
use serde_json::Value;

use super::life::manifest;
use super::stage::Stage;

/// A crowd that asks in the background.
pub(super) struct Load {
    process: Process,
    scratch: Scratch,
}

impl Load {
    /// Lets so many users ask for a coupon of the event, so many of them a second.
    pub(super) fn start(stage: &Stage, event: &str, users: u32, rate: u32) -> Result<Self> {
        let scratch = Scratch::new("load")?;
        let load = Launch::new("loadgen", stage.program("loadgen"), scratch.path().join("loadgen.log"))
            .clean_env()
            .args(["run", "--strict", "--event", event, "--target", &stage.ingress()])
            .args(["--users", &users.to_string(), "--rate", &rate.to_string(), "--connections", "32"])
            .args(["--history".as_ref(), scratch.path().join("answers").as_os_str()]);
        Ok(Self { process: Process::start(load)?, scratch })
    }

    /// The answers.
    pub(super) fn history(&self) -> PathBuf {
        self.scratch.path().join("answers")
    }

    /// Lets nobody else begin, and fails when a single request of those that were sent got no answer.
    pub(super) fn end(&self) -> Result<()> {
        if self.process.exited()?.is_none() {
            self.process.interrupt()?;
        }
        self.finish()
    }

    /// Waits until everybody has asked, and fails when a single request got no answer.
    pub(super) fn finish(&self) -> Result<()> {
        let status = self.process.wait()?;
        println!("{}", self.process.log().trim());
        ensure!(status.success(), "not every request got an answer ({status})");
        Ok(())
    }
}

impl Stage {
    /// One user asks by hand, as in the README.
    pub(super) fn ask(&self, event: &str, user: &str) -> Result<Value> {
        let url = format!("{}/coupons/issue", self.ingress());
        let body = format!(r#"{{"userId":"{user}","eventId":"{event}"}}"#);
        let header = "content-type: application/json";
        let curl =
            std::process::Command::new("curl").args(["-sS", "-m", "20", "-H", header, "-d", &body, &url]).output();
        let answer = curl.context("cannot run curl")?;
        ensure!(answer.status.success(), "curl {url}: {}", String::from_utf8_lossy(&answer.stderr));
        serde_json::from_slice(&answer.stdout)
            .with_context(|| format!("{url} answered {}", String::from_utf8_lossy(&answer.stdout)))
    }
}

/// The scene: the chart's own test, then an event that is sold out.
pub(super) fn crowd(stage: &Stage) -> Result<()> {
    stage.test_release()?;
    stage.ready("crowd", &manifest("crowd", 5000))?;
    let step = Step::start("6,000 users ask through the ingress");
    let load = Load::start(stage, "crowd", 6000, 2000)?;
    load.finish()?;
    step.done();
    stage.check("crowd", 5000, &load.history())
}
