//! How far a consumer group is behind.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::{
    Offset, TopicPartitionList,
    config::FromClientConfigAndContext as _,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
};

use crate::{
    JournalError, KafkaSettings,
    blocking::blocking,
    error::Operation,
    settings::{self, Logs},
    topics,
};

/// How long brokers that do not agree are left alone.
const PAUSE: Duration = Duration::from_millis(100);

/// Measures the lag of a consumer group from outside: it is no member of it, so it also sees a group that stands still.
#[derive(Clone)]
pub struct Lag {
    consumer: Arc<BaseConsumer<Logs>>,
    topic: String,
}

impl Lag {
    /// Connects in the background: fails only when the settings are no good.
    pub fn new(settings: &KafkaSettings, group: &str) -> Result<Self, JournalError> {
        let mut config = settings::client(settings)?;
        config.set("group.id", group).set("enable.auto.commit", "false");
        let consumer = BaseConsumer::from_config_and_context(&config, Logs::default())
            .map_err(JournalError::at(Operation::Configure))?;
        Ok(Self { consumer: Arc::new(consumer), topic: settings.topic.clone() })
    }

    /// How many messages of the topic the group has not committed yet. Each answer of the brokers may take `timeout`.
    pub async fn measure(&self, timeout: Duration) -> Result<u64, JournalError> {
        let end = self.end(timeout).await?;
        self.before(&end, timeout).await
    }

    /// Where the topic ends now.
    pub async fn end(&self, timeout: Duration) -> Result<TopicEnd, JournalError> {
        let (consumer, topic) = (self.consumer.clone(), self.topic.clone());
        blocking(move || end(&consumer, &topic, timeout)).await
    }

    /// How many messages before this end of the topic the group has not committed yet, however many came after it.
    pub async fn before(&self, end: &TopicEnd, timeout: Duration) -> Result<u64, JournalError> {
        let (consumer, topic, end) = (self.consumer.clone(), self.topic.clone(), end.clone());
        blocking(move || before(&consumer, &topic, &end, timeout)).await
    }
}

/// Where a topic ended at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicEnd {
    /// Of each partition, by its number: the first offset that is kept, and the one after the last.
    partitions: Vec<(i64, i64)>,
}

fn end(consumer: &BaseConsumer<Logs>, topic: &str, timeout: Duration) -> Result<TopicEnd, JournalError> {
    let metadata = settings::metadata(consumer, topic, timeout);
    let count = topics::existing(topic, metadata, consumer.context())?.len();
    let partitions = (0..i32::try_from(count).unwrap_or(i32::MAX))
        .map(|partition| consumer.fetch_watermarks(topic, partition, timeout))
        .collect::<Result<_, _>>()
        .map_err(JournalError::at(Operation::MeasureLag))?;
    Ok(TopicEnd { partitions })
}

fn before(
    consumer: &BaseConsumer<Logs>,
    topic: &str,
    TopicEnd { partitions }: &TopicEnd,
    timeout: Duration,
) -> Result<u64, JournalError> {
    let mut list = TopicPartitionList::new();
    list.add_partition_range(topic, 0, i32::try_from(partitions.len()).unwrap_or(i32::MAX) - 1);
    let committed = committed(consumer, &list, timeout).map_err(JournalError::at(Operation::MeasureLag))?;
    let mut lag = 0;
    for partition in committed.elements() {
        let number = usize::try_from(partition.partition()).unwrap_or(usize::MAX);
        let (low, high) = partitions.get(number).copied().unwrap_or_default();
        // Nothing committed yet: the group will begin at the beginning.
        let done = if let Offset::Offset(committed) = partition.offset() { committed.max(low) } else { low };
        lag += u64::try_from(high - done).unwrap_or(0);
    }
    Ok(lag)
}

/// What the group has committed. For a moment, the brokers may not agree who of them keeps that.
fn committed(
    consumer: &BaseConsumer<Logs>,
    list: &TopicPartitionList,
    timeout: Duration,
) -> Result<TopicPartitionList, KafkaError> {
    let until = Instant::now() + timeout;
    loop {
        let cause = match consumer.committed_offsets(list.clone(), timeout) {
            Ok(committed) => return Ok(committed),
            Err(cause) => cause,
        };
        let is_passing = matches!(
            cause.rdkafka_error_code(),
            Some(
                RDKafkaErrorCode::NotCoordinator
                    | RDKafkaErrorCode::CoordinatorNotAvailable
                    | RDKafkaErrorCode::CoordinatorLoadInProgress
            )
        );
        if !is_passing || Instant::now() > until {
            return Err(cause);
        }
        std::thread::sleep(PAUSE);
    }
}

impl std::fmt::Debug for Lag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lag").field("topic", &self.topic).finish_non_exhaustive()
    }
}
