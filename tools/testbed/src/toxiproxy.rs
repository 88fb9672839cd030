//! A TCP proxy that spoils connections on demand: Toxiproxy.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::process::{Launch, OnStop, Process, log_in};
use crate::programs::TOXIPROXY;
use crate::scratch::Scratch;
use crate::{http, ports, programs};

/// A running proxy with any number of links.
#[derive(Debug)]
pub struct Toxiproxy {
    process: Process,
    port: u16,
    _scratch: Scratch,
}

/// What can be wrong with a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Toxic {
    /// Connections are closed, and new ones are refused.
    Cut,
    /// Everything that the server says comes this much later, give or take a half.
    Delayed(Duration),
    /// Nothing goes through, in either direction, and nobody is told: the other end is gone without a word.
    HalfOpen,
    /// What clients ask is done, but no answer comes back.
    Unanswered,
    /// So many kilobytes go through in a second, in each direction.
    Slow(u32),
}

impl Toxiproxy {
    /// Starts it and waits until it takes orders.
    pub fn start() -> Result<Self> {
        let program = programs::need(TOXIPROXY.find(), "Toxiproxy")?;
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

    /// From now on, whoever connects to the loopback port `listen` reaches `upstream`.
    pub fn link(&self, name: &str, listen: u16, upstream: u16) -> Result<()> {
        let proxy = json!({
            "name": name,
            "listen": format!("127.0.0.1:{listen}"),
            "upstream": format!("127.0.0.1:{upstream}"),
            "enabled": true,
        });
        self.order("/proxies", &proxy)
    }

    /// Spoils a link, with the connections that it has and those to come.
    pub fn spoil(&self, name: &str, toxic: Toxic) -> Result<()> {
        let add = |kind: &str, stream: &str, attributes: Value| {
            let toxic = json!({"type": kind, "stream": stream, "attributes": attributes});
            self.order(&format!("/proxies/{name}/toxics"), &toxic)
        };
        match toxic {
            Toxic::Cut => self.order(&format!("/proxies/{name}"), &json!({"enabled": false})),
            Toxic::Delayed(time) => {
                let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
                add("latency", "downstream", json!({"latency": millis, "jitter": millis / 2}))
            }
            // With a timeout of 0, data vanish until the toxic is removed; then the connections are closed.
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

    /// Makes every link whole again.
    pub fn heal(&self) -> Result<()> {
        self.order("/reset", &json!({}))
    }

    fn order(&self, path: &str, body: &Value) -> Result<()> {
        let (status, answer) =
            http::post(self.port, path, &body.to_string()).with_context(|| format!("Toxiproxy is gone: {path}"))?;
        ensure!(status < 300, "Toxiproxy refuses {path} {body}: {status} {answer}");
        Ok(())
    }
}
