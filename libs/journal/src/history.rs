//! Reading a topic from its beginning, for checks.

use std::{collections::HashMap, time::Duration};

use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    config::FromClientConfigAndContext as _,
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaError,
};

use crate::{JournalError, KafkaSettings, Message, blocking::blocking, consumer::Watch, error::Operation, topics};

/// How long the brokers may be silent before reading is given up.
const PATIENCE: Duration = Duration::from_secs(15);

/// Every message that is on the topic at the time of the call, partition by partition in order. It needs memory for all of
/// them, and leaves no trace: no group, no offsets.
///
/// For the dead letters, give settings with [`KafkaSettings::dead_letter_topic`] as the topic.
pub async fn read_all(settings: &KafkaSettings) -> Result<Vec<Message>, JournalError> {
    let settings = settings.clone();
    blocking(move || read(&settings)).await
}

fn read(settings: &KafkaSettings) -> Result<Vec<Message>, JournalError> {
    let at = JournalError::at;
    let mut config = settings.client();
    // librdkafka wants a group for every consumer; nothing is ever joined or committed under it.
    config.set("group.id", "couponry-read-all").set("enable.auto.commit", "false").set("enable.partition.eof", "true");
    let consumer: BaseConsumer<Watch> =
        BaseConsumer::from_config_and_context(&config, Watch).map_err(at(Operation::Configure))?;
    let metadata = consumer.fetch_metadata(Some(&settings.topic), PATIENCE);
    let partitions = topics::existing(&settings.topic, metadata)?.len();

    let mut assignment = TopicPartitionList::new();
    let mut ends = HashMap::new();
    for partition in 0..i32::try_from(partitions).unwrap_or(i32::MAX) {
        let (low, high) =
            consumer.fetch_watermarks(&settings.topic, partition, PATIENCE).map_err(at(Operation::Receive))?;
        if low < high {
            ends.insert(partition, high);
            assignment
                .add_partition_offset(&settings.topic, partition, Offset::Offset(low))
                .map_err(at(Operation::Receive))?;
        }
    }
    consumer.assign(&assignment).map_err(at(Operation::Receive))?;

    let mut messages: HashMap<i32, Vec<Message>> = HashMap::new();
    while !ends.is_empty() {
        match consumer.poll(PATIENCE) {
            Some(Ok(message)) => {
                let (partition, offset) = (message.partition(), message.offset());
                let Some(end) = ends.get(&partition).copied() else { continue };
                if offset < end {
                    messages.entry(partition).or_default().push(Message::from(&message));
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
    let mut partitions: Vec<_> = messages.into_iter().collect();
    partitions.sort_by_key(|(partition, _)| *partition);
    Ok(partitions.into_iter().flat_map(|(_, messages)| messages).collect())
}
