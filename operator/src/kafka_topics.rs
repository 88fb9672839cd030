//! Flags for the Kafka topics that the operator creates.

use std::time::Duration;

use clap::Args;
use couponry_kafka::TopicSettings;

/// Settings of missing topics. Existing topics are never changed.
#[derive(Debug, Args)]
#[command(next_help_heading = "Creation of missing Kafka topics")]
#[expect(clippy::struct_field_names, reason = "the fields name the flags")]
pub(crate) struct TopicArgs {
    /// Number of partitions, which limits how many consumers share the work.
    #[arg(long, env, default_value_t = 12, value_name = "COUNT", value_parser = clap::value_parser!(i32).range(1..))]
    kafka_partitions: i32,
    /// Number of brokers that store each record. Use 3 in production.
    #[arg(long, env, default_value_t = 1, value_name = "COUNT", value_parser = clap::value_parser!(i32).range(1..))]
    kafka_replication: i32,
    /// Number of brokers that must have stored a record before it is acknowledged. Use 2 with a replication of 3.
    #[arg(long, env, default_value_t = 1, value_name = "COUNT", value_parser = clap::value_parser!(i32).range(1..))]
    kafka_min_insync_replicas: i32,
    /// Retention of issued records, in hours. Dead letters are kept without limit.
    #[arg(long, env, default_value_t = 168, value_name = "HOURS", value_parser = clap::value_parser!(u32).range(1..))]
    kafka_retention_hours: u32,
    /// Topic of the uses of coupons, which redeemers need. Without this flag, it is not created.
    #[arg(long, env, value_name = "TOPIC", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    kafka_used_topic: Option<String>,
}

impl TopicArgs {
    pub(crate) fn settings(&self) -> TopicSettings {
        TopicSettings {
            partitions: self.kafka_partitions,
            replication: self.kafka_replication,
            min_insync_replicas: self.kafka_min_insync_replicas,
            retention: Some(Duration::from_secs(u64::from(self.kafka_retention_hours) * 3600)),
            used_topic: self.kafka_used_topic.clone(),
        }
    }

    pub(crate) fn validate(&self) -> Result<(), String> {
        let (required, replicas) = (self.kafka_min_insync_replicas, self.kafka_replication);
        if required > replicas {
            return Err(format!(
                "--kafka-min-insync-replicas {required} exceeds --kafka-replication {replicas}: no write could succeed"
            ));
        }
        Ok(())
    }
}
