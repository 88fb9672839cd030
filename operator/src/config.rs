//! The command line.

use std::ffi::OsString;

use clap::{CommandFactory as _, Parser, Subcommand, error::ErrorKind};

use crate::{
    commands::{
        audit::Audit, check::Check, erase_user::EraseUser, export::Export, import::Import, install_test::InstallTest,
        purge::Purge, repair::Repair, replay_dead_letters::ReplayDeadLetters, report::Report, take_over::TakeOver,
        void::Void,
    },
    run::{Migrate, Run},
};

const AFTER_HELP: &str = "For the flags of `run` see `couponry-operator run --help`. The cluster is that of the \
                          kubeconfig (KUBECONFIG, by default ~/.kube/config); in a pod it is the cluster of the pod.";

/// Kubernetes operator for first-come coupon events: generates coupons in Postgres, loads them into Redis, and reports
/// status.
#[derive(Debug, Parser)]
#[command(name = "couponry-operator", version, after_help = AFTER_HELP, max_term_width = 120)]
pub(crate) struct Config {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the operator until it receives SIGTERM. This is the default command.
    Run(Box<Run>),
    /// Migrate the Postgres schema and exit.
    Migrate(Migrate),
    /// Compare the coupons of an event in Redis, Kafka and Postgres. Exit code 0: consistent; 1: discrepancies; 2: the
    /// comparison failed or is inconclusive.
    Audit(Box<Audit>),
    /// Write the coupons, the issuances or the uses of coupons of an event to standard output as CSV.
    Export(Box<Export>),
    /// Write the figures of an event to standard output as JSON: how fast it sold out, coupons per second, and how long
    /// recording took. It contains neither users nor codes.
    Report(Box<Report>),
    /// Import the codes of an event with `code.source: Imported` from standard input: CSV with the columns code and
    /// discount, or only code, which may be compressed with gzip. Exit code 0: imported, now or before; 1: the file was
    /// refused, and nothing was imported; 2: the command failed.
    Import(Box<Import>),
    /// Check the health of the installation. Exit code 0: healthy, possibly with warnings; 1: a check failed; 2: the
    /// check could not run.
    Check(Box<Check>),
    /// Record again what Postgres has lost of an event, and restore what Redis has lost. Without --yes, print what has
    /// to be repaired. Exit code 0: nothing is left; 1: something remains; 2: the repair failed
    /// or is inconclusive.
    Repair(Box<Repair>),
    /// Send dead letters that are not recorded to the topic again. Without --yes, print their number. Exit code 0:
    /// sent, or there are none; 1: some can be sent; 2: the command failed.
    ReplayDeadLetters(Box<ReplayDeadLetters>),
    /// Void the coupon of a user: it can no longer be redeemed, and the user receives no other one. Exit code 0: it is
    /// voided; 1: it was redeemed, or the user has no coupon; 2: the command failed.
    Void(Box<Void>),
    /// Replace a user by pseudonyms in Postgres and Redis. The coupons of the user stay issued. Exit code 0: erased; 2:
    /// the command failed, and can be repeated.
    EraseUser(Box<EraseUser>),
    /// Delete the rows of events whose `CouponEvent` was deleted (deletionPolicy: Retain). Without --yes, list them.
    Purge(Box<Purge>),
    /// Make this namespace the owner of the stores after a restore of Kubernetes, and continue their events. Without
    /// --yes, print what would change. Exit code 0: nothing is left to do; 1: something remains; 2: the command failed.
    TakeOver(Box<TakeOver>),
    /// End-to-end test, used by `helm test`: create an event with one coupon, issue it, wait until it is recorded, and
    /// delete the event.
    InstallTest(Box<InstallTest>),
}

/// Parses and validates the arguments, the first of which is the program's name.
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Config, clap::Error> {
    let config = Config::try_parse_from(with_default_command(args))?;
    let validated = match &config.command {
        Command::Run(run) => run.validate(),
        Command::Check(check) => check.validate(),
        _ => Ok(()),
    };
    validated.map_err(|error| Config::command().error(ErrorKind::ValueValidation, error))?;
    Ok(config)
}

/// Inserts `run` when the arguments name no command.
fn with_default_command(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut args: Vec<OsString> = args.into_iter().collect();
    let first = args.get(1).and_then(|first| first.to_str());
    let has_command =
        first.is_some_and(|first| !first.starts_with('-') || matches!(first, "-h" | "--help" | "-V" | "--version"));
    if !has_command {
        args.insert(args.len().min(1), "run".into());
    }
    args
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKENDS: [&str; 7] = [
        "couponry-operator",
        "--redis-url",
        "redis://r",
        "--postgres-url",
        "postgres://p/d",
        "--kafka-brokers",
        "k:9092",
    ];

    fn parse_with(flags: &[&str]) -> Result<(), String> {
        let args = [&BACKENDS[..], flags].concat();
        parse(args.into_iter().map(OsString::from)).map(drop).map_err(|error| error.to_string())
    }

    #[test]
    fn arguments_without_command_default_to_run() {
        let command = |args: &[&str]| {
            with_default_command(std::iter::once("couponry-operator").chain(args.iter().copied()).map(OsString::from))
        };
        assert_eq!(command(&[])[1..], ["run"]);
        assert_eq!(command(&["--namespace", "x"])[1..], ["run", "--namespace", "x"]);
        assert_eq!(command(&["migrate"])[1..], ["migrate"]);
        assert_eq!(command(&["audit", "summer"])[1..], ["audit", "summer"]);
        assert_eq!(command(&["--help"])[1..], ["--help"]);
    }

    #[test]
    fn topic_settings_that_block_all_writes_are_rejected() {
        let parse = |replication: &str, in_sync: &str, hours: &str| {
            let topics = ["--kafka-replication", replication, "--kafka-min-insync-replicas", in_sync];
            parse_with(&[&topics[..], &["--kafka-retention-hours", hours]].concat())
        };
        assert_eq!(parse("3", "2", "1"), Ok(()));
        assert_eq!(parse("3", "3", "1"), Ok(()));
        let error = parse("1", "2", "1").unwrap_err();
        assert!(error.contains("--kafka-min-insync-replicas 2 exceeds --kafka-replication 1"), "{error}");
        assert!(parse("1", "1", "0").unwrap_err().contains("--kafka-retention-hours"));
    }

    #[test]
    fn grace_period_shorter_than_the_age_of_a_connection_is_rejected() {
        let parse = |seconds: &str| parse_with(&["--redis-recovery-grace-seconds", seconds]);
        assert_eq!(parse("4"), Ok(()));
        assert!(parse("3").unwrap_err().contains("3 is not in 4.."));
    }

    #[test]
    fn contradicting_replica_limits_are_rejected() {
        let parse = |min: &str, max: &str| parse_with(&["--issuer-min-replicas", min, "--issuer-max-replicas", max]);
        assert_eq!(parse("3", "3"), Ok(()));
        assert!(parse("4", "3").unwrap_err().contains("--issuer-min-replicas 4 exceeds --issuer-max-replicas 3"));
    }

    #[test]
    fn command_line_definition_is_consistent() {
        Config::command().debug_assert();
    }
}
