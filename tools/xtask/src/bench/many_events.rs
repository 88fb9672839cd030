//! An installation with 10,000 events, 100 of them open, at rest.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use couponry_testbed::progress::Step;
use couponry_testbed::redis;

use super::installation::{Installation, cpu_of};
use super::options::Options;
use super::statistics::Samples;
use super::table::{Goal, Table};
use crate::coupon_event;

const EVENTS: usize = 10_000;
const OPEN: usize = 100;
/// Of the others, every second one has not started, and the rest has ended.
const COUPONS: u64 = 10;
/// For how long the programs are measured at rest. Longer than any interval at which an idle event is reconciled.
const REST: Duration = Duration::from_mins(1);
/// The last reconciliations of the preload, and the first complete ones of the finished events.
const SETTLING: Duration = Duration::from_secs(90);
/// Objects per call of kubectl.
const CHUNK: usize = 1000;
/// Concurrent calls: kubectl limits its requests per second.
const CALLS: usize = 5;
const TIMEOUT: Duration = Duration::from_mins(20);
const POLL: Duration = Duration::from_millis(20);

pub(super) fn measure(installation: &Installation, options: &Options, table: &mut Table) -> Result<()> {
    let step = Step::start("preloading 10,000 events");
    let before = loaded(installation)?;
    let _second = installation.start_issuer(&[])?;
    let names: Vec<String> = (0..EVENTS).map(|n| format!("many-{n:05}")).collect();
    create(installation, &names)?;
    let deadline = Instant::now() + TIMEOUT;
    while loaded(installation)? < before + EVENTS {
        ensure!(
            Instant::now() < deadline,
            "only {} events are loaded after {TIMEOUT:?}",
            loaded(installation)? - before
        );
        thread::sleep(Duration::from_secs(1));
    }
    thread::sleep(SETTLING);
    step.done();

    let step = Step::start("10,000 events at rest");
    let operator = installation.operator.process.process();
    let issuer = installation.issuer.process.process();
    let commands = redis_commands(installation)?;
    let rest = || {
        thread::sleep(REST);
        Ok(())
    };
    let (((), of_issuer), of_operator) = cpu_of(operator, || cpu_of(issuer, rest))?;
    let all = per_second(redis_commands(installation)? - commands);
    // Only the issuers and the consumer use Redis now.
    operator.pause()?;
    let commands = redis_commands(installation)?;
    thread::sleep(REST);
    let others = per_second(redis_commands(installation)? - commands);
    operator.resume()?;
    step.done();
    let memory = operator.usage()?.peak_memory / (1024 * 1024);
    let load = "10,000 events, 100 of them open";
    table.add(
        &format!("{load}: share of a core that the operator uses at rest"),
        "",
        Goal::AtMost(0.05),
        Samples::from_iter([of_operator / REST.as_secs_f64()]),
        format!("peak memory {memory} MiB; an issuer: {:.3} of a core", of_issuer / REST.as_secs_f64()),
    );
    table.add(
        &format!("{load}: Redis commands per second of two idle issuers and a consumer"),
        "",
        Goal::AtMost(100.0),
        Samples::from_iter([others]),
        format!("with the operator: {all:.0}"),
    );

    let step = Step::start("pausing one of 10,000 events");
    let mut seconds = Samples::default();
    for name in names.iter().take(options.rounds as usize) {
        seconds.push(pause(installation, name)?.as_secs_f64());
    }
    step.done();
    table.add(
        &format!("{load}: seconds from the change of the manifest until one is paused"),
        "",
        Goal::AtMost(2.0),
        seconds,
        String::new(),
    );
    Ok(())
}

fn create(installation: &Installation, names: &[String]) -> Result<()> {
    let manifests: Vec<String> = names
        .iter()
        .enumerate()
        .map(|(n, name)| {
            let mut manifest = coupon_event::manifest(name, "Benchmark", COUPONS, "Redis");
            match n {
                ..OPEN => {}
                _ if n % 2 == 0 => manifest["spec"]["startTime"] = "2100-01-01T00:00:00Z".into(),
                _ => {
                    manifest["spec"]["startTime"] = "2020-01-01T00:00:00Z".into();
                    manifest["spec"]["endTime"] = "2020-01-02T00:00:00Z".into();
                }
            }
            format!("---\n{manifest}\n")
        })
        .collect();
    let chunks: Vec<String> = manifests.chunks(CHUNK).map(<[String]>::concat).collect();
    let kubernetes = &installation.servers.kubernetes;
    for calls in chunks.chunks(CALLS) {
        thread::scope(|scope| {
            let call = |chunk| kubernetes.kubectl_with(&["create", "-f", "-"], chunk).map(drop);
            let running: Vec<_> = calls.iter().map(|chunk| scope.spawn(move || call(chunk))).collect();
            running.into_iter().try_for_each(|call| call.join().expect("kubectl does not panic"))
        })?;
    }
    Ok(())
}

/// How many events are completely loaded, or were.
fn loaded(installation: &Installation) -> Result<usize> {
    let (counted, _) = installation.psql("SELECT count(*) FROM coupon_event WHERE opens_at IS NOT NULL;\n")?;
    counted.trim().parse().context("psql did not print a number")
}

/// The commands that Redis has processed, including those that scripts call.
fn redis_commands(installation: &Installation) -> Result<f64> {
    installation.redis_info("total_commands_processed")
}

fn per_second(count: f64) -> f64 {
    count / REST.as_secs_f64()
}

/// The time until the gate of the event is closed.
fn pause(installation: &Installation, name: &str) -> Result<Duration> {
    let patch = r#"{"spec":{"issuance":"Paused"}}"#;
    installation.servers.kubernetes.kubectl(&["patch", "couponevent", name, "--type=merge", "-p", patch])?;
    let patched = Instant::now();
    let key = format!("couponMeta:{{{name}}}");
    while !redis::command(&installation.servers.redis.url(), &["HGET", &key, "gate"])?.contains("PAUSED") {
        ensure!(patched.elapsed() < TIMEOUT, "{name} is not paused");
        thread::sleep(POLL);
    }
    Ok(patched.elapsed())
}
