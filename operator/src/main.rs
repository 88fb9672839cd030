//! The operator: generates the coupons of `CouponEvent`s in Postgres, loads them into Redis, and reports their status.
//!
//! [`run`] starts it: [`startup`] waits for the backends, [`leader`] elects one active replica, [`controller`] watches
//! the events and [`reconcile`] brings the stores to the state that a manifest specifies. [`scaling`] scales the
//! issuers ahead of an event, [`admin`] serves the HTTP API. The other commands are in [`commands`].

#![warn(clippy::print_stdout, clippy::print_stderr)]

mod admin;
mod blocker;
mod commands;
mod config;
mod context;
mod controller;
mod durable_condition;
mod installation;
mod kafka_topics;
mod kube_events;
mod kubernetes;
mod leader;
mod limiter;
mod metrics;
mod namespace_cleanup;
mod pending_deletions;
mod pending_erasures;
mod pod_status;
mod reconcile;
mod row_deletion;
mod run;
mod scaling;
mod server_requirements;
mod startup;
mod transient_state;

use std::process::ExitCode;

use config::Command;

use crate::commands::exit_code::exit_code;

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    match config::parse(std::env::args_os()).unwrap_or_else(|error| error.exit()).command {
        Command::Run(run) => Box::pin(run.run()).await?,
        Command::Migrate(migrate) => migrate.run().await?,
        Command::Audit(audit) => return Ok(exit_code(&audit.telemetry, Box::pin(audit.run())).await),
        Command::Export(export) => return Ok(exit_code(&export.telemetry, Box::pin(export.run())).await),
        Command::Report(report) => return Ok(exit_code(&report.telemetry, Box::pin(report.run())).await),
        Command::Import(import) => return Ok(exit_code(&import.telemetry, Box::pin(import.run())).await),
        Command::TakeOver(take_over) => {
            return Ok(exit_code(&take_over.installation.telemetry, Box::pin(take_over.run())).await);
        }
        Command::InstallTest(install_test) => install_test.run().await?,
        Command::Repair(repair) => return Ok(exit_code(&repair.telemetry, Box::pin(repair.run())).await),
        Command::ReplayDeadLetters(replay) => return Ok(exit_code(&replay.telemetry, Box::pin(replay.run())).await),
        Command::Void(void) => return Ok(exit_code(&void.telemetry, Box::pin(void.run())).await),
        Command::EraseUser(erase) => {
            return Ok(exit_code(&erase.installation.telemetry, Box::pin(erase.run())).await);
        }
        Command::Purge(purge) => return Ok(exit_code(&purge.installation.telemetry, Box::pin(purge.run())).await),
        Command::Check(check) => return Ok(exit_code(&check.telemetry, Box::pin(check.run())).await),
    }
    Ok(ExitCode::SUCCESS)
}
