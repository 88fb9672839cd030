//! Throughput of redemptions, and of issuing while a redeemer is running.

use anyhow::{Context, Result};
use couponry_testbed::process;
use couponry_testbed::progress::Step;
use serde_json::Value;

use super::installation::{Installation, url};
use super::load;
use super::options::Options;
use super::statistics::{Samples, format_number};
use super::table::{Goal, Table};
use crate::programs::REDEEMER;

/// Number of requests in progress.
const CONNECTIONS: u32 = 64;
/// Number of coupons that each mode redeems in a round: at most a third of the event.
const COUPONS: u64 = 5000;

/// Adds the rows of redemptions.
pub(super) fn measure(installation: &Installation, options: &Options, table: &mut Table) -> Result<()> {
    let [mut http, mut direct, mut control] = [(); 3].map(|()| Samples::default());
    let [mut http_ratios, mut direct_ratios, mut issue_ratios] = [(); 3].map(|()| Samples::default());
    let [mut with, mut without] = [(); 2].map(|()| Samples::default());
    let redeemer = installation.start_program(REDEEMER, &[])?;
    let target = url(&redeemer);
    let count = COUPONS.min(options.coupons / 3);
    for round in 1..=options.rounds {
        let step = Step::start(format!("redemptions, round {round} of {}", options.rounds));
        let event = installation.open(options.coupons, "Redis")?;
        installation.issue_all(&event, options.coupons, options.connections)?;
        installation.wait_until_recorded()?;
        installation.psql("CREATE TABLE control_use (LIKE coupon_use INCLUDING ALL);\n")?;
        let redeem = |mode: &str, slice: u64| redeem(installation, &event, &target, mode, count, slice * count);
        let inserted = redeem("insert", 0)?;
        let (over_http, without_http) = (redeem("http", 1)?, redeem("direct", 2)?);
        installation.psql("DROP TABLE control_use;\n")?;
        installation.close(&event)?;
        http_ratios.push(over_http / inserted);
        direct_ratios.push(without_http / inserted);
        http.push(over_http);
        direct.push(without_http);
        control.push(inserted);
        step.done();
    }
    for round in 1..=options.rounds {
        let step = Step::start(format!("issuing with a redeemer, round {round} of {}", options.rounds));
        let issue = || -> Result<f64> {
            let event = installation.open(options.coupons, "Redis")?;
            let issued_per_second = installation.issue_all(&event, options.coupons, options.connections)?;
            installation.close(&event)?;
            Ok(issued_per_second)
        };
        // It runs at the beginning of odd rounds.
        let (with_redeemer, without_redeemer) = if round.is_multiple_of(2) {
            let without_redeemer = issue()?;
            redeemer.process.restart()?;
            redeemer.wait_ready()?;
            (issue()?, without_redeemer)
        } else {
            let with_redeemer = issue()?;
            redeemer.process.stop()?;
            (with_redeemer, issue()?)
        };
        issue_ratios.push(with_redeemer / without_redeemer);
        with.push(with_redeemer);
        without.push(without_redeemer);
        step.done();
    }
    let details = |rate: &Samples, control: &Samples| {
        format!("{}/s, control {}/s", format_number(rate.median()), format_number(control.median()))
    };
    table.add(
        "redeem coupons over HTTP, 64 connections",
        "`INSERT … ON CONFLICT DO NOTHING` of the same row for each coupon, over as many connections to Postgres (8)",
        Goal::AtLeast(0.5),
        http_ratios,
        details(&http, &control),
    );
    table.add(
        "redeem coupons without HTTP, 64 requests in progress",
        "the same",
        Goal::AtLeast(0.5),
        direct_ratios,
        details(&direct, &control),
    );
    table.add(
        "issue all coupons while a redeemer is running",
        "issue without a redeemer",
        Goal::AtLeast(0.98),
        issue_ratios,
        details(&with, &without),
    );
    Ok(())
}

/// Redeems coupons that were not used before. Returns coupons per second.
fn redeem(installation: &Installation, event: &str, target: &str, mode: &str, count: u64, skip: u64) -> Result<f64> {
    let (count, skip, connections) = (count.to_string(), skip.to_string(), CONNECTIONS.to_string());
    let postgres = installation.servers.postgres.url();
    let args = ["measure-uses", "--event", event, "--mode", mode, "--target", target, "--coupons", &count];
    let rest = ["--skip", &skip, "--connections", &connections, "--postgres-url", &postgres];
    let printed = process::output(&load::program()?, &[&args[..], &rest].concat(), None)?;
    let result: Value = serde_json::from_str(&printed).context("the output of loadgen is not valid JSON")?;
    result["perSecond"].as_f64().context("the output of loadgen has no rate")
}
