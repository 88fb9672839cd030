//! Five times the load that an issuer can serve.

use anyhow::Result;
use testbed::progress::Step;

use super::Options;
use super::figures::{Spread, whole};
use super::installation::Installation;
use super::latency::{count, highest};
use super::load::Load;
use super::table::{Goal, Table};

const CONNECTIONS: u32 = 3000;
const TIMES: f64 = 5.0;
const SECONDS: f64 = 6.0;

/// The row of overload.
pub(super) fn measure(installation: &mut Installation, options: &Options, table: &mut Table) -> Result<()> {
    let rate = TIMES * highest(installation, options, table)?;
    let (mut ratios, mut served, mut most) = (Spread::default(), Spread::default(), Spread::default());
    let (mut away, mut away_p99, mut served_p99) = (Spread::default(), Spread::default(), Spread::default());
    for round in 1..=options.rounds {
        let step = Step::start(format!("overload, round {round} of {}", options.rounds));
        let event = installation.open(options.coupons, "Redis")?;
        let own = installation.sell(&event, options.coupons, options.connections)?;
        installation.close(&event)?;

        // More coupons than can be asked for: every answer gives one, or says to come back.
        let coupons = count(SECONDS * own * 2.0)?;
        let event = installation.open(coupons, "Redis")?;
        let load = Load::once_each(&installation.target(), &event, coupons, CONNECTIONS);
        let overload = Load { rate: Some(rate), seconds: Some(SECONDS), requests: None, ..load };
        let sample = overload.send()?;
        installation.owe(sample.count("issued"));
        installation.close(&event)?;
        ratios.push(sample.served_per_second() / own);
        served.push(sample.served_per_second());
        most.push(own);
        away.push(super::figures::float(sample.count("unavailable")) / sample.seconds());
        away_p99.push(sample.turned_away("p99"));
        served_p99.push(sample.latency("p99"));
        step.done();
    }
    let memory = installation.issuer.process.process().usage()?.peak_memory / (1024 * 1024);
    table.add(
        "overload: 5 times the highest load, 3,000 connections, open loop",
        "its own highest throughput",
        Goal::AtLeast(0.9),
        ratios,
        format!(
            "{} of {} a second due were served, {} told to come back, the others found no free connection; no other answer, no \
             timeout; the issuer had at most {memory} MiB; {most:.0} a second alone; from when they were due, p99 {served_p99:.0} ms \
             for a coupon, {away_p99:.0} ms for a 503",
            whole(served.median()),
            whole(rate),
            whole(away.median()),
        ),
    );
    Ok(())
}
