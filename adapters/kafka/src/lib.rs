//! The issued records in Kafka.
//!
//! - [`topics::ensure`] makes the topics that are missing and says what it does not like about the others.
//! - [`Producer`] writes records, [`Consumer`] reads them in batches, [`DeadLetters`] takes those that can never be
//!   recorded. A record is at least once on the topic, so whoever reads it may see it again.
//! - [`Lag`] measures how far a group is behind; [`History`] reads a whole topic, for checks.
//!
//! No call blocks its thread: what librdkafka does by waiting happens on threads of its own.

mod blocking;
mod consumer;
mod dead_letters;
mod error;
mod history;
mod lag;
mod lasting;
mod message;
mod producer;
mod settings;
pub mod topics;

pub use consumer::{Batch, Committer, Consumer};
pub use couponry_settings::KafkaSettings;
pub use dead_letters::DeadLetters;
pub use error::{JournalError, Operation};
pub use history::{History, read_all};
pub use lag::{Lag, TopicEnd};
pub use message::Message;
pub use producer::{Delivery, Producer, ProducerFull};
pub use topics::{Finding, TopicSettings};
