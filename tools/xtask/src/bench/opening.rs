//! The opening of an event: all users press the button at the same instant.

use anyhow::{Result, ensure};
use couponry_testbed::progress::Step;

use super::installation::{Installation, url};
use super::load::{Load, LoadResult};
use super::options::Options;
use super::statistics::Samples;
use super::table::{Goal, Table};

const USERS: u64 = 20_000;
const CONNECTIONS: u32 = 2000;
/// Number of issuers of the second row, which share one Redis.
const ISSUERS: u32 = 10;

/// Adds the rows of the opening: with one issuer, and with several small ones.
pub(super) fn measure(installation: &Installation, options: &Options, table: &mut Table) -> Result<()> {
    let [mut ratios, mut seconds, mut controls] = [(); 3].map(|()| Samples::default());
    let [mut slowest, mut slowest_of_many] = [(); 2].map(|()| Samples::default());
    let more = (1..ISSUERS).map(|_| installation.start_issuer(&[])).collect::<Result<Vec<_>>>()?;
    let issuers = [&installation.issuer].into_iter().chain(&more).map(url).collect::<Vec<_>>();
    for round in 1..=options.rounds {
        let step = Step::start(format!("opening, round {round} of {}", options.rounds));
        let control = installation.control_load(USERS, CONNECTIONS).send()?;
        let opened = open(installation, vec![installation.target()])?;
        ratios.push(opened.seconds() / control.seconds());
        seconds.push(opened.seconds());
        controls.push(control.seconds());
        slowest.push(opened.latency("max") / 1000.0);
        slowest_of_many.push(open(installation, issuers.clone())?.latency("max") / 1000.0);
        step.done();
    }
    table.add(
        "opening: 20,000 users over 2,000 connections at one instant, until all have a response",
        "the control",
        Goal::AtMost(1.7),
        ratios,
        format!("{seconds:.2} s, control {controls:.2} s; the slowest user {slowest:.2} s"),
    );
    table.add(
        &format!("the same with {ISSUERS} issuers: the slowest user, s"),
        "",
        Goal::AtMost(1.0),
        slowest_of_many,
        format!("{} connections for each issuer", CONNECTIONS / ISSUERS),
    );
    Ok(())
}

fn open(installation: &Installation, targets: Vec<String>) -> Result<LoadResult> {
    let event = installation.open(USERS, "Redis")?;
    let load = Load { targets, ..Load::once_each("", &event, USERS, CONNECTIONS) };
    let result = installation.send_load(&load)?;
    ensure!(result.count("issued") == USERS, "{} of {USERS} coupons were issued", result.count("issued"));
    installation.close(&event)?;
    Ok(result)
}
