//! The program `loadgen`.

#![warn(clippy::print_stdout, clippy::print_stderr)]

mod check;
mod control;
mod measure;
mod measure_uses;
mod redeem;
mod run;
mod textbook;
mod topic;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use couponry_output::{CLOSED, Stderr, StdoutError};
use tokio::runtime::Builder;

/// Load generator and consistency checker.
#[derive(Parser)]
#[command(version, max_term_width = 120)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Send issue requests of many users, retry those without a response, and write every attempt to a history.
    Run(Box<run::Args>),
    /// Use issued coupons as shops do, retry requests of unknown outcome, and write every attempt to a history.
    Redeem(Box<redeem::Args>),
    /// Compare histories with the data in Redis, Kafka and Postgres. Exits with 1 if a property is violated.
    Check(Box<check::Args>),
    /// Change the topic, as an administrator does.
    Topic(topic::Args),
    /// Measure throughput and latency of issuers at low client cost, and print them as JSON.
    Measure(Box<measure::Args>),
    /// Measure how many coupons a redeemer, its adapter, or plain inserts can redeem per second, and print it as JSON.
    MeasureUses(Box<measure_uses::Args>),
    /// Serve a baseline for measurements: an endpoint which parses issue requests and returns a constant.
    Control(control::Args),
    /// Issue and record coupons in the usual way, as a baseline for measurements: one call, one record and one row for
    /// each coupon.
    Textbook(textbook::Args),
}

fn main() -> ExitCode {
    run(Cli::parse().command).unwrap_or_else(|error| {
        if matches!(error.downcast_ref(), Some(StdoutError::Closed)) {
            return ExitCode::from(CLOSED);
        }
        writeln!(Stderr, "loadgen: {error:#}");
        ExitCode::from(2)
    })
}

fn run(command: Command) -> Result<ExitCode> {
    let mut runtime = match command {
        Command::Control(_) | Command::Textbook(_) => Builder::new_multi_thread(),
        // One thread, so that the other cores are free for the programs under test.
        Command::Run(_)
        | Command::Redeem(_)
        | Command::Check(_)
        | Command::Topic(_)
        | Command::Measure(_)
        | Command::MeasureUses(_) => Builder::new_current_thread(),
    };
    let runtime = runtime.enable_all().build().context("cannot start the runtime")?;
    match command {
        Command::Run(args) => runtime.block_on(run::run(*args)),
        Command::Redeem(args) => runtime.block_on(redeem::redeem(*args)),
        Command::Check(args) => runtime.block_on(check::check(*args)),
        Command::Topic(args) => runtime.block_on(topic::change(args)),
        Command::Measure(args) => runtime.block_on(measure::measure(*args)),
        Command::MeasureUses(args) => runtime.block_on(measure_uses::measure(*args)),
        Command::Control(args) => runtime.block_on(control::serve(args)),
        Command::Textbook(args) => runtime.block_on(textbook::run(args)),
    }
}
