//! Reading a topic from its beginning, for checks.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    config::FromClientConfigAndContext as _,
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaError,
};

use tokio::sync::{mpsc, oneshot};

use crate::{
    JournalError, KafkaSettings, Message,
    error::Operation,
    settings::{self, Logs},
    topics,
};

/// How long the brokers may be silent before reading is given up.
const PATIENCE: Duration = Duration::from_secs(15);

/// How many messages may wait for whoever reads them.
const AHEAD: usize = 1000;

/// Every message that is on the topic at the time of the call, partition by partition in order. It needs memory for all of
/// them, and leaves no trace: no group, no offsets.
///
/// For the dead letters, give settings with [`KafkaSettings::dead_letter_topic`] as the topic.
pub async fn read_all(settings: &KafkaSettings) -> Result<Vec<Message>, JournalError> {
    let mut history = History::read(settings);
    let mut partitions: BTreeMap<i32, Vec<Message>> = BTreeMap::new();
    while let Some(message) = history.next().await? {
        partitions.entry(message.partition).or_default().push(message);
    }
    Ok(partitions.into_values().flatten().collect())
}

/// What is on a topic at the time of the call, as it comes: in order within each partition, and memory stays flat. It leaves
/// no trace: no group, no offsets. Dropping it ends the reading.
#[derive(Debug)]
pub struct History {
    messages: mpsc::Receiver<Result<Message, JournalError>>,
    whole: oneshot::Receiver<bool>,
}

impl History {
    /// Begins to read. Must be called within a Tokio runtime.
    #[must_use]
    pub fn read(settings: &KafkaSettings) -> Self {
        let settings = settings.clone();
        let (sender, messages) = mpsc::channel(AHEAD);
        let (tell, whole) = oneshot::channel();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = read(&settings, tell, &sender) {
                // Whoever reads may have gone.
                let _ = sender.blocking_send(Err(error));
            }
        });
        Self { messages, whole }
    }

    /// The next message; None: that was all.
    pub async fn next(&mut self) -> Result<Option<Message>, JournalError> {
        self.messages.recv().await.transpose()
    }

    /// After the last message: whether the topic still had every message that was ever written to it. False also when it
    /// could not be read.
    pub async fn was_whole(self) -> bool {
        self.whole.await.unwrap_or(false)
    }
}

fn read(
    settings: &KafkaSettings,
    whole: oneshot::Sender<bool>,
    to: &mpsc::Sender<Result<Message, JournalError>>,
) -> Result<(), JournalError> {
    let at = JournalError::at;
    let mut config = settings::client(settings)?;
    // librdkafka wants a group for every consumer; nothing is ever joined or committed under it.
    config.set("group.id", "couponry-read-all").set("enable.auto.commit", "false").set("enable.partition.eof", "true");
    let consumer: BaseConsumer<Logs> =
        BaseConsumer::from_config_and_context(&config, Logs::default()).map_err(at(Operation::Configure))?;
    let metadata = settings::metadata(&consumer, &settings.topic, PATIENCE);
    let partitions = topics::existing(&settings.topic, metadata, consumer.context())?.len();

    let mut assignment = TopicPartitionList::new();
    let mut ends = HashMap::new();
    let mut is_whole = true;
    for partition in 0..i32::try_from(partitions).unwrap_or(i32::MAX) {
        let (low, high) =
            consumer.fetch_watermarks(&settings.topic, partition, PATIENCE).map_err(at(Operation::Receive))?;
        is_whole &= low == 0;
        if low < high {
            ends.insert(partition, high);
            assignment
                .add_partition_offset(&settings.topic, partition, Offset::Offset(low))
                .map_err(at(Operation::Receive))?;
        }
    }
    consumer.assign(&assignment).map_err(at(Operation::Receive))?;
    // Whoever reads may not want to know.
    let _ = whole.send(is_whole);

    while !ends.is_empty() {
        match consumer.poll(PATIENCE) {
            Some(Ok(message)) => {
                let (partition, offset) = (message.partition(), message.offset());
                let Some(end) = ends.get(&partition).copied() else { continue };
                if offset < end && to.blocking_send(Ok(Message::from(&message))).is_err() {
                    return Ok(());
                }
                if offset + 1 >= end {
                    ends.remove(&partition);
                }
            }
            // The last offsets of a partition may hold no message (compacted, or a transaction's marker).
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                ends.remove(&partition);
            }
            Some(Err(cause)) => return Err(at(Operation::Receive)(cause)),
            None => return Err(JournalError::TimedOut(Operation::Receive)),
        }
    }
    Ok(())
}
