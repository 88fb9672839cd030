//! The command `loadgen topic`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Subcommand;
use couponry_domain::record::INSTALLATION_HEADER;
use couponry_kafka::test_support::{delete_topic, set_offset_commits, set_partitions};
use couponry_kafka::{Message, Producer, TopicSettings, topics};
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
    /// Send a message that is not a record.
    SendGarbage {
        /// The installation that its header names. Default: no header.
        #[arg(long)]
        installation: Option<String>,
    },
}

pub(crate) async fn change(Args { change, kafka }: Args) -> Result<ExitCode> {
    kafka.check()?;
    match change {
        Change::Delete => delete_topic(&kafka).await?,
        Change::Create { partitions } => create(&kafka, partitions).await?,
        Change::SetPartitions { partitions } => set_partitions(&kafka, partitions).await?,
        Change::RejectCommits => set_offset_commits(&kafka, false).await?,
        Change::AcceptCommits => set_offset_commits(&kafka, true).await?,
        Change::SendGarbage { installation } => send_garbage(&kafka, installation).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn send_garbage(kafka: &KafkaSettings, installation: Option<String>) -> Result<()> {
    let headers = installation.map(|id| (INSTALLATION_HEADER.to_owned(), Some(id.into_bytes()))).into_iter().collect();
    let message = Message { partition: 0, offset: 0, key: None, payload: b"garbage".to_vec(), headers };
    Ok(Producer::new(kafka)?.send_messages(&[message])?.await?)
}

/// Retries while a previous topic of this name is being deleted.
async fn create(kafka: &KafkaSettings, partitions: i32) -> Result<()> {
    let settings =
        TopicSettings { partitions, replication: 1, min_insync_replicas: 1, retention: None, used_topic: None };
    let deadline = Instant::now() + DELETE_TIMEOUT;
    loop {
        match topics::ensure(kafka, &settings).await {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() >= deadline => return Err(error.into()),
            Err(_) => sleep(RETRY_PAUSE).await,
        }
    }
}
