//! Latency in an open loop, and its growth with the load.

use anyhow::{Context, Result};
use couponry_testbed::progress::Step;

use super::installation::Installation;
use super::load::{Load, LoadResult};
use super::options::Options;
use super::statistics::{Samples, float, format_number};
use super::table::{Curve, Goal, Table};

/// Requests per second. A small load: at a higher one, requests wait for a core.
const RATE: f64 = 1500.0;
/// Duration of a measurement, in seconds.
const SECONDS: f64 = 6.0;
/// The loads of the plots, relative to the highest load.
const PARTS: [f64; 7] = [0.1, 0.25, 0.5, 0.7, 0.85, 1.0, 1.15];
/// Duration of each of them, in seconds.
const PART_SECONDS: f64 = 3.0;

/// The highest throughput of an issuer, in coupons per second. Measured once.
pub(super) fn highest(installation: &Installation, options: &Options, table: &mut Table) -> Result<f64> {
    if let Some(highest) = table.highest {
        return Ok(highest);
    }
    let mut rates = Samples::default();
    for _ in 0..3 {
        let event = installation.open(options.coupons, "Redis")?;
        rates.push(installation.issue_all(&event, options.coupons, options.connections)?);
        installation.close(&event)?;
    }
    table.highest = Some(rates.median());
    Ok(rates.median())
}

/// Adds the rows of latency at [`RATE`], and the curves.
pub(super) fn measure(installation: &Installation, options: &Options, table: &mut Table) -> Result<()> {
    let highest = highest(installation, options, table)?;
    let mut ratios = [Samples::default(), Samples::default()];
    let mut latencies = [Samples::default(), Samples::default()];
    let mut controls = [Samples::default(), Samples::default()];
    for round in 1..=options.rounds {
        let step =
            Step::start(format!("latency at {RATE:.0} requests per second, round {round} of {}", options.rounds));
        let control = control_at(installation, options, RATE, SECONDS)?;
        let issued = issue_at(installation, options, RATE, SECONDS)?;
        for (at, quantile) in ["p50", "p99"].into_iter().enumerate() {
            let (issued, control) = (issued.latency(quantile), control.latency(quantile));
            ratios[at].push(issued / control);
            latencies[at].push(issued);
            controls[at].push(control);
        }
        step.done();
    }
    for (number, (name, goal)) in [("p50", 2.5), ("p99", 3.0)].into_iter().enumerate() {
        table.add(
            &format!("latency {name} at {} requests per second, open loop", format_number(RATE)),
            "the control at the same rate",
            Goal::AtMost(goal),
            ratios[number].clone(),
            format!("{:.2} ms, control {:.2} ms", latencies[number], controls[number]),
        );
    }
    curves(installation, options, table, highest)
}

fn curves(installation: &Installation, options: &Options, table: &mut Table, highest: f64) -> Result<()> {
    let step = Step::start("throughput and latency by load");
    let curve = |name: &str| Curve { name: name.to_owned(), points: Vec::new() };
    let mut throughput = vec![curve("issuer"), curve("control")];
    let mut latency = vec![curve("issuer p50"), curve("issuer p99"), curve("control p50"), curve("control p99")];
    for part in PARTS {
        let rate = part * highest;
        let issued = issue_at(installation, options, rate, PART_SECONDS)?;
        let control = control_at(installation, options, rate, PART_SECONDS)?;
        for (at, result) in [issued, control].iter().enumerate() {
            throughput[at].points.push((rate, result.responses_per_second()));
            latency[2 * at].points.push((rate, result.latency("p50")));
            latency[2 * at + 1].points.push((rate, result.latency("p99")));
        }
    }
    (table.throughput, table.latency) = (throughput, latency);
    step.done();
    Ok(())
}

/// Issues coupons in an open loop; there are as many coupons as requests.
fn issue_at(installation: &Installation, options: &Options, rate: f64, seconds: f64) -> Result<LoadResult> {
    let users = count(rate * seconds)?;
    let event = installation.open(users, "Redis")?;
    let load = Load::once_each(&installation.target(), &event, users, options.connections);
    let result = installation.send_load(&Load { rate: Some(rate), seconds: Some(seconds), ..load })?;
    installation.close(&event)?;
    Ok(result)
}

fn control_at(installation: &Installation, options: &Options, rate: f64, seconds: f64) -> Result<LoadResult> {
    let load = installation.control_load(count(rate * seconds)?, options.connections);
    Load { rate: Some(rate), seconds: Some(seconds), ..load }.send()
}

/// A number of requests.
pub(super) fn count(number: f64) -> Result<u64> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "far from the limits")]
    let count = number.round() as u64;
    (count > 0 && float(count) < 1e9)
        .then_some(count)
        .with_context(|| format!("{number} is not a valid number of requests"))
}
