//! `kubectl couponry`: shows, changes and inspects coupon events.
//!
//! [`status`] shows events, using [`view`], [`events_table`] and [`json`], and [`watch`] their changes; [`change`]
//! changes them; [`dashboard`] does both in a browser; [`exec`] runs commands of the operator in its pod. [`cluster`]
//! connects to Kubernetes and translates its errors. [`completion`] completes command lines in a shell.
//!
//! [`plan`] shows what a manifest would do, [`report`] the course of an event. The latter and the dashboard read
//! [`pod_metrics`] of [`pods`].

#![warn(clippy::print_stdout, clippy::print_stderr)]

mod change;
mod cluster;
mod completion;
mod dashboard;
mod error_chain;
mod events_table;
mod exec;
mod json;
mod output_format;
mod plan;
mod pod_metrics;
mod pods;
mod report;
mod status;
mod table;
mod view;
mod watch;
mod watched_events;

use std::{path::PathBuf, process::ExitCode};

use clap::{ArgGroup, Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use couponry_output::{CLOSED, Stderr, StdoutError};

use crate::{
    change::{Close, Hold, Pause, ReleaseHold, Resume, Topup},
    cluster::{ClusterArgs, event_name},
    dashboard::DashboardArgs,
    error_chain::chain,
    output_format::OutputFormat,
    plan::Plan,
    report::Report,
    status::Status,
};

const EXIT_CODES: &str = "\
Exit codes: 0 success; 1 the command failed, `check`, `audit`, `repair` or `replay-dead-letters` found something to do, \
`import` refused the file, or `void` was refused; 2 invalid usage, or a command in the operator's pod could not run, \
or the result of `audit` or `repair` is UNCERTAIN, or that of `audit` is DELAYED; 141 the reader of the output has ended.";

/// Exit code of the commands in the operator's pod if they could not run, as of an audit or a repair whose result is
/// uncertain.
const FAILED_OR_INCONCLUSIVE: u8 = 2;

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
    /// Serves a page about all events of the namespace on 127.0.0.1, with your permissions, until Ctrl-C.
    Dashboard(DashboardArgs),
    /// Shows what a manifest would do, before it is applied: coupons, memory, time, overlapping events and warnings.
    Plan(Plan),
    /// Suspends issuing until the event is resumed.
    Pause(Pause),
    /// Resumes a paused event.
    Resume(Resume),
    /// Suspends issuing with an annotation, which a GitOps tool does not revert, until the hold is released.
    Hold(Hold),
    /// Releases the hold of an event. Its manifest then decides whether it issues coupons.
    ReleaseHold(ReleaseHold),
    /// Ends an event permanently. A closed event cannot be reopened.
    Close(Close),
    /// Adds coupons to an event, also while it is open.
    Topup(Topup),
    /// Checks the installation: servers, settings, CRD, consumer lag, pods and events. Runs in the operator's pod.
    Check {
        /// Output format.
        #[arg(long, short, value_enum, default_value = "text", value_name = "FORMAT")]
        output: OutputFormat,
    },
    /// Compares the coupons and issuances of an event in Redis, Kafka and Postgres. Runs in the operator's pod.
    Audit {
        /// Name of the event.
        #[arg(value_parser = event_name)]
        name: String,
        /// Output format.
        #[arg(long, short, value_enum, default_value = "text", value_name = "FORMAT")]
        output: OutputFormat,
        /// How long to wait for records in flight from Redis to Postgres.
        #[arg(long, default_value_t = 30, value_name = "SECONDS")]
        wait_seconds: u64,
        #[command(flatten)]
        event: DeletedEvent,
    },
    /// Records again what Postgres has lost of an event, and restores what Redis has lost. Runs in the operator's pod.
    Repair {
        /// Name of the event.
        #[arg(value_parser = event_name)]
        name: String,
        /// Carry out the repair. Default: only print what has to be repaired.
        #[arg(long)]
        yes: bool,
        /// Restore Redis from Postgres in any case. This also resolves conflicts: Postgres decides to which user a
        /// coupon belongs.
        #[arg(long)]
        restore_redis: bool,
        #[command(flatten)]
        event: DeletedEvent,
    },
    /// Shows the course of an event: when it sold out, coupons per second, recording, redemptions. Runs in the
    /// operator's pod.
    Report(Report),
    /// Voids the coupon of a user: it can no longer be redeemed, and the user receives no other one. Runs in the
    /// operator's pod.
    #[command(group = ArgGroup::new("coupon").required(true))]
    Void {
        /// Name of the event.
        #[arg(value_parser = event_name)]
        name: String,
        /// The user whose coupon is voided.
        #[arg(long, value_name = "USER", group = "coupon")]
        user: Option<String>,
        /// The coupon that is voided.
        #[arg(long, value_name = "CODE", group = "coupon")]
        code: Option<String>,
        /// Why the coupon is voided. It is stored with the coupon and your user name in Kubernetes, so it should not
        /// name a person.
        #[arg(long, value_name = "TEXT")]
        reason: String,
        #[command(flatten)]
        event: DeletedEvent,
    },
    /// Replaces a user by pseudonyms in Postgres, Redis and future exports. The coupons of the user stay issued. Runs
    /// in the operator's pod.
    EraseUser {
        /// The user to erase.
        #[arg(value_name = "USER")]
        user: String,
        /// Only list the events in which the user has a coupon.
        #[arg(long)]
        dry_run: bool,
    },
    /// Sends dead letters that are not recorded to the topic again. Runs in the operator's pod.
    ReplayDeadLetters {
        /// Only dead letters of the event with this name.
        #[arg(long, value_name = "NAME", value_parser = event_name)]
        event: Option<String>,
        /// Only dead letters with this reason.
        #[arg(long, value_name = "REASON")]
        reason: Option<String>,
        /// Send them. Default: only print their number by event and reason.
        #[arg(long)]
        yes: bool,
    },
    /// Deletes the rows of events that were deleted long ago. Runs in the operator's pod.
    Purge {
        /// Time since the deletion of the event, such as `90d` or `12h`.
        #[arg(long, value_name = "AGE")]
        older_than: String,
        /// Delete the rows. Default: only list the events.
        #[arg(long)]
        yes: bool,
    },
    /// Imports the codes of an event with `code.source: Imported`. Runs in the operator's pod.
    Import {
        /// Name of the event.
        #[arg(value_parser = event_name)]
        name: String,
        /// CSV file with the columns `code,discount`, or only `code` if the event has one discount; it may be
        /// compressed with gzip. `-` is standard input.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Writes the coupons, the issuances or the redemptions of an event as CSV. Runs in the operator's pod.
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
enum Rows {
    /// All coupons with their holders, in the order in which they are issued.
    Coupons,
    /// All recorded issuances, unordered.
    Issuances,
    /// All reservations, redemptions, releases and voids, each coupon's in their order.
    Redemptions,
}

#[tokio::main]
async fn main() -> ExitCode {
    let mut words = std::env::args_os();
    if completion::is_requested(words.next().as_deref()) {
        let words: Vec<String> = words.map(|word| word.to_string_lossy().into_owned()).collect();
        let printed = completion::run(&Cli::command(), &words).await;
        return printed.map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
    }
    let cli = Cli::parse();
    let runs_in_pod = cli.command.runs_in_pod();
    run(cli).await.unwrap_or_else(|error| {
        if matches!(error.downcast_ref(), Some(StdoutError::Closed)) {
            return ExitCode::from(CLOSED);
        }
        let error = match error.downcast::<clap::Error>() {
            Ok(usage) => usage.exit(),
            Err(error) => error,
        };
        writeln!(Stderr, "{} {}", console::style("Error:").red().bold().for_stderr(), chain(&error));
        if runs_in_pod { ExitCode::from(FAILED_OR_INCONCLUSIVE) } else { ExitCode::FAILURE }
    })
}

async fn run(Cli { cluster, command }: Cli) -> anyhow::Result<ExitCode> {
    let command = match command {
        // Works without a cluster.
        Command::Plan(plan) => return plan.run(cluster).await,
        command => command,
    };
    let cluster = cluster.connect().await?;
    match command {
        Command::Plan(_) => unreachable!("handled above"),
        Command::Status(status) => status.run(&cluster).await,
        Command::Dashboard(dashboard) => dashboard.run(cluster).await,
        Command::Pause(pause) => pause.run(&cluster).await,
        Command::Resume(resume) => resume.run(&cluster).await,
        Command::Hold(hold) => hold.run(&cluster).await,
        Command::ReleaseHold(release) => release.run(&cluster).await,
        Command::Close(close) => close.run(&cluster).await,
        Command::Topup(topup) => topup.run(&cluster).await,
        Command::Check { output } => exec::run(&cluster, &["check", "--output", output.name()], None).await,
        Command::Audit { name, output, wait_seconds, event } => {
            let wait = wait_seconds.to_string();
            let mut args = vec!["audit", &name, "--output", output.name(), "--wait-seconds", &wait];
            args.extend(event.args());
            exec::run(&cluster, &args, None).await
        }
        Command::Repair { name, yes, restore_redis, event } => {
            let mut args = vec!["repair", &name];
            args.extend(event.args());
            args.extend(restore_redis.then_some("--restore-redis"));
            args.extend(yes.then_some("--yes"));
            exec::run(&cluster, &args, None).await
        }
        Command::Void { name, user, code, reason, event } => {
            let options = [
                user.map(|user| format!("--user={user}")),
                code.map(|code| format!("--code={code}")),
                Some(format!("--reason={reason}")),
                Some(format!("--actor={}", cluster.own_user().await?)),
            ];
            let mut args = vec!["void", &name];
            args.extend(event.args());
            args.extend(options.iter().flatten().map(String::as_str));
            exec::run(&cluster, &args, None).await
        }
        Command::Report(report) => report.run(&cluster).await,
        Command::EraseUser { user, dry_run } => {
            let mut args = vec!["erase-user"];
            args.extend(dry_run.then_some("--dry-run"));
            args.extend(["--", &user]);
            exec::run(&cluster, &args, None).await
        }
        Command::ReplayDeadLetters { event, reason, yes } => {
            let mut args = vec!["replay-dead-letters"];
            args.extend(event.iter().flat_map(|event| ["--event", event]));
            args.extend(reason.iter().flat_map(|reason| ["--reason", reason]));
            args.extend(yes.then_some("--yes"));
            exec::run(&cluster, &args, None).await
        }
        Command::Purge { older_than, yes } => {
            let mut args = vec!["purge", "--older-than", &older_than];
            args.extend(yes.then_some("--yes"));
            exec::run(&cluster, &args, None).await
        }
        Command::Import { name, file } => exec::run_with_input(&cluster, &["import", &name], &file).await,
        Command::Export { name, rows, output, for_spreadsheets, event } => {
            let rows = match rows {
                Rows::Coupons => "coupons",
                Rows::Issuances => "issuances",
                Rows::Redemptions => "redemptions",
            };
            let mut args = vec!["export", &name, rows];
            args.extend(event.args());
            args.extend(for_spreadsheets.then_some("--for-spreadsheets"));
            exec::run(&cluster, &args, output.as_deref()).await
        }
    }
}

impl Command {
    /// Whether the operator's program executes the command.
    const fn runs_in_pod(&self) -> bool {
        match self {
            Self::Status(_)
            | Self::Dashboard(_)
            | Self::Plan(_)
            | Self::Pause(_)
            | Self::Resume(_)
            | Self::Hold(_)
            | Self::ReleaseHold(_)
            | Self::Close(_)
            | Self::Topup(_) => false,
            Self::Check { .. }
            | Self::Audit { .. }
            | Self::Repair { .. }
            | Self::Void { .. }
            | Self::Report(_)
            | Self::EraseUser { .. }
            | Self::ReplayDeadLetters { .. }
            | Self::Purge { .. }
            | Self::Import { .. }
            | Self::Export { .. } => true,
        }
    }
}

impl DeletedEvent {
    fn args(&self) -> impl Iterator<Item = &str> {
        self.uid.iter().flat_map(|uid| ["--uid", uid])
    }
}

#[cfg(test)]
mod tests {
    use clap::Arg;

    use super::*;

    #[test]
    fn command_line_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    /// Clap would use the value of a command's argument for the global one, such as a user of an event for the user of
    /// the kubeconfig.
    #[test]
    fn argument_of_command_never_has_the_id_of_a_global_one() {
        let cli = Cli::command();
        let global: Vec<_> = cli.get_arguments().map(Arg::get_id).collect();
        for command in cli.get_subcommands() {
            for arg in command.get_arguments() {
                assert!(!global.contains(&arg.get_id()), "{} {}", command.get_name(), arg.get_id());
            }
        }
        let user = |words: &[&str]| {
            let matches = Cli::command().try_get_matches_from([&["kubectl-couponry"], words].concat()).unwrap();
            matches.get_one::<String>("kubeconfig_user").cloned()
        };
        let void = ["void", "summer", "--user", "anna", "--reason", "resold"];
        assert_eq!(user(&void), None);
        assert_eq!(user(&["erase-user", "anna"]), None);
        assert_eq!(user(&[&["--user", "admin"], &void[..]].concat()), Some("admin".to_owned()));
    }
}
