//! Issued records in Kafka.
//!
//! - [`topics::ensure`] creates missing topics and reports settings of existing ones that differ.
//! - [`Producer`] writes records, [`Consumer`] reads them in batches, [`DeadLetterProducer`] writes those that can
//!   never be recorded to the dead-letter topic.
//! - [`LagClient`] measures the lag of a consumer group; [`TopicReader`] reads a topic from its first to its last
//!   message.
//!
//! # Guarantees
//! A record is delivered at least once. No call blocks its thread: blocking calls of librdkafka run on threads of their
//! own.

mod batch;
mod blocking;
mod client_log;
mod committer;
mod consumer;
mod dead_letters;
mod delivery;
mod error;
mod group;
mod lag;
mod message;
mod metadata;
mod pending_records;
mod producer;
mod recreating_producer;
mod settings;
mod stall_detector;
mod sticky_partitioner;
pub mod test_support;
mod topic_reader;
pub mod topics;

pub use batch::Batch;
pub use committer::{Committer, PendingCommit};
pub use consumer::{Consumer, ConsumerState};
pub use couponry_settings::KafkaSettings;
pub use dead_letters::DeadLetterProducer;
pub use delivery::{Delivery, ProducerFull};
pub use error::{ClientError, ConnectionFailure, KafkaError, Operation};
pub use lag::{LagClient, TopicEnd, consumer_group};
pub use message::Message;
pub use producer::Producer;
pub use topic_reader::{TopicReader, read_all};
pub use topics::{TopicMismatch, TopicSettings};
