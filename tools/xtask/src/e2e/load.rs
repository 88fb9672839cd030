//! Requests of users through the ingress.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use couponry_testbed::Process;
use couponry_testbed::process::Launch;
use couponry_testbed::progress::Step;
use couponry_testbed::scratch::Scratch;
use serde_json::{Value, json};

use super::curl::request;
use super::environment::Environment;
use super::lifecycle::manifest;

/// A loadgen in the background.
pub(super) struct Load {
    process: Process,
    scratch: Scratch,
}

impl Load {
    /// Sends a request for each of this number of users, `rate` per second.
    pub(super) fn start(environment: &Environment, event: &str, users: u32, rate: u32) -> Result<Self> {
        let scratch = Scratch::new("load")?;
        let load = Launch::new("loadgen", environment.program("loadgen"), scratch.path().join("loadgen.log"))
            .clean_env()
            .args(["run", "--strict", "--event", event, "--target", &environment.ingress()])
            .args(["--users", &users.to_string(), "--rate", &rate.to_string(), "--connections", "32"])
            .args(["--history".as_ref(), scratch.path().join("responses").as_os_str()]);
        Ok(Self { process: Process::start(load)?, scratch })
    }

    /// The file with the responses.
    pub(super) fn history(&self) -> PathBuf {
        self.scratch.path().join("responses")
    }

    /// Sends no more requests, and fails if a sent request got no response.
    pub(super) fn stop(&self) -> Result<()> {
        if self.process.exited()?.is_none() {
            self.process.interrupt()?;
        }
        self.finish()
    }

    /// Waits until all requests are sent, and fails if one got no response.
    pub(super) fn finish(&self) -> Result<()> {
        let status = self.process.wait()?;
        println!("{}", self.process.log().trim());
        ensure!(status.success(), "not every request got a response ({status})");
        Ok(())
    }
}

impl Environment {
    /// Requests a coupon for a user through the ingress.
    pub(super) fn issue(&self, event: &str, user: &str) -> Result<Value> {
        let url = format!("{}/coupons/issue", self.ingress());
        let (_, response) = request(&url, None, &[], Some(&json!({"userId": user, "eventId": event})))?;
        Ok(response)
    }
}

/// Runs the test of the chart, then an event which sells out.
pub(super) fn run(environment: &Environment) -> Result<()> {
    environment.test_release()?;
    environment.apply_event("sold-out", &manifest("sold-out", 5000))?;
    let step = Step::start("sending requests of 6,000 users through the ingress");
    let load = Load::start(environment, "sold-out", 6000, 2000)?;
    load.finish()?;
    step.done();
    environment.check("sold-out", 5000, &load.history())
}
