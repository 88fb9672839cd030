//! The partitions of a topic in the metadata that the brokers return.

use std::time::Duration;

use rdkafka::{
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError as RdKafkaError, RDKafkaErrorCode},
    metadata::Metadata,
};

use crate::{
    client_log::ClientLog,
    error::{KafkaError, Operation},
};

/// For each partition of a topic, its number of replicas and whether it has a leader.
pub(crate) type Partitions = Vec<(usize, bool)>;

/// Fetches the metadata of a topic with a consumer that is not polled otherwise.
pub(crate) fn fetch(
    consumer: &BaseConsumer<ClientLog>,
    topic: &str,
    timeout: Duration,
) -> Result<Metadata, RdKafkaError> {
    // The log of librdkafka about its connections is delivered only when the consumer is polled.
    consumer.fetch_metadata(Some(topic), timeout).inspect_err(|_| while consumer.poll(Duration::ZERO).is_some() {})
}

/// The partitions of the topic; None if it does not exist.
pub(crate) fn find_topic(
    topic: &str,
    metadata: Result<Metadata, RdKafkaError>,
    log: &ClientLog,
) -> Result<Option<Partitions>, KafkaError> {
    let metadata = metadata.map_err(|cause| log.unreachable(cause))?;
    log.clear();
    let Some(found) = metadata.topics().iter().find(|t| t.name() == topic) else { return Ok(None) };
    match found.error().map(RDKafkaErrorCode::from) {
        None | Some(RDKafkaErrorCode::LeaderNotAvailable) => {}
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => return Ok(None),
        Some(code) => return Err(KafkaError::at(Operation::FetchMetadata)(RdKafkaError::MetadataFetch(code))),
    }
    Ok(Some(found.partitions().iter().map(|p| (p.replicas().len(), p.leader() >= 0)).collect()))
}

/// The partitions of the topic. Fails if it does not exist.
pub(crate) fn require_topic(
    topic: &str,
    metadata: Result<Metadata, RdKafkaError>,
    log: &ClientLog,
) -> Result<Partitions, KafkaError> {
    match find_topic(topic, metadata, log)? {
        Some(partitions) if !partitions.is_empty() => Ok(partitions),
        _ => Err(KafkaError::TopicNotFound(topic.to_owned())),
    }
}
