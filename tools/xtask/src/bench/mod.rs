//! `cargo xtask bench`.
//!
//! Machines are noisy, so every figure is a ratio to a control that runs in the same run, in turn with what it is compared with,
//! several times; what counts is the median, and the spread is shown.
//!
//! [`installation`] is what is measured, [`load`] who asks it. Each of the others measures some rows of
//! the [`table`]: [`issuing`], [`latency`], [`overload`], [`issuers`], [`preload`] and [`recording`]. [`report`] writes
//! `docs/benchmarks.md`, with what [`plot`] draws.

mod figures;
mod installation;
mod issuers;
mod issuing;
mod latency;
mod load;
mod overload;
mod plot;
mod preload;
mod recording;
mod report;
mod table;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::{Args, ValueEnum};
use couponry_testbed::progress::human;

use crate::{cargo, signals};
use installation::Installation;
use table::Table;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How often each comparison is repeated.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    /// How many coupons a sale has.
    #[arg(long, default_value_t = 40_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1000..=1_000_000))]
    coupons: u64,

    /// How many connections ask, where nothing else is said.
    #[arg(long, default_value_t = 256, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    connections: u32,

    /// Only these parts; may be given several times. `docs/benchmarks.md` is left as it is then.
    #[arg(long = "only", value_name = "PART")]
    parts: Vec<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Issuing,
    Latency,
    Overload,
    Issuers,
    Preload,
    Recording,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    couponry_testbed::programs::install()?;
    eprintln!("building the programs");
    let packages = ["couponry-operator", "couponry-issuer", "couponry-consumer", "couponry-bench"]
        .into_iter()
        .flat_map(|name| ["--package", name]);
    cargo::run(["build", "--release", "--bins"].into_iter().chain(packages))?;
    let begun = Instant::now();
    let installation = Installation::start()?;
    let mut table = Table::default();
    for part in Part::value_variants() {
        if !options.parts.is_empty() && !options.parts.contains(part) {
            continue;
        }
        signals::yield_to_shutdown();
        match part {
            Part::Issuing => issuing::measure(&installation, options, &mut table)?,
            Part::Latency => latency::measure(&installation, options, &mut table)?,
            Part::Overload => overload::measure(&installation, options, &mut table)?,
            Part::Issuers => issuers::measure(&installation, options, &mut table)?,
            Part::Preload => preload::measure(&installation, options, &mut table)?,
            Part::Recording => recording::measure(&installation, options, &mut table)?,
        }
    }
    println!("\n{table}\nmeasured in {}", human(begun.elapsed()));
    if options.parts.is_empty() {
        report::write(&table, options)?;
    }
    Ok(ExitCode::SUCCESS)
}
