//! What issuers cost: more of them under the same load, and one that nobody asks.

use std::thread;
use std::time::Duration;

use anyhow::Result;
use couponry_testbed::progress::Step;

use super::Options;
use super::figures::{Spread, float, whole};
use super::installation::{Installation, address, cpu_of};
use super::latency::{count, highest};
use super::load::Load;
use super::table::{Goal, Table};

const SECONDS: f64 = 5.0;
const IDLE: Duration = Duration::from_secs(10);

/// The rows of 1, 2 and 4 issuers, and of an idle one.
pub(super) fn measure(installation: &Installation, options: &Options, table: &mut Table) -> Result<()> {
    let rate = highest(installation, options, table)? / 3.0;
    let users = count(rate * SECONDS)?;
    let mut costs = [Spread::default(), Spread::default(), Spread::default()];
    let more = [(); 3].map(|()| installation.another_issuer(&[])).into_iter().collect::<Result<Vec<_>>>()?;
    let all: Vec<_> = [&installation.issuer].into_iter().chain(&more).collect();
    for round in 1..=options.rounds {
        let step = Step::start(format!("1, 2 and 4 issuers, round {round} of {}", options.rounds));
        for (number, cost) in [1, 2, 4].into_iter().zip(&mut costs) {
            let asked = &all[..number];
            let used = || -> Result<f64> {
                asked.iter().map(|node| Ok(node.process.process().usage()?.cpu.as_secs_f64())).sum()
            };
            let event = installation.open(users, "Redis")?;
            let before = used()?;
            let load = Load::once_each("", &event, users, options.connections);
            let targets = asked.iter().map(|node| address(node)).collect();
            let sample = installation.ask(&Load { targets, rate: Some(rate), seconds: Some(SECONDS), ..load })?;
            cost.push((used()? - before) / float(sample.count("issued")) * 1e6);
            installation.close(&event)?;
        }
        step.done();
    }
    let step = Step::start("an idle issuer");
    let ((), idle) = cpu_of(more[0].process.process(), || {
        thread::sleep(IDLE);
        Ok(())
    })?;
    let memory = more[0].process.process().usage()?.peak_memory / (1024 * 1024);
    step.done();
    for (number, cost) in ["1 issuer", "2 issuers", "4 issuers"].into_iter().zip(costs) {
        table.add(
            &format!("{number}: CPU seconds for a million requests"),
            "",
            Goal::Stated,
            cost,
            format!("{} requests a second in all", whole(rate)),
        );
    }
    table.add(
        "an idle issuer: thousandths of a core",
        "",
        Goal::Stated,
        Spread::from_iter([1000.0 * idle / IDLE.as_secs_f64()]),
        format!("at most {memory} MiB"),
    );
    more.iter().try_for_each(|node| node.process.stop())
}
