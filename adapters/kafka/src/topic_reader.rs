//! Reading a topic from its first to its last message, for audits.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use couponry_settings::KafkaSettings;
use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    config::FromClientConfigAndContext as _,
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaError as RdKafkaError,
};
use tokio::sync::mpsc;

use crate::{
    client_log::ClientLog,
    error::{KafkaError, Operation},
    message::Message,
    metadata::{self, require_topic},
    settings,
};

/// How long the reader waits for the brokers.
const BROKER_TIMEOUT: Duration = Duration::from_secs(15);

/// How many messages are read ahead.
const READ_AHEAD: usize = 1000;

/// All messages of the topic at the time of the call, in order within each partition. It holds all of them in memory.
///
/// For dead letters, pass settings with [`KafkaSettings::dead_letter_topic`] as the topic.
pub async fn read_all(settings: &KafkaSettings) -> Result<Vec<Message>, KafkaError> {
    let mut reader = TopicReader::start(settings);
    let mut partitions: BTreeMap<i32, Vec<Message>> = BTreeMap::new();
    while let Some(message) = reader.next().await? {
        partitions.entry(message.partition).or_default().push(message);
    }
    Ok(partitions.into_values().flatten().collect())
}

/// Streams the messages that a topic has at the time of the call, in order within each partition and with constant
/// memory. It joins no group and commits no offsets. Dropping it ends the reading.
#[derive(Debug)]
pub struct TopicReader {
    messages: mpsc::Receiver<Result<Message, KafkaError>>,
}

impl TopicReader {
    /// Starts to read. Must be called within a Tokio runtime.
    #[must_use]
    pub fn start(settings: &KafkaSettings) -> Self {
        let settings = settings.clone();
        let (sender, messages) = mpsc::channel(READ_AHEAD);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = read(&settings, &sender) {
                // The reader may have been dropped.
                let _ = sender.blocking_send(Err(error));
            }
        });
        Self { messages }
    }

    /// The next message; None after the last one.
    pub async fn next(&mut self) -> Result<Option<Message>, KafkaError> {
        self.messages.recv().await.transpose()
    }
}

fn read(settings: &KafkaSettings, messages: &mpsc::Sender<Result<Message, KafkaError>>) -> Result<(), KafkaError> {
    let at = KafkaError::at;
    // librdkafka requires a group for every consumer. Nothing joins it or commits to it.
    let mut config = settings::consumer(settings, "couponry-read-all")?;
    config.set("enable.partition.eof", "true");
    let consumer: BaseConsumer<ClientLog> =
        BaseConsumer::from_config_and_context(&config, ClientLog::default()).map_err(at(Operation::Configure))?;
    let metadata = metadata::fetch(&consumer, &settings.topic, BROKER_TIMEOUT);
    let partitions = require_topic(&settings.topic, metadata, consumer.context())?.len();

    let mut assignment = TopicPartitionList::new();
    let mut ends = HashMap::new();
    for partition in 0..i32::try_from(partitions).unwrap_or(i32::MAX) {
        let (low, high) =
            consumer.fetch_watermarks(&settings.topic, partition, BROKER_TIMEOUT).map_err(at(Operation::Consume))?;
        if low < high {
            ends.insert(partition, high);
            assignment
                .add_partition_offset(&settings.topic, partition, Offset::Offset(low))
                .map_err(at(Operation::Consume))?;
        }
    }
    consumer.assign(&assignment).map_err(at(Operation::Consume))?;

    while !ends.is_empty() {
        match consumer.poll(BROKER_TIMEOUT) {
            Some(Ok(message)) => {
                let (partition, offset) = (message.partition(), message.offset());
                let Some(end) = ends.get(&partition).copied() else { continue };
                if offset < end && messages.blocking_send(Ok(Message::from(&message))).is_err() {
                    return Ok(());
                }
                if offset + 1 >= end {
                    ends.remove(&partition);
                }
            }
            // The last offsets of a partition may have no message (compaction, or a transaction marker).
            Some(Err(RdKafkaError::PartitionEOF(partition))) => {
                ends.remove(&partition);
            }
            Some(Err(cause)) => return Err(at(Operation::Consume)(cause)),
            None => return Err(KafkaError::TimedOut(Operation::Consume)),
        }
    }
    Ok(())
}
