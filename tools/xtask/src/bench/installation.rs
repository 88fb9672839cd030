//! What is measured: one of each server and of each program, as a user would run them, and the control.

use std::cell::Cell;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use couponry_testbed::program::{Program, Running};
use couponry_testbed::progress::Step;
use couponry_testbed::{Kafka, Process, http, ports, programs, redis};

use super::figures::float;
use super::load::{self, Load, Sample};
use crate::coupon_event::{condition, get};
use crate::programs::{Addresses, CONSUMER, ISSUER, Node, OPERATOR};
use crate::servers::Servers;
use crate::{cargo, coupon_event};

/// How many coupons are sold before anything is measured: the broker's JVM compiles what it runs, and takes a core for that.
const WARM_UP: u64 = 200_000;

/// How long a state that must come may take.
const PATIENCE: Duration = Duration::from_mins(5);
const POLL: Duration = Duration::from_millis(50);

/// When Redis has what it answered on its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sync {
    EverySecond,
    Always,
}

/// Everything that runs. The programs stop before the servers that they use.
pub(super) struct Installation {
    pub(super) issuer: Node,
    pub(super) consumer: Node,
    pub(super) operator: Node,
    control: Running,
    control_address: String,
    pub(super) servers: Servers,
    /// How many records the consumer has not had since it was started.
    owed: Cell<u64>,
    events: Cell<u64>,
}

impl Installation {
    /// Starts everything, lets one sale warm it up, and syncs Redis every second from then on.
    pub(super) fn start() -> Result<Self> {
        let servers = Servers::start_with(Kafka::start_for_long)?;
        let step = Step::start("starting the operator, an issuer, the consumer and the control");
        coupon_event::define(&servers.kubernetes)?;
        let port = ports::free()?;
        let control_address = format!("127.0.0.1:{port}");
        let control = Program::at(load::program()?).args(["control", "--listen", &control_address]).start()?;
        let installation = Self {
            operator: node(&servers, OPERATOR, &[])?,
            issuer: node(&servers, ISSUER, &[])?,
            consumer: node(&servers, CONSUMER, &[])?,
            control,
            control_address,
            servers,
            owed: Cell::default(),
            events: Cell::default(),
        };
        for program in [&installation.operator, &installation.issuer, &installation.consumer] {
            program.wait_ready()?;
        }
        installation.control.wait_ready(|| http::get(port, "/readyz").is_some_and(|(status, _)| status == 200))?;
        installation.sync(Sync::EverySecond)?;
        step.done();
        let step = Step::start("warming up");
        let event = installation.open(WARM_UP, "Redis")?;
        installation.sell(&event, WARM_UP, 64)?;
        installation.control(20_000, 64)?;
        installation.close(&event)?;
        step.done();
        Ok(installation)
    }

    /// One more issuer.
    pub(super) fn another_issuer(&self, args: &[&str]) -> Result<Node> {
        let issuer = node(&self.servers, ISSUER, args)?;
        issuer.wait_ready()?;
        Ok(issuer)
    }

    /// Tells Redis when to sync its file.
    pub(super) fn sync(&self, sync: Sync) -> Result<()> {
        let value = match sync {
            Sync::EverySecond => "everysec",
            Sync::Always => "always",
        };
        redis::command(&self.servers.redis.url(), &["CONFIG", "SET", "appendfsync", value]).map(drop)
    }

    /// A number that Redis tells of itself.
    pub(super) fn redis_info(&self, name: &str) -> Result<f64> {
        let info = redis::command(&self.servers.redis.url(), &["INFO"])?;
        let found = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok());
        found.with_context(|| format!("Redis does not tell its {name}"))
    }

    /// Applies an event of a name that was never used, with so many coupons, and waits until users get them.
    pub(super) fn open(&self, coupons: u64, acknowledge: &str) -> Result<String> {
        let name = format!("bench-{}", self.events.replace(self.events.get() + 1));
        let kubernetes = &self.servers.kubernetes;
        let manifest = coupon_event::manifest(&name, "Benchmark", coupons, acknowledge);
        kubernetes.kubectl_with(&["apply", "-f", "-"], &manifest.to_string())?;
        // As a user would, with a watch.
        kubernetes.kubectl(&["wait", "--for=condition=Open", "couponevent", &name, "--timeout=10m"])?;
        Ok(name)
    }

    /// The uid of an event.
    pub(super) fn uid(&self, event: &str) -> Result<String> {
        let event = get(&self.servers.kubernetes, event)?;
        event.pointer("/metadata/uid").and_then(|uid| uid.as_str()).map(str::to_owned).context("no uid")
    }

    /// Waits until all that was issued is recorded, and deletes the event.
    pub(super) fn close(&self, event: &str) -> Result<()> {
        self.drain()?;
        let kubernetes = &self.servers.kubernetes;
        let found = get(kubernetes, event)?;
        ensure!(
            condition(&found, "Balanced").is_none_or(|c| c["status"] == "True"),
            "{event} does not add up: {found}"
        );
        kubernetes.kubectl(&["delete", "couponevent", event]).map(drop)
    }

    /// Where the issuer answers.
    pub(super) fn target(&self) -> String {
        address(&self.issuer)
    }

    /// Sells an event in full: answers a second.
    pub(super) fn sell(&self, event: &str, coupons: u64, connections: u32) -> Result<f64> {
        let sample = self.ask(&Load::once_each(&self.target(), event, coupons, connections))?;
        ensure!(sample.count("issued") == coupons, "{} of {coupons} coupons were issued", sample.count("issued"));
        Ok(sample.served_per_second())
    }

    /// Asks the control as often: answers a second.
    pub(super) fn control(&self, requests: u64, connections: u32) -> Result<f64> {
        Ok(self.control_load(requests, connections).send()?.served_per_second())
    }

    /// So many requests to the control.
    pub(super) fn control_load(&self, requests: u64, connections: u32) -> Load {
        Load::once_each(&self.control_address, "bench", requests, connections)
    }

    /// Sends a load to issuers. The consumer will get a record of each coupon.
    pub(super) fn ask(&self, load: &Load) -> Result<Sample> {
        let sample = load.send()?;
        self.owed.set(self.owed.get() + sample.count("issued"));
        Ok(sample)
    }

    /// How many records the consumer has recorded since its start.
    pub(super) fn recorded(&self) -> Option<u64> {
        let (_, metrics) = http::get(self.consumer.monitor, "/metrics")?;
        metrics.lines().find_map(|line| line.strip_prefix("couponry_consumer_recorded_total ")?.parse().ok())
    }

    /// How much of what was issued is recorded.
    pub(super) fn share_recorded(&self, of: u64) -> f64 {
        let behind = self.owed.get().saturating_sub(self.recorded().unwrap_or_default());
        1.0 - float(behind.min(of)) / float(of.max(1))
    }

    /// Waits until the consumer has recorded all.
    pub(super) fn drain(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.recorded().is_none_or(|recorded| recorded < self.owed.get()) {
            if Instant::now() > deadline {
                bail!("the consumer has recorded {:?} of {}", self.recorded(), self.owed.get());
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// Stops the consumer in order. What is issued from then on waits in Kafka.
    pub(super) fn stop_consumer(&self) -> Result<()> {
        self.drain()?;
        self.consumer.process.stop()?;
        self.owed.set(0);
        Ok(())
    }

    /// Runs an SQL script as a user would, and returns what it printed and how long it took.
    pub(super) fn psql(&self, script: &str) -> Result<(String, Duration)> {
        let psql = programs::postgres_bin().context("PostgreSQL is not installed")?.join("psql");
        let begun = Instant::now();
        let args = ["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1"];
        let url = self.servers.postgres.url();
        let printed = couponry_testbed::process::output(&psql, &[&args[..], &[&url]].concat(), Some(script))?;
        Ok((printed, begun.elapsed()))
    }
}

/// A program of ours.
fn node(servers: &Servers, program: &str, args: &[&str]) -> Result<Node> {
    Node::start(&cargo::built("release")?, (program, program), &Addresses::from(servers), args, &[])
}

/// Where an issuer answers.
pub(super) fn address(issuer: &Node) -> String {
    format!("127.0.0.1:{}", issuer.listen.unwrap_or_default())
}

/// Does something, and tells how many seconds of processors the process has used meanwhile.
pub(super) fn cpu_of<T>(process: &Process, work: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
    let before = process.usage()?.cpu;
    let done = work()?;
    Ok((done, process.usage()?.cpu.saturating_sub(before).as_secs_f64()))
}
