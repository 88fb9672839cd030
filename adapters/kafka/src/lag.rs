//! The lag of a consumer group.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

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

/// Measures the lag of a consumer group without joining it, so a group without members has a lag, too.
#[derive(Clone)]
pub struct Lag {
    consumer: Arc<BaseConsumer<ClientLog>>,
    topic: String,
}

impl Lag {
    /// Connects in the background. Fails only if the settings are invalid.
    pub fn new(settings: &KafkaSettings, group: &str) -> Result<Self, KafkaError> {
        let mut config = settings::client(settings)?;
        config.set("group.id", group).set("enable.auto.commit", "false");
        let consumer = BaseConsumer::from_config_and_context(&config, ClientLog::default())
            .map_err(KafkaError::at(Operation::Configure))?;
        Ok(Self { consumer: Arc::new(consumer), topic: settings.topic.clone() })
    }

    /// How many messages of the topic the group has not committed yet. `timeout` applies to each request.
    pub async fn measure(&self, timeout: Duration) -> Result<u64, KafkaError> {
        let end = self.topic_end(timeout).await?;
        self.measure_up_to(&end, timeout).await
    }

    /// The current end of the topic.
    pub async fn topic_end(&self, timeout: Duration) -> Result<TopicEnd, KafkaError> {
        let (consumer, topic) = (self.consumer.clone(), self.topic.clone());
        blocking(move || topic_end(&consumer, &topic, timeout)).await
    }

    /// How many messages before this end of the topic the group has not committed yet.
    pub async fn measure_up_to(&self, end: &TopicEnd, timeout: Duration) -> Result<u64, KafkaError> {
        let (consumer, topic, end) = (self.consumer.clone(), self.topic.clone(), end.clone());
        blocking(move || lag_up_to(&consumer, &topic, &end, timeout)).await
    }
}

/// The end of a topic at one point in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicEnd {
    /// For each partition, by its number: the first retained offset, and the offset after the last message.
    partitions: Vec<(i64, i64)>,
}

fn topic_end(consumer: &BaseConsumer<ClientLog>, topic: &str, timeout: Duration) -> Result<TopicEnd, KafkaError> {
    let metadata = metadata::fetch(consumer, topic, timeout);
    let count = require_topic(topic, metadata, consumer.context())?.len();
    let partitions = (0..i32::try_from(count).unwrap_or(i32::MAX))
        .map(|partition| consumer.fetch_watermarks(topic, partition, timeout))
        .collect::<Result<_, _>>()
        .map_err(KafkaError::at(Operation::MeasureLag))?;
    Ok(TopicEnd { partitions })
}

fn lag_up_to(
    consumer: &BaseConsumer<ClientLog>,
    topic: &str,
    TopicEnd { partitions }: &TopicEnd,
    timeout: Duration,
) -> Result<u64, KafkaError> {
    let mut list = TopicPartitionList::new();
    list.add_partition_range(topic, 0, i32::try_from(partitions.len()).unwrap_or(i32::MAX) - 1);
    let committed = committed_offsets(consumer, &list, timeout).map_err(KafkaError::at(Operation::MeasureLag))?;
    let mut lag = 0;
    for partition in committed.elements() {
        let number = usize::try_from(partition.partition()).unwrap_or(usize::MAX);
        let (low, high) = partitions.get(number).copied().unwrap_or_default();
        // Without a committed offset, the group starts with the first retained message.
        let next = match partition.offset() {
            Offset::Offset(committed) if committed <= high => committed.max(low),
            Offset::Offset(committed) => {
                let (_, current) = consumer
                    .fetch_watermarks(topic, partition.partition(), timeout)
                    .map_err(KafkaError::at(Operation::MeasureLag))?;
                // An offset after the current end is one of a deleted topic of the same name. The group then starts
                // with the first retained message as well.
                if committed <= current { high } else { low }
            }
            _ => low,
        };
        lag += u64::try_from(high - next).unwrap_or(0);
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

impl std::fmt::Debug for Lag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lag").field("topic", &self.topic).finish_non_exhaustive()
    }
}
