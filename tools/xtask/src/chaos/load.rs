//! The load generator: requests of users to an event, shops that use their coupons, and the check of all responses.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use couponry_testbed::process::Launch;
use couponry_testbed::{Process, RedisCluster};
use serde_json::Value;

use super::event::Event;
use super::installation::Installation;
use crate::cargo;

/// How long the load continues without faults.
pub(super) const CALM_PERIOD: Duration = Duration::from_secs(5);
/// How many of the coupons are used.
const USED_PERCENT: &str = "25";
/// Enough shops for those that wait until a coupon expires.
const SHOPS: &str = "64";
/// Timeout for the last responses.
const RESPONSE_TIMEOUT: Duration = Duration::from_mins(2);
/// Timeout until all issuances are recorded. An event that had finished is reconciled every five minutes.
const RECORD_TIMEOUT: Duration = Duration::from_mins(7);
/// Attempts to read the stores.
const CHECK_ATTEMPTS: u32 = 5;

/// The users of an event.
#[derive(Debug)]
pub(super) struct Workload {
    pub(super) users: u64,
    /// Requests per second.
    pub(super) rate: u64,
    pub(super) seed: u64,
}

/// The load generator in the background.
#[derive(Debug)]
pub(super) struct Load(Process);

impl Load {
    pub(super) fn start(installation: &Installation, event: &Event, workload: &Workload) -> Result<Self> {
        let Workload { users, rate, seed } = workload;
        let mut run = loadgen("run", &installation.dir.join(format!("{}.load", event.name)))?
            .args(["--event", &event.name, "--users", &users.to_string(), "--rate", &rate.to_string()])
            .args(["--user-prefix", &format!("{}-", event.name), "--seed", &seed.to_string()])
            .args(["--max-retry-delay-seconds", "2", "--history"])
            .args([history(&installation.dir, event).as_os_str()]);
        for target in installation.issuers.iter().filter_map(|instance| instance.node.url()) {
            run = run.args(["--target", &target]);
        }
        Process::start(run).map(Self)
    }

    /// Stops the load after a while without faults, and waits for its last responses.
    pub(super) fn finish(&self, installation: &mut Installation) -> Result<()> {
        installation.supervise(CALM_PERIOD, |_| Ok(self.0.exited()?.is_some()))?;
        finish(&self.0, "run", installation)
    }
}

/// Shops that use some of the coupons as soon as users receive them.
#[derive(Debug)]
pub(super) struct Shops(Process);

impl Shops {
    pub(super) fn start(installation: &Installation, event: &Event, seed: u64) -> Result<Self> {
        let (dir, seed) = (&installation.dir, u32::try_from(seed >> 32).unwrap_or_default());
        let mut redeem = loadgen("redeem", &dir.join(format!("{}.shops", event.name)))?
            .args([
                "--event",
                &event.name,
                "--follow",
                "--percent",
                USED_PERCENT,
                "--shops",
                SHOPS,
                "--seed",
                &seed.to_string(),
            ])
            .args(["--issued".as_ref(), history(dir, event).as_os_str()])
            .args(["--history".as_ref(), redemptions(dir, event).as_os_str()]);
        for target in installation.redeemers.iter().filter_map(|instance| instance.node.url()) {
            redeem = redeem.args(["--target", &target]);
        }
        Process::start(redeem).map(Self)
    }

    /// Lets the shops finish the orders in progress. Fails if a request has no outcome after all retries.
    pub(super) fn finish(&self, installation: &mut Installation) -> Result<()> {
        finish(&self.0, "redeem", installation)
    }
}

/// Interrupts a load generator unless it has exited, and waits for its last responses.
fn finish(process: &Process, command: &str, installation: &mut Installation) -> Result<()> {
    if process.exited()?.is_none() {
        process.interrupt()?;
    }
    installation.supervise(RESPONSE_TIMEOUT, |_| Ok(process.exited()?.is_some()))?;
    process.stop()?;
    let status = process.wait()?;
    ensure!(status.code() == Some(0), "loadgen {command} failed ({status}): {}", process.log_tail());
    Ok(())
}

/// The result of [`check`].
pub(super) struct Checked {
    pub(super) passed: bool,
    /// The output of `loadgen check --json`.
    pub(super) counts: Value,
}

/// What the faults of a round have changed for good, or visibly for users.
#[derive(Debug, Default)]
pub(super) struct Effects {
    /// Kafka does not have all records any more.
    pub(super) is_topic_recreated: bool,
    /// When the clock of Redis was set back, in microseconds since the Unix epoch.
    pub(super) redis_clock_back: Vec<(i64, i64)>,
}

/// Waits until everything is recorded, and compares the history with the stores.
pub(super) fn check(installation: &mut Installation, event: &Event, effects: &Effects) -> Result<Checked> {
    let (history, counts) = (history(&installation.dir, event), installation.dir.join("counts.json"));
    let log = installation.dir.join(format!("{}.check", event.name));
    let mut launch = loadgen("check", &log)?
        .args(["--event", &event.name, "--total", &event.total.to_string()])
        .args(event.release_args())
        .args(["--wait-seconds", &RECORD_TIMEOUT.as_secs().to_string()])
        .args([
            "--redis-url",
            &installation.cluster.as_ref().map_or(installation.servers.redis.url(), RedisCluster::url),
        ])
        .args(installation.redis_args().iter().copied())
        .args(["--postgres-url", &installation.servers.postgres.url()])
        .args(["--kafka-brokers", &installation.servers.kafka.brokers()])
        .args(["--history".as_ref(), history.as_os_str(), "--json".as_ref(), counts.as_os_str()]);
    let redemptions = redemptions(&installation.dir, event);
    if redemptions.exists()
        && let Some(redeemer) = installation.redeemers.iter().find_map(|instance| instance.node.url())
    {
        let history = ["--redemptions".as_ref(), redemptions.as_os_str()];
        launch = launch.args(["--redeemer", &redeemer]).args(history);
    }
    let voids = voids(&installation.dir, event);
    if voids.exists() {
        launch = launch.args(["--voids".as_ref(), voids.as_os_str()]);
    }
    if effects.is_topic_recreated {
        launch = launch.args(["--topic-was-recreated"]);
    }
    for (from, until) in &effects.redis_clock_back {
        launch = launch.args(["--redis-clock-back", &format!("{from}-{until}")]);
    }
    let check = Process::start(launch)?;
    let mut attempts = 1;
    let passed = loop {
        installation.supervise(2 * RECORD_TIMEOUT, |_| Ok(check.exited()?.is_some()))?;
        match check.wait()?.code() {
            Some(0) => break true,
            Some(1) => break false,
            // On a busy machine, a store may not respond in time.
            _ if attempts < CHECK_ATTEMPTS => attempts += 1,
            code => bail!("loadgen check failed ({code:?}): {}", check.log_tail()),
        }
        check.restart()?;
    };
    let json = fs::read_to_string(&counts).with_context(|| format!("cannot read {}", counts.display()))?;
    let counts = serde_json::from_str(&json).context("the output of loadgen check is not valid JSON")?;
    if passed {
        for file in [&history, &redemptions, &voids].into_iter().filter(|file| file.exists()) {
            fs::remove_file(file).with_context(|| format!("cannot remove {}", file.display()))?;
        }
    } else {
        println!("{}", check.log().trim_end());
    }
    Ok(Checked { passed, counts })
}

/// Changes the topic as an administrator does.
pub(super) fn change_topic(installation: &Installation, change: &[&str]) -> Result<()> {
    let log = installation.dir.join("topic.log");
    let run = loadgen("topic", &log)?.args(["--kafka-brokers", &installation.servers.kafka.brokers()]);
    let run = Process::start(run.args(change.iter().copied()))?;
    let status = run.wait()?;
    ensure!(status.success(), "loadgen topic failed ({status}): {}", run.log_tail());
    Ok(())
}

pub(super) fn history(dir: &Path, event: &Event) -> PathBuf {
    dir.join(format!("{}.history", event.name))
}

pub(super) fn voids(dir: &Path, event: &Event) -> PathBuf {
    dir.join(format!("{}.voids", event.name))
}

pub(super) fn redemptions(dir: &Path, event: &Event) -> PathBuf {
    dir.join(format!("{}.redemptions", event.name))
}

/// The load generator, without environment variables which could change its servers.
fn loadgen(command: &str, log: &Path) -> Result<Launch> {
    let program = cargo::built("debug")?.join("loadgen");
    Ok(Launch::new("loadgen", program, log).clean_env().args([command]))
}
