//! The measured installation: one of each server and program, and the control.

use std::cell::Cell;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use couponry_testbed::program::{Program, Running};
use couponry_testbed::progress::Step;
use couponry_testbed::{Kafka, Process, Redis, http, ports, programs, redis};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::load::{self, Load, LoadResult};
use super::statistics::float;
use crate::coupon_event::{condition, get};
use crate::programs::{Addresses, CONSUMER, ISSUER, OPERATOR, RunningProgram};
use crate::servers::Servers;
use crate::{cargo, coupon_event};

/// Coupons issued before the first measurement. The broker's JVM compiles its code meanwhile, which takes a core.
const WARM_UP: u64 = 200_000;

/// The longest ramp, of which the last minutes are measured.
const RAMP_SECONDS: i64 = 86_400;

const TIMEOUT: Duration = Duration::from_mins(5);
const POLL: Duration = Duration::from_millis(50);

/// When Redis syncs its append-only file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FsyncPolicy {
    EverySecond,
    Always,
}

/// All servers and programs. The fields are dropped in order, so programs stop before the servers.
pub(super) struct Installation {
    pub(super) issuer: RunningProgram,
    pub(super) consumer: RunningProgram,
    pub(super) operator: RunningProgram,
    pub(super) control: Running,
    control_address: String,
    pub(super) servers: Servers,
    /// Records which the consumer must have recorded since its start.
    expected_records: Cell<u64>,
    events: Cell<u64>,
}

impl Installation {
    /// Starts and warms up everything. Redis syncs every second.
    pub(super) fn start() -> Result<Self> {
        let servers = Servers::start_with(Redis::start, Kafka::start_optimized)?;
        let step = Step::start("starting the programs");
        coupon_event::apply_crd(&servers.kubernetes)?;
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
            expected_records: Cell::default(),
            events: Cell::default(),
        };
        for program in [&installation.operator, &installation.issuer, &installation.consumer] {
            program.wait_ready()?;
        }
        installation.control.wait_ready(|| http::get(port, "/readyz").is_some_and(|(status, _)| status == 200))?;
        installation.set_fsync(FsyncPolicy::EverySecond)?;
        step.done();
        let step = Step::start("warming up");
        let event = installation.open(WARM_UP, "Redis")?;
        installation.issue_all(&event, WARM_UP, 64)?;
        installation.control(20_000, 64)?;
        installation.close(&event)?;
        step.done();
        Ok(installation)
    }

    /// Starts another issuer.
    pub(super) fn start_issuer(&self, args: &[&str]) -> Result<RunningProgram> {
        self.start_program(ISSUER, args)
    }

    /// Starts another program, and waits until it is ready.
    pub(super) fn start_program(&self, program: &str, args: &[&str]) -> Result<RunningProgram> {
        let node = node(&self.servers, program, args)?;
        node.wait_ready()?;
        Ok(node)
    }

    pub(super) fn set_fsync(&self, policy: FsyncPolicy) -> Result<()> {
        let value = match policy {
            FsyncPolicy::EverySecond => "everysec",
            FsyncPolicy::Always => "always",
        };
        redis::command(&self.servers.redis.url(), &["CONFIG", "SET", "appendfsync", value]).map(drop)
    }

    /// Appends coupons to a list in Redis, for a script for one user.
    pub(super) fn load_items(&self, list: &str, coupons: u64) -> Result<()> {
        let items: Vec<String> = (0..coupons).map(|number| format!("BENCH-{number:012}:PERCENT:10")).collect();
        for chunk in items.chunks(5000) {
            let words: Vec<&str> = ["RPUSH", list].into_iter().chain(chunk.iter().map(String::as_str)).collect();
            redis::command(&self.servers.redis.url(), &words)?;
        }
        Ok(())
    }

    /// A number of `INFO`.
    pub(super) fn redis_info(&self, name: &str) -> Result<f64> {
        let info = redis::command(&self.servers.redis.url(), &["INFO"])?;
        let found = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok());
        found.with_context(|| format!("INFO of Redis has no number {name}"))
    }

    /// Applies an event with a new name, and waits until it is open.
    pub(super) fn open(&self, coupons: u64, acknowledge: &str) -> Result<String> {
        self.open_with(coupons, acknowledge, &json!({}))
    }

    /// Opens an event that is released over time: the ramp is active and has admitted all but a few of 1,000 users, and
    /// all coupons but one are released.
    pub(super) fn open_with_release(&self, coupons: u64) -> Result<String> {
        let at = |seconds| format!("{:.0}", Timestamp::now() + SignedDuration::from_secs(seconds));
        let release = json!({
            "startTime": at(300 - RAMP_SECONDS),
            "admission": {"rampSeconds": RAMP_SECONDS},
            "drops": [{"at": at(-600), "count": coupons / 2}, {"at": at(3600), "count": 1}],
        });
        self.open_with(coupons + 1, "Redis", &release)
    }

    /// Opens an event with further fields of the spec.
    fn open_with(&self, coupons: u64, acknowledge: &str, fields: &Value) -> Result<String> {
        let name = format!("bench-{}", self.events.replace(self.events.get() + 1));
        let kubernetes = &self.servers.kubernetes;
        let mut manifest = coupon_event::manifest(&name, "Benchmark", coupons, acknowledge);
        for (field, value) in fields.as_object().into_iter().flatten() {
            manifest["spec"][field] = value.clone();
        }
        kubernetes.kubectl_with(&["apply", "-f", "-"], &manifest.to_string())?;
        kubernetes.kubectl(&["wait", "--for=condition=Open", "couponevent", &name, "--timeout=10m"])?;
        Ok(name)
    }

    pub(super) fn uid(&self, event: &str) -> Result<String> {
        let event = get(&self.servers.kubernetes, event)?;
        event.pointer("/metadata/uid").and_then(|uid| uid.as_str()).map(str::to_owned).context("the event has no uid")
    }

    /// Waits until all issuances are recorded, and deletes the event.
    pub(super) fn close(&self, event: &str) -> Result<()> {
        self.wait_until_recorded()?;
        let kubernetes = &self.servers.kubernetes;
        let found = get(kubernetes, event)?;
        ensure!(
            condition(&found, "Balanced").is_none_or(|c| c["status"] == "True"),
            "the coupon counts of {event} do not match: {found}"
        );
        kubernetes.kubectl(&["delete", "couponevent", event]).map(drop)
    }

    /// The URL of the issuer.
    pub(super) fn target(&self) -> String {
        url(&self.issuer)
    }

    /// Issues all coupons of an event. Returns responses per second.
    pub(super) fn issue_all(&self, event: &str, coupons: u64, connections: u32) -> Result<f64> {
        let result = self.send_load(&Load::once_each(&self.target(), event, coupons, connections))?;
        ensure!(result.count("issued") == coupons, "{} of {coupons} coupons were issued", result.count("issued"));
        Ok(result.responses_per_second())
    }

    /// Sends as many requests to the control. Returns responses per second.
    pub(super) fn control(&self, requests: u64, connections: u32) -> Result<f64> {
        Ok(self.control_load(requests, connections).send()?.responses_per_second())
    }

    pub(super) fn control_load(&self, requests: u64, connections: u32) -> Load {
        Load::once_each(&format!("http://{}", self.control_address), "bench", requests, connections)
    }

    /// Sends a load to issuers.
    pub(super) fn send_load(&self, load: &Load) -> Result<LoadResult> {
        let result = load.send()?;
        self.expected_records.set(self.expected_records.get() + result.count("issued"));
        Ok(result)
    }

    /// Records which the consumer has recorded since its start.
    pub(super) fn recorded(&self) -> Option<u64> {
        let (_, metrics) = http::get(self.consumer.monitor, "/metrics")?;
        metrics.lines().find_map(|line| line.strip_prefix("couponry_consumer_recorded_total ")?.parse().ok())
    }

    /// The share of the last `of` issued coupons that is recorded.
    pub(super) fn share_recorded(&self, of: u64) -> f64 {
        let behind = self.expected_records.get().saturating_sub(self.recorded().unwrap_or_default());
        1.0 - float(behind.min(of)) / float(of.max(1))
    }

    /// Waits until all issuances are recorded.
    pub(super) fn wait_until_recorded(&self) -> Result<()> {
        let deadline = Instant::now() + TIMEOUT;
        while self.recorded().is_none_or(|recorded| recorded < self.expected_records.get()) {
            if Instant::now() > deadline {
                bail!(
                    "timeout: the consumer has recorded {:?} of {} records",
                    self.recorded(),
                    self.expected_records.get()
                );
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// Stops the consumer gracefully. Later records stay in Kafka.
    pub(super) fn stop_consumer(&self) -> Result<()> {
        self.wait_until_recorded()?;
        self.consumer.process.stop()?;
        self.expected_records.set(0);
        Ok(())
    }

    /// Runs an SQL script with psql. Returns its output and duration.
    pub(super) fn psql(&self, script: &str) -> Result<(String, Duration)> {
        let psql = programs::postgres_bin().context("PostgreSQL is not installed")?.join("psql");
        let start = Instant::now();
        let args = ["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1"];
        let url = self.servers.postgres.url();
        let printed = couponry_testbed::process::output(&psql, &[&args[..], &[&url]].concat(), Some(script))?;
        Ok((printed, start.elapsed()))
    }
}

fn node(servers: &Servers, program: &str, args: &[&str]) -> Result<RunningProgram> {
    RunningProgram::start(&cargo::built("release")?, (program, program), &Addresses::from(servers), args, &[])
}

/// The URL of an issuer or a redeemer.
pub(super) fn url(node: &RunningProgram) -> String {
    format!("http://127.0.0.1:{}", node.listen.unwrap_or_default())
}

/// Runs `work` and returns the CPU seconds which the process has used meanwhile.
pub(super) fn cpu_of<T>(process: &Process, work: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
    let before = process.usage()?.cpu;
    let done = work()?;
    Ok((done, process.usage()?.cpu.saturating_sub(before).as_secs_f64()))
}
