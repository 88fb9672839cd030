//! Five times the load that an issuer can serve.

use anyhow::Result;
use couponry_testbed::progress::Step;

use super::Options;
use super::figures::{Spread, float, whole};
use super::installation::{Installation, address};
use super::latency::{count, highest};
use super::load::Load;
use super::table::{Goal, Table};
use crate::programs::Node;

const CONNECTIONS: u32 = 3000;
const TIMES: f64 = 5.0;
const SECONDS: f64 = 5.0;
/// How many requests the strict issuer lets wait.
const FEW: &str = "500";

/// The rows of overload: an issuer as it is, which lets everyone on so many connections wait, and one that lets few wait.
pub(super) fn measure(installation: &Installation, options: &Options, table: &mut Table) -> Result<()> {
    let rate = TIMES * highest(installation, options, table)?;
    row(installation, options, table, (&installation.issuer, ""), rate)?;
    let strict = installation.another_issuer(&["--max-queued-requests", FEW])?;
    row(installation, options, table, (&strict, &format!(", `--max-queued-requests {FEW}`")), rate)?;
    strict.process.stop()
}

fn row(
    installation: &Installation,
    options: &Options,
    table: &mut Table,
    (issuer, variant): (&Node, &str),
    rate: f64,
) -> Result<()> {
    let (mut ratios, mut served, mut most) = (Spread::default(), Spread::default(), Spread::default());
    let (mut away, mut away_p99) = (Spread::default(), Spread::default());
    let target = address(issuer);
    for round in 1..=options.rounds {
        let step = Step::start(format!("overload{variant}, round {round} of {}", options.rounds));
        let event = installation.open(options.coupons, "Redis")?;
        let alone = installation.ask(&Load::once_each(&target, &event, options.coupons, options.connections))?;
        installation.close(&event)?;
        let own = alone.served_per_second();

        // More coupons than can be asked for: every answer gives one, or says to come back.
        let coupons = count(SECONDS * own * 2.0)?;
        let event = installation.open(coupons, "Redis")?;
        let load = Load::once_each(&target, &event, coupons, CONNECTIONS);
        let load = Load { rate: Some(rate), seconds: Some(SECONDS), requests: None, ..load };
        let sample = installation.ask(&load)?;
        installation.close(&event)?;
        ratios.push(sample.served_per_second() / own);
        served.push(sample.served_per_second());
        most.push(own);
        away.push(float(sample.count("unavailable")) / sample.seconds());
        away_p99.push(sample.turned_away("p99"));
        step.done();
    }
    let memory = issuer.process.process().usage()?.peak_memory / (1024 * 1024);
    table.add(
        &format!("overload: 5 times the highest load, 3,000 connections, open loop{variant}"),
        "its own highest throughput",
        Goal::AtLeast(0.9),
        ratios,
        format!(
            "of {} due in a second {} were served ({} alone), {} told to come back (p99 {:.0} ms after they were due), the others found \
             no free connection; no other answer and no timeout; at most {memory} MiB",
            whole(rate),
            whole(served.median()),
            whole(most.median()),
            whole(away.median()),
            away_p99.median(),
        ),
    );
    Ok(())
}
