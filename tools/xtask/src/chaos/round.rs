//! A round: a new event, a load, faults one after the other, and the check.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use couponry_testbed::Process;
use couponry_testbed::process::Launch;

use super::event::Event;
use super::fault::{Fault, Kind};
use super::installation::Installation;
use super::outage;
use super::rng::Rng;
use super::statistics::Statistics;
use crate::cargo;

/// Timeout for the preload, with crashing operators.
const PRELOAD_TIMEOUT: Duration = Duration::from_mins(5);
/// How long the load continues without faults.
const CALM_PERIOD: Duration = Duration::from_secs(5);
/// Timeout for the last answers.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(2);
/// Timeout until all issuances are recorded.
const RECORD_TIMEOUT: Duration = Duration::from_mins(4);

/// Parameters of a round.
#[derive(Debug)]
pub(super) struct Round {
    pub(super) number: u64,
    pub(super) faults: Vec<Fault>,
    /// Requests per second.
    pub(super) rate: u64,
    /// Number of coupons in percent of the users. About half of the users send a request in time.
    pub(super) stock_percent: u64,
    pub(super) acknowledge: &'static str,
    /// The seed of the workload.
    pub(super) seed: u64,
}

impl Round {
    /// Draws the other parameters.
    pub(super) fn draw(number: u64, faults: Vec<Fault>, rate: u64, rng: &mut Rng) -> Self {
        let stock_percent = *rng.pick(&[20, 40, 100]);
        let acknowledge = *rng.pick(&["Redis", "Kafka"]);
        let acknowledge = if faults.iter().any(|fault| fault.kind.loses_data()) { "Kafka" } else { acknowledge };
        Self { number, faults, rate, stock_percent, acknowledge, seed: rng.next() }
    }

    /// Enough users for the entire round, even if servers restart slowly.
    fn users(&self) -> u64 {
        let faults: Duration = self.faults.iter().map(|fault| fault.after + fault.duration).sum();
        (2 * faults + CALM_PERIOD).as_secs() * self.rate
    }

    /// Runs the round and adds its statistics. Returns whether all checks passed.
    pub(super) fn run(&self, installation: &mut Installation, dir: &Path, statistics: &mut Statistics) -> Result<bool> {
        let (start, users) = (Instant::now(), self.users());
        let total = users * self.stock_percent / 100;
        let name = format!("round-{}", self.number);
        println!("\nround {}: {total} coupons, {users} users, acknowledge {}", self.number, self.acknowledge);
        let mut event = Event::new(name, total, self.acknowledge);
        let (preload_faults, faults): (Vec<&Fault>, Vec<_>) =
            self.faults.iter().partition(|f| f.kind == Kind::CrashPreload);
        for fault in &preload_faults {
            println!("    preload  {}", fault.kind.name());
            fault.inject(installation, &mut event)?;
        }
        event.apply(&installation.servers.kubernetes)?;
        let mut restarts = installation.wait_open(&event)?;
        for fault in preload_faults {
            fault.remove(installation, &mut event)?;
            statistics.add_fault(fault);
        }
        println!("  {:>6.1} s  open, {restarts} restarts of programs", start.elapsed().as_secs_f64());
        let load = Load::start(self, installation, &event, users, dir)?;

        let mut injections = Vec::new();
        for fault in faults {
            restarts += installation.supervise(fault.after, |_| Ok(false))?;
            println!("  {:>6.1} s  {fault}", start.elapsed().as_secs_f64());
            injections.push((jiff::Timestamp::now().as_microsecond(), fault.kind.name()));
            restarts += fault.run(installation, &mut event)?;
            statistics.add_fault(fault);
        }
        installation.wait_ready()?;
        restarts += installation.wait_open(&event)?;
        println!("  {:>6.1} s  all faults removed, {restarts} restarts of programs", start.elapsed().as_secs_f64());
        load.finish(installation)?;

        let outages = outage::after_each(&history(dir, &event), &injections)?;
        for ((_, kind), outage) in injections.into_iter().zip(outages) {
            statistics.add_outage(kind, outage);
        }
        let passed = check(installation, &event, dir, statistics)?;
        println!(
            "  {:>6.1} s  {}",
            start.elapsed().as_secs_f64(),
            if passed { "all checks passed" } else { "checks FAILED" }
        );
        if passed {
            event.delete(&installation.servers.kubernetes)?;
        }
        Ok(passed)
    }
}

/// Compares the history with the stores.
fn check(installation: &mut Installation, event: &Event, dir: &Path, statistics: &mut Statistics) -> Result<bool> {
    let (history, counts) = (history(dir, event), dir.join("counts.json"));
    let log = dir.join(format!("{}.check", event.name));
    let check = loadgen("check", &log)?
        .args(["--event", &event.name, "--total", &event.total.to_string()])
        .args(["--wait-seconds", &RECORD_TIMEOUT.as_secs().to_string()])
        .args(["--redis-url", &installation.servers.redis.url()])
        .args(["--postgres-url", &installation.servers.postgres.url()])
        .args(["--kafka-brokers", &installation.servers.kafka.brokers()])
        .args(["--history".as_ref(), history.as_os_str(), "--json".as_ref(), counts.as_os_str()]);
    let check = Process::start(check)?;
    installation.supervise(2 * RECORD_TIMEOUT, |_| Ok(check.exited()?.is_some()))?;
    let status = check.wait()?;
    if !matches!(status.code(), Some(0 | 1)) {
        bail!("loadgen check failed ({status}): {}", check.log_tail());
    }
    let json = fs::read_to_string(&counts).with_context(|| format!("cannot read {}", counts.display()))?;
    statistics.add_check(&serde_json::from_str(&json).context("the output of loadgen check is not valid JSON")?);
    if status.success() {
        fs::remove_file(&history).with_context(|| format!("cannot remove {}", history.display()))?;
    } else {
        println!("{}", check.log().trim_end());
    }
    Ok(status.success())
}

impl Installation {
    /// Waits until the manifest is loaded; restarts programs meanwhile. Returns the number of restarts.
    fn wait_open(&mut self, event: &Event) -> Result<u64> {
        let mut open = false;
        let restarts = self.supervise(PRELOAD_TIMEOUT, |installation| {
            open = event.is_open(&installation.servers.kubernetes)?;
            Ok(open)
        })?;
        ensure!(open, "{} is not open after {PRELOAD_TIMEOUT:?}", event.name);
        Ok(restarts)
    }
}

/// The load generator in the background.
struct Load(Process);

impl Load {
    fn start(round: &Round, installation: &Installation, event: &Event, users: u64, dir: &Path) -> Result<Self> {
        let mut run = loadgen("run", &dir.join(format!("{}.load", event.name)))?
            .args(["--event", &event.name, "--users", &users.to_string(), "--rate", &round.rate.to_string()])
            .args(["--user-prefix", &format!("r{}-", round.number), "--seed", &round.seed.to_string()])
            .args(["--max-retry-delay-seconds", "2", "--history"])
            .args([history(dir, event).as_os_str()]);
        for target in installation.issuers.iter().filter_map(|instance| instance.node.url()) {
            run = run.args(["--target", &target]);
        }
        Process::start(run).map(Self)
    }

    /// Stops the load after a while without faults, and waits for its last answers.
    fn finish(&self, installation: &mut Installation) -> Result<()> {
        installation.supervise(CALM_PERIOD, |_| Ok(self.0.exited()?.is_some()))?;
        if self.0.exited()?.is_none() {
            self.0.interrupt()?;
        }
        installation.supervise(ANSWER_TIMEOUT, |_| Ok(self.0.exited()?.is_some()))?;
        self.0.stop()?;
        let status = self.0.wait()?;
        ensure!(status.code() == Some(0), "loadgen run failed ({status}): {}", self.0.log_tail());
        Ok(())
    }
}

fn history(dir: &Path, event: &Event) -> PathBuf {
    dir.join(format!("{}.history", event.name))
}

/// The load generator, without environment variables which could change its servers.
fn loadgen(command: &str, log: &Path) -> Result<Launch> {
    let program = cargo::built("debug")?.join("loadgen");
    Ok(Launch::new("loadgen", program, log).clean_env().args([command]))
}
