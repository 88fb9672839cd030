//! The lag of a consumer group.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use couponry_domain::Uuid;
use couponry_settings::KafkaSettings;
use rdkafka::{
    Offset, TopicPartitionList,
    config::FromClientConfigAndContext as _,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError as RdKafkaError, RDKafkaErrorCode},
};

use crate::{
    blocking::blocking,
    client_log::ClientLog,
    error::{KafkaError, Operation},
    metadata::{self, require_topic},
    settings,
};

/// Pause between two requests while the brokers elect a coordinator for the group.
const COORDINATOR_PAUSE: Duration = Duration::from_millis(100);

/// The consumer group of an installation. Installations that share a topic never share a group: each consumes all
/// records, and ignores those of the others.
#[must_use]
pub fn consumer_group(prefix: &str, installation: Uuid) -> String {
    format!("{prefix}-{installation}")
}

/// Measures the lag of a consumer group without joining it, so a group without members has a lag, too.
#[derive(Clone)]
pub struct LagClient {
    consumer: Arc<BaseConsumer<ClientLog>>,
    topic: String,
}

impl LagClient {
    /// Connects in the background. Fails only if the settings are invalid.
    pub fn new(settings: &KafkaSettings, group: &str) -> Result<Self, KafkaError> {
        let config = settings::consumer(settings, group)?;
        let consumer = BaseConsumer::from_config_and_context(&config, ClientLog::default())
            .map_err(KafkaError::at(Operation::Configure))?;
        Ok(Self { consumer: Arc::new(consumer), topic: settings.topic.clone() })
    }

    /// How many messages of the topic the group has not committed yet. `timeout` applies to each request.
    pub async fn measure(&self, timeout: Duration) -> Result<u64, KafkaError> {
        let end = self.topic_end(timeout).await?;
        let (consumer, topic) = (self.consumer.clone(), self.topic.clone());
        blocking(move || lag_up_to(&consumer, &topic, &end, true, timeout)).await
    }

    /// The current end of the topic.
    pub async fn topic_end(&self, timeout: Duration) -> Result<TopicEnd, KafkaError> {
        let (consumer, topic) = (self.consumer.clone(), self.topic.clone());
        blocking(move || topic_end(&consumer, &topic, timeout)).await
    }

    /// How many messages before this end of the topic the group has not committed yet. If the topic was deleted and
    /// created again since then, the same offsets of the new topic count.
    pub async fn measure_up_to(&self, end: &TopicEnd, timeout: Duration) -> Result<u64, KafkaError> {
        let (consumer, topic, end) = (self.consumer.clone(), self.topic.clone(), end.clone());
        blocking(move || lag_up_to(&consumer, &topic, &end, false, timeout)).await
    }
}

/// The end of a topic at one point in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicEnd {
    /// For each partition, by its number: the offset after the last message.
    partitions: Vec<i64>,
}

fn topic_end(consumer: &BaseConsumer<ClientLog>, topic: &str, timeout: Duration) -> Result<TopicEnd, KafkaError> {
    let metadata = metadata::fetch(consumer, topic, timeout);
    let count = require_topic(topic, metadata, consumer.context())?.len();
    let partitions = (0..i32::try_from(count).unwrap_or(i32::MAX))
        .map(|partition| Ok(consumer.fetch_watermarks(topic, partition, timeout)?.1))
        .collect::<Result<_, _>>()
        .map_err(KafkaError::at(Operation::MeasureLag))?;
    Ok(TopicEnd { partitions })
}

fn lag_up_to(
    consumer: &BaseConsumer<ClientLog>,
    topic: &str,
    TopicEnd { partitions }: &TopicEnd,
    is_current: bool,
    timeout: Duration,
) -> Result<u64, KafkaError> {
    let mut list = TopicPartitionList::new();
    list.add_partition_range(topic, 0, i32::try_from(partitions.len()).unwrap_or(i32::MAX) - 1);
    let committed = committed_offsets(consumer, &list, timeout).map_err(KafkaError::at(Operation::MeasureLag))?;
    let mut lag = 0;
    for partition in committed.elements() {
        let (number, committed) = (partition.partition(), partition.offset());
        let end = usize::try_from(number).ok().and_then(|number| partitions.get(number).copied()).unwrap_or_default();
        if is_current && committed == Offset::Offset(end) {
            continue;
        }
        // The topic may have been created again: its end is then lower, and the committed offset may be higher than it.
        let (low, current) = match consumer.fetch_watermarks(topic, number, timeout) {
            Err(cause) if cause.rdkafka_error_code() == Some(RDKafkaErrorCode::UnknownPartition) => continue,
            result => result.map_err(KafkaError::at(Operation::MeasureLag))?,
        };
        // Without a committed offset, or with one after the end, the group starts with the first retained message.
        let next = match committed {
            Offset::Offset(committed) if committed <= current => committed.max(low),
            _ => low,
        };
        lag += u64::try_from(end.min(current) - next).unwrap_or(0);
    }
    Ok(lag)
}

/// The committed offsets of the group. Retries while the brokers elect its coordinator.
fn committed_offsets(
    consumer: &BaseConsumer<ClientLog>,
    list: &TopicPartitionList,
    timeout: Duration,
) -> Result<TopicPartitionList, RdKafkaError> {
    let until = Instant::now() + timeout;
    loop {
        let cause = match consumer.committed_offsets(list.clone(), timeout) {
            Ok(committed) => return Ok(committed),
            Err(cause) => cause,
        };
        let is_transient = matches!(
            cause.rdkafka_error_code(),
            Some(
                RDKafkaErrorCode::NotCoordinator
                    | RDKafkaErrorCode::CoordinatorNotAvailable
                    | RDKafkaErrorCode::CoordinatorLoadInProgress
            )
        );
        if !is_transient || Instant::now() > until {
            return Err(cause);
        }
        std::thread::sleep(COORDINATOR_PAUSE);
    }
}

impl std::fmt::Debug for LagClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LagClient").field("topic", &self.topic).finish_non_exhaustive()
    }
}
