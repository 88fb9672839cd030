//! Who asks: the release build of `tools/bench`.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use couponry_testbed::process;
use serde_json::Value;

use super::figures::float;
use crate::cargo;

pub(super) const PROGRAM: &str = "couponry-bench";

/// Where the program is.
pub(super) fn program() -> Result<PathBuf> {
    Ok(cargo::built("release")?.join(PROGRAM))
}

/// What to send, and where.
#[derive(Clone, Debug)]
pub(super) struct Load {
    /// Addresses, as `127.0.0.1:8080`.
    pub(super) targets: Vec<String>,
    pub(super) event: String,
    pub(super) first_user: u64,
    /// How many users ask in turn, and then anew.
    pub(super) users: u64,
    pub(super) requests: Option<u64>,
    pub(super) seconds: Option<f64>,
    pub(super) connections: u32,
    /// Requests a second; without it, each connection asks when it has its answer.
    pub(super) rate: Option<f64>,
    /// Whether the users come in another order than that of their numbers.
    pub(super) mixed: bool,
}

impl Load {
    /// As many requests as users.
    pub(super) fn once_each(target: &str, event: &str, users: u64, connections: u32) -> Self {
        Self {
            targets: vec![target.to_owned()],
            event: event.to_owned(),
            first_user: 0,
            users,
            requests: Some(users),
            seconds: None,
            connections,
            rate: None,
            mixed: false,
        }
    }

    /// Sends it, and waits for its end.
    pub(super) fn send(&self) -> Result<Sample> {
        let mut args = vec!["load".to_owned(), "--event".to_owned(), self.event.clone()];
        let mut give = |name: &str, value: Option<String>| {
            args.extend(value.into_iter().flat_map(|value| [format!("--{name}"), value]));
        };
        for target in &self.targets {
            give("target", Some(target.clone()));
        }
        give("first-user", Some(self.first_user.to_string()));
        give("users", Some(self.users.to_string()));
        give("connections", Some(self.connections.to_string()));
        give("requests", self.requests.map(|requests| requests.to_string()));
        give("seconds", self.seconds.map(|seconds| seconds.to_string()));
        give("rate", self.rate.map(|rate| format!("{:.0}", rate.max(1.0))));
        // A prime, so that it meets every user once before it meets one again.
        give("stride", self.mixed.then(|| "7919".to_owned()));
        let printed = process::output(&program()?, &args, None)?;
        let sample = Sample(serde_json::from_str(&printed).context("the load printed something that is not JSON")?);
        ensure!(
            sample.count("other") + sample.count("broken") == 0,
            "answers that no issuer should give: {}",
            sample.0
        );
        Ok(sample)
    }
}

/// What came back.
#[derive(Clone, Debug)]
pub(super) struct Sample(Value);

impl Sample {
    fn number(&self, pointer: &str) -> f64 {
        self.0.pointer(pointer).and_then(Value::as_f64).unwrap_or_default()
    }

    /// How many there were: `issued`, `refused`, `unavailable`, `unsent`.
    pub(super) fn count(&self, what: &str) -> u64 {
        self.0[what].as_u64().unwrap_or_default()
    }

    pub(super) fn seconds(&self) -> f64 {
        self.number("/seconds")
    }

    /// Answers with yes or no, in a second.
    pub(super) fn served_per_second(&self) -> f64 {
        float(self.count("issued") + self.count("refused")) / self.seconds()
    }

    /// How long an answer took, in milliseconds: `p50`, `p90`, `p99`, `max`.
    pub(super) fn latency(&self, quantile: &str) -> f64 {
        self.number(&format!("/served/{quantile}")) / 1000.0
    }

    /// How long it took to be told to come back, in milliseconds.
    pub(super) fn turned_away(&self, quantile: &str) -> f64 {
        self.number(&format!("/turnedAway/{quantile}")) / 1000.0
    }
}
