//! The command `loadgen topic`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Subcommand;
use couponry_kafka::administration::{delete_topic, set_offset_commits, set_partitions};
use couponry_kafka::{TopicSettings, topics};
use couponry_settings::KafkaSettings;
use tokio::time::{Instant, sleep};

/// How long the deletion of a topic may take.
const DELETE_TIMEOUT: Duration = Duration::from_mins(1);
const RETRY_PAUSE: Duration = Duration::from_millis(50);

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    change: Change,
    #[command(flatten)]
    kafka: KafkaSettings,
}

#[derive(Subcommand)]
enum Change {
    /// Delete the topic with all of its records.
    Delete,
    /// Create the topic, and its dead-letter topic if it is missing.
    Create { partitions: i32 },
    /// Increase the number of partitions.
    SetPartitions { partitions: usize },
    /// Make the brokers reject all offset commits, of any group.
    RejectCommits,
    /// Make the brokers accept offset commits again.
    AcceptCommits,
}

pub(crate) async fn change(Args { change, kafka }: Args) -> Result<ExitCode> {
    kafka.check()?;
    match change {
        Change::Delete => delete_topic(&kafka).await?,
        Change::Create { partitions } => create(&kafka, partitions).await?,
        Change::SetPartitions { partitions } => set_partitions(&kafka, partitions).await?,
        Change::RejectCommits => set_offset_commits(&kafka, false).await?,
        Change::AcceptCommits => set_offset_commits(&kafka, true).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Retries while a previous topic of this name is being deleted.
async fn create(kafka: &KafkaSettings, partitions: i32) -> Result<()> {
    let settings = TopicSettings { partitions, replication: 1, min_insync_replicas: 1, retention: None };
    let deadline = Instant::now() + DELETE_TIMEOUT;
    loop {
        match topics::ensure(kafka, &settings).await {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() >= deadline => return Err(error.into()),
            Err(_) => sleep(RETRY_PAUSE).await,
        }
    }
}
