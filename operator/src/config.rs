//! The program's flags.

use std::{ffi::OsString, time::Duration};

use clap::{Args, CommandFactory as _, Parser, Subcommand, error::ErrorKind};
use couponry_kafka::TopicSettings;
use couponry_runtime::{monitor::MonitorArgs, telemetry::Telemetry};
use couponry_settings::{KafkaSettings, PostgresSettings, RedisSettings};

use crate::{
    admin::AdminArgs,
    inspect::{check::Check, couponry_audit::Audit, export::Export},
    leader::LeaderArgs,
    scaling::ScalingArgs,
    verify::Verify,
};

const WHERE_THE_FLAGS_ARE: &str = "\
What `run` needs is in `couponry-operator run --help`. Its cluster is that of the kubeconfig that KUBECONFIG names \
(without it: ~/.kube/config), and in a pod the one that the pod is in.";

/// Turns the coupon events of a namespace into coupons in Postgres and Redis, and reports on them.
#[derive(Debug, Parser)]
#[command(name = "couponry-operator", version, after_help = WHERE_THE_FLAGS_ARE, max_term_width = 120)]
pub(crate) struct Config {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Follows the coupon events until it is told to end. This is what happens without a command, too.
    Run(Box<Run>),
    /// Brings the tables in Postgres up to date and ends.
    Migrate(Migrate),
    /// Compares what Redis, Kafka and Postgres hold of an event. Exit code 0: they tell one story; 1: they differ; 2: it could
    /// not be found out.
    Audit(Box<Audit>),
    /// Writes the coupons or the issuances of an event to standard output, as CSV.
    Export(Box<Export>),
    /// Looks whether the installation is healthy. Exit code 0: it is, warnings or not; 1: something fails; 2: it could not be
    /// found out.
    Check(Box<Check>),
    /// Makes an event with one coupon, asks the issuer for it, waits until it is recorded, and deletes the event: `helm test`.
    Verify(Box<Verify>),
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The namespace whose coupon events are followed. Without it: that of the service account or of the kubeconfig.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
    /// How long the deletion of an event waits for issued coupons that are not recorded in Postgres yet.
    #[arg(long, env, default_value_t = 60, value_name = "SECONDS")]
    pub(crate) drain_timeout_seconds: u64,
    /// How long to wait, after Redis has restarted or changed, for what the issuers still have in their hands. Nobody gets a coupon
    /// in that time. Not shorter than the issuers' --answer-timeout-seconds.
    #[arg(long, env, default_value_t = 5, value_name = "SECONDS")]
    pub(crate) redis_recovery_grace_seconds: u64,
    /// The consumer group that brings the records into Postgres.
    #[arg(long, env, default_value = "couponry-consumer", value_name = "GROUP")]
    pub(crate) kafka_group: String,
    #[command(flatten)]
    pub(crate) redis: RedisSettings,
    #[command(flatten)]
    pub(crate) postgres: PostgresSettings,
    #[command(flatten)]
    pub(crate) kafka: KafkaSettings,
    #[command(flatten)]
    pub(crate) topics: TopicArgs,
    #[command(flatten)]
    pub(crate) leader: LeaderArgs,
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
    #[command(flatten)]
    pub(crate) scaling: ScalingArgs,
    #[command(flatten)]
    pub(crate) monitor: MonitorArgs,
    #[command(flatten)]
    pub(crate) telemetry: Telemetry,
}

#[derive(Debug, Args)]
pub(crate) struct Migrate {
    #[command(flatten)]
    pub(crate) postgres: PostgresSettings,
    #[command(flatten)]
    pub(crate) telemetry: Telemetry,
}

/// How missing topics are made. Topics that exist are never changed.
#[derive(Debug, Args)]
#[command(next_help_heading = "Kafka topics that are missing")]
#[expect(clippy::struct_field_names, reason = "the fields name the flags")]
pub(crate) struct TopicArgs {
    /// How many partitions: as many consumers can share the work.
    #[arg(long, env, default_value_t = 12, value_name = "COUNT", value_parser = clap::value_parser!(i32).range(1..))]
    kafka_partitions: i32,
    /// On how many brokers each record is: 3 where there are as many.
    #[arg(long, env, default_value_t = 1, value_name = "COUNT", value_parser = clap::value_parser!(i32).range(1..))]
    kafka_replication: i32,
    /// How many brokers must have a record before it counts as written: 2 where there are 3.
    #[arg(long, env, default_value_t = 1, value_name = "COUNT", value_parser = clap::value_parser!(i32).range(1..))]
    kafka_min_insync_replicas: i32,
    /// How long records are kept. Dead letters are kept for ever.
    #[arg(long, env, default_value_t = 168, value_name = "HOURS", value_parser = clap::value_parser!(u32).range(1..))]
    kafka_retention_hours: u32,
}

impl Run {
    pub(crate) fn topics(&self) -> TopicSettings {
        self.topics.settings()
    }
}

impl TopicArgs {
    pub(crate) fn settings(&self) -> TopicSettings {
        TopicSettings {
            partitions: self.kafka_partitions,
            replication: self.kafka_replication,
            min_insync_replicas: self.kafka_min_insync_replicas,
            retention: Some(Duration::from_secs(u64::from(self.kafka_retention_hours) * 3600)),
        }
    }

    fn check(&self) -> Result<(), clap::Error> {
        let (wanted, all) = (self.kafka_min_insync_replicas, self.kafka_replication);
        if wanted > all {
            let message = format!(
                "--kafka-min-insync-replicas {wanted} is more than --kafka-replication {all}: nothing could ever be written"
            );
            return Err(Config::command().error(ErrorKind::ValueValidation, message));
        }
        Ok(())
    }
}

/// Reads the program's arguments, the first of which is its own name.
pub(crate) fn read(args: impl IntoIterator<Item = OsString>) -> Result<Config, clap::Error> {
    let config = Config::try_parse_from(with_command(args))?;
    match &config.command {
        Command::Run(run) => {
            run.topics.check()?;
            // Its clients are made late, by what is repeated until it works.
            let fits = run.kafka.check();
            fits.map_err(|error| Config::command().error(ErrorKind::ValueValidation, error))?;
            run.scaling.check()?;
        }
        Command::Check(check) => check.topics.check()?,
        _ => {}
    }
    Ok(config)
}

/// The arguments with the command that is meant when none is named.
fn with_command(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut args: Vec<OsString> = args.into_iter().collect();
    let first = args.get(1).and_then(|first| first.to_str());
    let is_named =
        first.is_some_and(|first| !first.starts_with('-') || matches!(first, "-h" | "--help" | "-V" | "--version"));
    if !is_named {
        args.insert(args.len().min(1), "run".into());
    }
    args
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(args: &[&str]) -> Vec<OsString> {
        with_command(std::iter::once("couponry-operator").chain(args.iter().copied()).map(OsString::from))
    }

    #[test]
    fn without_a_command_it_runs() {
        assert_eq!(command(&[])[1..], ["run"]);
        assert_eq!(command(&["--namespace", "x"])[1..], ["run", "--namespace", "x"]);
        assert_eq!(command(&["migrate"])[1..], ["migrate"]);
        assert_eq!(command(&["audit", "summer"])[1..], ["audit", "summer"]);
        assert_eq!(command(&["--help"])[1..], ["--help"]);
    }

    #[test]
    fn topics_that_nobody_could_write_to_are_refused() {
        let read = |replication: &str, in_sync: &str, hours: &str| {
            let servers = ["--redis-url", "redis://r", "--postgres-url", "postgres://p/d", "--kafka-brokers", "k:9092"];
            let topics = ["--kafka-replication", replication, "--kafka-min-insync-replicas", in_sync];
            let args = [&["couponry-operator"], &servers[..], &topics, &["--kafka-retention-hours", hours]].concat();
            read(args.into_iter().map(OsString::from)).map(drop).map_err(|error| error.to_string())
        };
        assert_eq!(read("3", "2", "1"), Ok(()));
        assert_eq!(read("3", "3", "1"), Ok(()));
        let refused = read("1", "2", "1").unwrap_err();
        assert!(refused.contains("--kafka-min-insync-replicas 2 is more than --kafka-replication 1"), "{refused}");
        assert!(read("1", "1", "0").unwrap_err().contains("--kafka-retention-hours"));
    }

    #[test]
    fn the_flags_fit_together() {
        Config::command().debug_assert();
    }
}
