//! `cargo xtask bench`.
//!
//! Machines are noisy, so every result is a ratio to a control, which is measured alternately in the same run. Each
//! comparison is repeated; the table shows the median and the range.
//!
//! [`installation`] is measured under a [`load`]. [`cost`], [`issuing`], [`textbook`], [`opening`], [`latency`],
//! [`overload`], [`browsers`], [`issuers`], [`preload`], [`recording`], [`redemptions`] and [`many_events`] each add
//! rows to the [`table`]. [`report`] writes `docs/benchmarks.md`, with the curves of [`plot`]. [`flame_graph`] shows
//! where the CPU time goes.

mod browsers;
mod cost;
mod flame_graph;
mod installation;
mod issuers;
mod issuing;
mod latency;
mod load;
mod many_events;
mod opening;
mod options;
mod overload;
mod plot;
mod preload;
mod recording;
mod redemptions;
mod report;
mod statistics;
mod table;
mod textbook;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::ValueEnum;
use couponry_testbed::progress::format_duration;

use crate::{cargo, signals};
use installation::Installation;
use options::Part;
use table::Table;

pub(crate) use options::Options;

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let profiler = options.flame_graph.as_ref().map(|_| flame_graph::profiler()).transpose()?;
    couponry_testbed::programs::install()?;
    eprintln!("building the programs");
    let packages =
        ["couponry-operator", "couponry-issuer", "couponry-consumer", "couponry-redeemer", "couponry-loadgen"]
            .into_iter()
            .flat_map(|name| ["--package", name]);
    cargo::run(["build", "--release", "--bins"].into_iter().chain(packages))?;
    let start = Instant::now();
    let installation = Installation::start()?;
    let mut table = Table::default();
    for part in Part::value_variants() {
        if !options.includes(*part) {
            continue;
        }
        signals::block_if_interrupted();
        match part {
            Part::Cost => cost::measure(&installation, options, &mut table)?,
            Part::Issuing => issuing::measure(&installation, options, &mut table)?,
            Part::Textbook => textbook::measure(&installation, options, &mut table)?,
            Part::Opening => opening::measure(&installation, options, &mut table)?,
            Part::Latency => latency::measure(&installation, options, &mut table)?,
            Part::Overload => overload::measure(&installation, options, &mut table)?,
            Part::Browsers => browsers::measure(&installation, options, &mut table)?,
            Part::Issuers => issuers::measure(&installation, options, &mut table)?,
            Part::Preload => preload::measure(&installation, options, &mut table)?,
            Part::Recording => recording::measure(&installation, options, &mut table)?,
            Part::Redemptions => redemptions::measure(&installation, options, &mut table)?,
            Part::ManyEvents => many_events::measure(&installation, options, &mut table)?,
        }
    }
    println!("\n{table}\nmeasured in {}", format_duration(start.elapsed()));
    if options.parts.is_empty() {
        report::write(&table, options)?;
    }
    if let (Some(file), Some(profiler)) = (&options.flame_graph, profiler) {
        flame_graph::write(&installation, options, &profiler, file)?;
    }
    Ok(ExitCode::SUCCESS)
}
