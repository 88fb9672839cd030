//! The cost of issuers: several under the same load, and an idle one.

use std::thread;
use std::time::Duration;

use anyhow::Result;
use couponry_testbed::progress::Step;

use super::installation::{Installation, cpu_of, url};
use super::latency::{count, highest};
use super::load::Load;
use super::options::Options;
use super::statistics::{Samples, float, format_number};
use super::table::{Goal, Table};

const SECONDS: f64 = 5.0;
const IDLE: Duration = Duration::from_secs(10);

/// Adds the rows of 1, 2 and 4 issuers, and of an idle issuer.
pub(super) fn measure(installation: &Installation, options: &Options, table: &mut Table) -> Result<()> {
    let rate = highest(installation, options, table)? / 3.0;
    let users = count(rate * SECONDS)?;
    let mut costs = [Samples::default(), Samples::default(), Samples::default()];
    let more = [(); 3].map(|()| installation.start_issuer(&[])).into_iter().collect::<Result<Vec<_>>>()?;
    let all: Vec<_> = [&installation.issuer].into_iter().chain(&more).collect();
    for round in 1..=options.rounds {
        let step = Step::start(format!("1, 2 and 4 issuers, round {round} of {}", options.rounds));
        for (number, cost) in [1, 2, 4].into_iter().zip(&mut costs) {
            let issuers = &all[..number];
            let used = || -> Result<f64> {
                issuers.iter().map(|node| Ok(node.process.process().usage()?.cpu.as_secs_f64())).sum()
            };
            let event = installation.open(users, "Redis")?;
            let before = used()?;
            let load = Load::once_each("", &event, users, options.connections);
            let targets = issuers.iter().map(|node| url(node)).collect();
            let result = installation.send_load(&Load { targets, rate: Some(rate), seconds: Some(SECONDS), ..load })?;
            cost.push((used()? - before) / float(result.count("issued")) * 1e6);
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
            &format!("{number}: CPU seconds per million requests"),
            "",
            Goal::None,
            cost,
            format!("{} requests per second in total", format_number(rate)),
        );
    }
    table.add(
        "an idle issuer: CPU in thousandths of a core",
        "",
        Goal::None,
        Samples::from_iter([1000.0 * idle / IDLE.as_secs_f64()]),
        format!("peak memory {memory} MiB"),
    );
    more.iter().try_for_each(|node| node.process.stop())
}
