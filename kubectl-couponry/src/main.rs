//! `kubectl couponry`: shows, changes and inspects coupon events.
//!
//! [`status`] shows events, using [`view`] and [`table`]; [`change`] changes them; [`exec`] runs commands of the
//! operator in its pod. [`cluster`] connects to Kubernetes and translates its errors.

mod change;
mod cluster;
mod exec;
mod status;
mod table;
mod view;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{
    change::{Close, Pause, Resume, Topup},
    cluster::{ClusterArgs, event_name},
    status::Status,
};

const EXIT_CODES: &str = "\
Exit codes: 0 success; 1 the command failed, or `check` or `audit` found a problem; 2 invalid usage, or `check`, \
`audit` or `export` could not run.";

/// Exit code of `check`, `audit` and `export` if they could not run.
const INCONCLUSIVE: u8 = 2;

/// Shows, changes and inspects coupon events.
#[derive(Debug, Parser)]
#[command(name = "kubectl-couponry", bin_name = "kubectl couponry", version)]
#[command(after_help = EXIT_CODES, max_term_width = 120)]
struct Cli {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows coupon counts, window and conditions of an event. Without a name: a table of all events.
    Status(Status),
    /// Suspends issuing until the event is resumed.
    Pause(Pause),
    /// Resumes a paused event.
    Resume(Resume),
    /// Ends an event permanently. A closed event cannot be reopened.
    Close(Close),
    /// Adds coupons to an event, also while it is open.
    Topup(Topup),
    /// Checks the installation: servers, settings, CRD, consumer lag, pods and events. Runs in the operator's pod.
    Check {
        /// Output format.
        #[arg(long, short, value_enum, default_value = "text", value_name = "FORMAT")]
        output: Output,
    },
    /// Compares the coupons and issuances of an event in Redis, Kafka and Postgres. Runs in the operator's pod.
    Audit {
        /// Name of the event.
        #[arg(value_parser = event_name)]
        name: String,
        /// Output format.
        #[arg(long, short, value_enum, default_value = "text", value_name = "FORMAT")]
        output: Output,
        /// How long to wait for records in flight from Redis to Postgres.
        #[arg(long, default_value_t = 30, value_name = "SECONDS")]
        wait: u64,
        #[command(flatten)]
        event: DeletedEvent,
    },
    /// Writes the coupons or the issuances of an event as CSV. Runs in the operator's pod.
    Export {
        /// Name of the event.
        #[arg(value_parser = event_name)]
        name: String,
        /// Rows to export.
        #[arg(value_enum)]
        rows: Rows,
        /// Output file; it is created only after the export has completed. Default: standard output.
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Prefix a userId with an apostrophe if a spreadsheet would interpret it as a formula.
        #[arg(long)]
        for_spreadsheets: bool,
        #[command(flatten)]
        event: DeletedEvent,
    },
}

#[derive(Debug, Args)]
struct DeletedEvent {
    /// UID of an event whose resource is deleted.
    #[arg(long, value_name = "UID")]
    uid: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// Human-readable text.
    Text,
    /// One JSON value.
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Rows {
    /// All coupons with their holders, in the order in which they are issued.
    Coupons,
    /// All recorded issuances, unordered.
    Issuances,
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let runs_in_pod = matches!(cli.command, Command::Check { .. } | Command::Audit { .. } | Command::Export { .. });
    run(cli).await.unwrap_or_else(|error| {
        let error = match error.downcast::<clap::Error>() {
            Ok(usage) => usage.exit(),
            Err(error) => error,
        };
        eprintln!("{} {}", console::style("Error:").red().bold().for_stderr(), chain(&error));
        if runs_in_pod { ExitCode::from(INCONCLUSIVE) } else { ExitCode::FAILURE }
    })
}

/// The error and its causes in one line. Skips a cause which the previous text contains: errors of `kube` include
/// theirs.
fn chain(error: &anyhow::Error) -> String {
    error.chain().skip(1).fold(error.to_string(), |text, cause| {
        let cause = cause.to_string();
        if text.contains(&cause) { text } else { format!("{text}: {cause}") }
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
        Command::Check { output } => exec::run(&cluster, &["check", "--output", output.name()], None).await,
        Command::Audit { name, output, wait, event } => {
            let wait = wait.to_string();
            let mut args = vec!["audit", &name, "--output", output.name(), "--wait", &wait];
            args.extend(event.args());
            exec::run(&cluster, &args, None).await
        }
        Command::Export { name, rows, output, for_spreadsheets, event } => {
            let rows = match rows {
                Rows::Coupons => "coupons",
                Rows::Issuances => "issuances",
            };
            let mut args = vec!["export", &name, rows];
            args.extend(event.args());
            args.extend(for_spreadsheets.then_some("--for-spreadsheets"));
            exec::run(&cluster, &args, output.as_deref()).await
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
    fn command_line_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn error_chain_skips_repeated_causes() {
        let error = anyhow::anyhow!("no such file").context("cannot read x: no such file").context("cannot connect");
        assert_eq!(chain(&error), "cannot connect: cannot read x: no such file");
    }
}
