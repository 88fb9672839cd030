//! The load of the measurements: `loadgen measure`.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use couponry_testbed::process;
use serde_json::Value;

use super::statistics::float;
use crate::cargo;

/// As many connections as a common HTTP benchmark has: batches are smaller, and each call costs more for a coupon.
pub(super) const FEW_CONNECTIONS: u32 = 99;

/// The path of the load generator.
pub(super) fn program() -> Result<PathBuf> {
    Ok(cargo::built("release")?.join("loadgen"))
}

/// The arguments of `loadgen measure`.
#[derive(Clone, Debug)]
pub(super) struct Load {
    /// URLs of issuers.
    pub(super) targets: Vec<String>,
    pub(super) event: String,
    pub(super) first_user: u64,
    /// After all users have sent a request, they start again.
    pub(super) users: u64,
    pub(super) requests: Option<u64>,
    pub(super) seconds: Option<f64>,
    pub(super) connections: u32,
    /// Requests per second. Without it, the loop is closed.
    pub(super) rate: Option<f64>,
    /// Whether the order of users is mixed.
    pub(super) mixed: bool,
    /// Whether the view of the event is requested instead of coupons.
    pub(super) views: bool,
}

impl Load {
    /// One request for each user.
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
            views: false,
        }
    }

    /// As many requests after the event is sold out, in mixed order: half of the users have a coupon.
    pub(super) fn refused(target: &str, event: &str, requests: u64, connections: u32) -> Self {
        Self { requests: Some(requests), mixed: true, ..Self::once_each(target, event, 2 * requests, connections) }
    }

    /// The view of the event at a rate, as browsers request it.
    pub(super) fn views(target: &str, event: &str, rate: f64, seconds: f64, connections: u32) -> Self {
        let load = Self {
            views: true,
            rate: Some(rate),
            seconds: Some(seconds),
            ..Self::once_each(target, event, 1, connections)
        };
        Self { requests: None, ..load }
    }

    /// Runs the load.
    pub(super) fn send(&self) -> Result<LoadResult> {
        let mut args = vec!["measure".to_owned(), "--event".to_owned(), self.event.clone()];
        let mut add = |name: &str, value: Option<String>| {
            args.extend(value.into_iter().flat_map(|value| [format!("--{name}"), value]));
        };
        for target in &self.targets {
            add("target", Some(target.clone()));
        }
        add("first-user", Some(self.first_user.to_string()));
        add("users", Some(self.users.to_string()));
        add("connections", Some(self.connections.to_string()));
        add("requests", self.requests.map(|requests| requests.to_string()));
        add("seconds", self.seconds.map(|seconds| seconds.to_string()));
        add("rate", self.rate.map(|rate| format!("{:.0}", rate.max(1.0))));
        // Prime, so that all users send a request before the first one repeats.
        add("stride", self.mixed.then(|| "7919".to_owned()));
        args.extend(self.views.then(|| "--views".to_owned()));
        let printed = process::output(&program()?, &args, None)?;
        let result = LoadResult(serde_json::from_str(&printed).context("the output of loadgen is not valid JSON")?);
        ensure!(
            result.count("other") + result.count("failed") == 0,
            "unexpected responses or failed requests: {}",
            result.0
        );
        Ok(result)
    }
}

/// The output of `loadgen measure`.
#[derive(Clone, Debug)]
pub(super) struct LoadResult(Value);

impl LoadResult {
    fn number(&self, pointer: &str) -> f64 {
        self.0.pointer(pointer).and_then(Value::as_f64).unwrap_or_default()
    }

    /// A count: `issued`, `notIssued`, `unavailable`, `unsent`.
    pub(super) fn count(&self, what: &str) -> u64 {
        self.0[what].as_u64().unwrap_or_default()
    }

    pub(super) fn seconds(&self) -> f64 {
        self.number("/seconds")
    }

    /// Responses with status 200 per second.
    pub(super) fn responses_per_second(&self) -> f64 {
        float(self.count("issued") + self.count("notIssued")) / self.seconds()
    }

    /// Latency of these responses in milliseconds: `p50`, `p90`, `p99`, `max`.
    pub(super) fn latency(&self, quantile: &str) -> f64 {
        self.number(&format!("/answeredLatency/{quantile}")) / 1000.0
    }

    /// Latency of responses with status 503 in milliseconds.
    pub(super) fn unavailable_latency(&self, quantile: &str) -> f64 {
        self.number(&format!("/unavailableLatency/{quantile}")) / 1000.0
    }
}
