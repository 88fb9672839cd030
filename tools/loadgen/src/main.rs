//! `loadgen run` lets a crowd ask for coupons and keeps every answer; `loadgen check` proves from the answers and the
//! stores that the promises held.

mod check;
mod run;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Let a crowd of users ask for coupons, and write every answer to a history.
    Run(Box<run::Args>),
    /// Compare a history with Redis, Kafka and Postgres. The exit code is 1 when a promise was broken.
    Check(Box<check::Args>),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => run::run(*args),
        Command::Check(args) => check::check(*args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("loadgen: {error:#}");
        ExitCode::from(2)
    })
}
