//! Toxiproxy: a TCP proxy which injects faults into connections on demand.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::process::{Launch, OnStop, Process, log_in};
use crate::programs::go::TOXIPROXY;
use crate::programs::locate::require;
use crate::scratch::Scratch;
use crate::{http, ports};

/// A running Toxiproxy with any number of proxied connections.
#[derive(Debug)]
pub struct Toxiproxy {
    process: Process,
    port: u16,
    _scratch: Scratch,
}

/// A fault of a proxied connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Toxic {
    /// Connections are closed, and new ones are refused.
    Cut,
    /// Responses of the server are delayed by this time, plus or minus a half.
    Delayed(Duration),
    /// No data are forwarded in either direction, and the connection stays open.
    HalfOpen,
    /// Requests reach the server, but responses are dropped.
    Unanswered,
    /// The bandwidth in each direction, in kilobytes per second.
    Slow(u32),
}

impl Toxiproxy {
    /// Starts it and waits until its API is ready.
    pub fn start() -> Result<Self> {
        let program = require(TOXIPROXY.find(), "Toxiproxy")?;
        ports::retry(|| {
            let scratch = Scratch::new("toxiproxy")?;
            let port = ports::free()?;
            let launch = Launch::new("toxiproxy", &program, log_in(scratch.path(), "toxiproxy")?)
                .dir(scratch.path())
                .on_stop(OnStop::Kill)
                .args(["-host", "127.0.0.1", "-port", &port.to_string()]);
            let proxy = Self { process: Process::start(launch)?, port, _scratch: scratch };
            proxy.process.wait_ready(|| http::get(port, "/version").is_some())?;
            Ok(proxy)
        })
    }

    /// Forwards connections to the loopback port `listen` to the loopback port `upstream`.
    pub fn add_proxy(&self, name: &str, listen: u16, upstream: u16) -> Result<()> {
        let proxy = json!({
            "name": name,
            "listen": format!("127.0.0.1:{listen}"),
            "upstream": format!("127.0.0.1:{upstream}"),
            "enabled": true,
        });
        self.post("/proxies", &proxy)
    }

    /// Forwards future connections to this loopback port, and closes the existing ones.
    pub fn redirect(&self, name: &str, upstream: u16) -> Result<()> {
        self.post(&format!("/proxies/{name}"), &json!({"upstream": format!("127.0.0.1:{upstream}")}))
    }

    /// Injects a fault into the existing and the future connections of a proxy.
    pub fn inject(&self, name: &str, toxic: Toxic) -> Result<()> {
        let add = |kind: &str, stream: &str, attributes: Value| {
            let toxic = json!({"type": kind, "stream": stream, "attributes": attributes});
            self.post(&format!("/proxies/{name}/toxics"), &toxic)
        };
        match toxic {
            Toxic::Cut => self.post(&format!("/proxies/{name}"), &json!({"enabled": false})),
            Toxic::Delayed(time) => {
                let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
                add("latency", "downstream", json!({"latency": millis, "jitter": millis / 2}))
            }
            // With a timeout of 0, data are dropped until the toxic is removed; then the connections are closed.
            Toxic::HalfOpen => {
                add("timeout", "upstream", json!({"timeout": 0}))?;
                add("timeout", "downstream", json!({"timeout": 0}))
            }
            Toxic::Unanswered => add("timeout", "downstream", json!({"timeout": 0})),
            Toxic::Slow(rate) => {
                add("bandwidth", "upstream", json!({"rate": rate}))?;
                add("bandwidth", "downstream", json!({"rate": rate}))
            }
        }
    }

    /// Removes all faults.
    pub fn reset(&self) -> Result<()> {
        self.post("/reset", &json!({}))
    }

    fn post(&self, path: &str, body: &Value) -> Result<()> {
        let response = http::post(self.port, path, &body.to_string());
        let (status, text) = response.with_context(|| format!("no response from Toxiproxy to POST {path}"))?;
        ensure!(status < 300, "Toxiproxy rejected POST {path} {body}: {status} {text}");
        Ok(())
    }
}
