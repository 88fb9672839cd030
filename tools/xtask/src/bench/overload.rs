//! Five times the highest load of an issuer.

use anyhow::Result;
use couponry_testbed::progress::Step;

use super::installation::{Installation, url};
use super::latency::{count, highest};
use super::load::Load;
use super::options::Options;
use super::statistics::{Samples, float, format_number};
use super::table::{Goal, Table};
use crate::programs::RunningProgram;

const CONNECTIONS: u32 = 3000;
const TIMES: f64 = 5.0;
const SECONDS: f64 = 5.0;
/// Queue limit of the second issuer.
const LOW_QUEUE_LIMIT: &str = "500";

/// Adds the rows of overload: with the default queue limit, and with a low one.
pub(super) fn measure(installation: &Installation, options: &Options, table: &mut Table) -> Result<()> {
    let rate = TIMES * highest(installation, options, table)?;
    row(installation, options, table, (&installation.issuer, "", 0.95), rate)?;
    let strict = installation.start_issuer(&["--max-queued-requests", LOW_QUEUE_LIMIT])?;
    let variant = format!(", `--max-queued-requests {LOW_QUEUE_LIMIT}`");
    row(installation, options, table, (&strict, &variant, 0.9), rate)?;
    strict.process.stop()
}

fn row(
    installation: &Installation,
    options: &Options,
    table: &mut Table,
    (issuer, variant, goal): (&RunningProgram, &str, f64),
    rate: f64,
) -> Result<()> {
    let (mut ratios, mut answered, mut alone) = (Samples::default(), Samples::default(), Samples::default());
    let (mut rejected, mut rejected_p99) = (Samples::default(), Samples::default());
    let target = url(issuer);
    for round in 1..=options.rounds {
        let step = Step::start(format!("overload{variant}, round {round} of {}", options.rounds));
        // As long as the overload: in a short event, recording would not take part of the cores.
        let coupons = count(SECONDS * rate / TIMES)?;
        let event = installation.open(coupons, "Redis")?;
        let baseline = installation.send_load(&Load::once_each(&target, &event, coupons, options.connections))?;
        installation.close(&event)?;
        let own = baseline.responses_per_second();

        // More coupons than requests, so that no request is answered with `SOLD_OUT`.
        let coupons = count(SECONDS * own * 2.0)?;
        let event = installation.open(coupons, "Redis")?;
        let load = Load::once_each(&target, &event, coupons, CONNECTIONS);
        let load = Load { rate: Some(rate), seconds: Some(SECONDS), requests: None, ..load };
        let result = installation.send_load(&load)?;
        installation.close(&event)?;
        ratios.push(result.responses_per_second() / own);
        answered.push(result.responses_per_second());
        alone.push(own);
        rejected.push(float(result.count("unavailable")) / result.seconds());
        rejected_p99.push(result.unavailable_latency("p99"));
        step.done();
    }
    let memory = issuer.process.process().usage()?.peak_memory / (1024 * 1024);
    table.add(
        &format!("overload: 5 times the highest load, 3,000 connections, open loop{variant}"),
        "its own highest throughput",
        Goal::AtLeast(goal),
        ratios,
        format!(
            "of {} requests/s, {} were answered ({} without overload) and {} rejected with 503 (p99 {:.0} ms after they \
             were due); the rest found no free connection; no other response, no timeout; peak memory {memory} MiB",
            format_number(rate),
            format_number(answered.median()),
            format_number(alone.median()),
            format_number(rejected.median()),
            rejected_p99.median(),
        ),
    );
    Ok(())
}
