//! `kubectl couponry`: watches, changes and inspects coupon events.
//!
//! [`status`] shows events with what [`view`] and [`table`] make of them, [`change`] changes them, [`inside`] runs the
//! operator's own commands in its pod. [`cluster`] is the way to Kubernetes, and says what its refusals mean.

mod change;
mod cluster;
mod inside;
mod status;
mod table;
mod view;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand, ValueEnum};
use cluster::ClusterArgs;

const EXIT_CODES: &str = "\
Exit codes: 0 done, or healthy; 1 not done, or `audit` and `check` found something; 2 wrong usage, or it could not be found out.";

/// The exit code that says: it could not be found out.
const COULD_NOT_LOOK: u8 = 2;

/// Watches, changes and inspects coupon events.
#[derive(Debug, Parser)]
#[command(name = "kubectl-couponry", bin_name = "kubectl couponry", version, after_help = EXIT_CODES, max_term_width = 120)]
struct Cli {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows how far an event is: coupons, window, conditions. Without a name: a table of all events.
    Status(status::Status),
    /// Holds an event: nobody gets a coupon until it is resumed.
    Pause(change::Pause),
    /// Lets a paused event go on.
    Resume(change::Resume),
    /// Ends an event for good: nobody gets a coupon any more, and it cannot be opened again.
    Close(change::Close),
    /// Adds coupons to an event, also while it is open.
    Topup(change::Topup),
    /// Looks whether the installation is healthy: servers, settings, definition, lag, events. Runs in the operator's pod.
    Check {
        /// How to say it.
        #[arg(long, short, value_enum, default_value = "text", value_name = "FORM")]
        output: Output,
    },
    /// Compares what Redis, Kafka and Postgres hold of an event. Runs in the operator's pod.
    Audit {
        /// The event.
        #[arg(value_parser = cluster::event_name)]
        name: String,
        /// How to say it.
        #[arg(long, short, value_enum, default_value = "text", value_name = "FORM")]
        output: Output,
        /// How long to wait for what is on its way from Redis to Postgres.
        #[arg(long, default_value_t = 30, value_name = "SECONDS")]
        wait: u64,
        #[command(flatten)]
        event: DeletedEvent,
    },
    /// Writes the coupons or the issuances of an event as CSV. Runs in the operator's pod.
    Export {
        /// The event.
        #[arg(value_parser = cluster::event_name)]
        name: String,
        /// Which rows.
        #[arg(value_enum)]
        rows: Rows,
        /// Write to this file, which appears when all is in it. Without it: to standard output.
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Put an apostrophe before every userId that a spreadsheet would take for a formula.
        #[arg(long)]
        for_spreadsheets: bool,
        #[command(flatten)]
        event: DeletedEvent,
    },
}

#[derive(Debug, Args)]
struct DeletedEvent {
    /// The uid of an event whose resource is gone.
    #[arg(long, value_name = "UID")]
    uid: Option<String>,
}

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// One JSON value.
    Json,
}

/// What can be exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Rows {
    /// Every coupon, in the order in which they are given, with who has it.
    Coupons,
    /// Every recorded issuance, in no order.
    Issuances,
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    // Of these, 1 would say that something was found.
    let is_question = matches!(cli.command, Command::Check { .. } | Command::Audit { .. } | Command::Export { .. });
    run(cli).await.unwrap_or_else(|error| {
        let error = match error.downcast::<clap::Error>() {
            Ok(usage) => usage.exit(),
            Err(error) => error,
        };
        eprintln!("{} {error:#}", console::style("Error:").red().bold().for_stderr());
        if is_question { ExitCode::from(COULD_NOT_LOOK) } else { ExitCode::FAILURE }
    })
}

async fn run(Cli { cluster, command }: Cli) -> anyhow::Result<ExitCode> {
    let cluster = cluster.connect().await?;
    match command {
        Command::Status(status) => status.run(&cluster).await,
        Command::Pause(pause) => pause.run(&cluster).await,
        Command::Resume(resume) => resume.run(&cluster).await,
        Command::Close(close) => close.run(&cluster).await,
        Command::Topup(topup) => topup.run(&cluster).await,
        Command::Check { output } => inside::run(&cluster, &["check", "--output", output.name()], None).await,
        Command::Audit { name, output, wait, event } => {
            let wait = wait.to_string();
            let mut args = vec!["audit", &name, "--output", output.name(), "--wait", &wait];
            args.extend(event.args());
            inside::run(&cluster, &args, None).await
        }
        Command::Export { name, rows, output, for_spreadsheets, event } => {
            let rows = match rows {
                Rows::Coupons => "coupons",
                Rows::Issuances => "issuances",
            };
            let mut args = vec!["export", &name, rows];
            args.extend(event.args());
            args.extend(for_spreadsheets.then_some("--for-spreadsheets"));
            inside::run(&cluster, &args, output.as_deref()).await
        }
    }
}

impl DeletedEvent {
    fn args(&self) -> impl Iterator<Item = &str> {
        self.uid.iter().flat_map(|uid| ["--uid", uid])
    }
}

impl Output {
    const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_flags_fit_together() {
        Cli::command().debug_assert();
    }
}
