//! The topics: missing ones are created, existing ones are never changed.

use std::{collections::HashMap, fmt, time::Duration};

use couponry_settings::KafkaSettings;
use rdkafka::{
    admin::{AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication},
    config::FromClientConfigAndContext as _,
    error::{KafkaError as RdKafkaError, RDKafkaErrorCode},
    metadata::Metadata,
    producer::{FutureProducer, Producer as _},
    util::Timeout,
};
use tokio::time::Instant;

use crate::{
    blocking::blocking,
    client_log::ClientLog,
    error::{KafkaError, Operation},
    metadata::{Partitions, find_topic},
    settings,
};

/// The settings of a missing topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSettings {
    /// The number of partitions: the maximum number of consumers. The dead-letter topic has one partition.
    pub partitions: i32,
    /// The replication factor.
    pub replication: i32,
    /// How many replicas must have a record before it is acknowledged.
    pub min_insync_replicas: i32,
    /// How long records are retained. None: without a limit. Dead letters are always retained without a limit, because
    /// an administrator has to process them.
    pub retention: Option<Duration>,
    /// The topic of the uses of coupons. None: coupons are not redeemed with Couponry.
    pub used_topic: Option<String>,
}

/// A setting of an existing topic that differs from the expected one. It is reported, never changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicMismatch {
    /// The topic.
    pub topic: String,
    /// `partitions`, `replication`, or the name of a topic configuration.
    pub setting: &'static str,
    /// The expected value.
    pub expected: String,
    /// The value of the existing topic.
    pub actual: String,
}

impl fmt::Display for TopicMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { topic, setting, expected, actual } = self;
        write!(f, "topic {topic}: {setting} is {actual}, expected {expected}")
    }
}

/// The brokers set the timestamps of records. Otherwise they would be those of the producers: brokers reject records of
/// an issuer whose clock is an hour ahead of theirs, and delete those of one whose clock is behind too early.
const TIMESTAMP_TYPE: &str = "LogAppendTime";

/// Timeout of one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the partitions of a new topic may be without a leader.
const LEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// Pause between two checks for leaders.
const LEADER_PAUSE: Duration = Duration::from_millis(100);

/// Creates the topic, its dead-letter topic and the topic of the uses if they are missing, and waits until their
/// partitions have leaders. Existing topics remain unchanged; their settings that differ from `expected` are returned.
/// Concurrent calls are safe.
pub async fn ensure(settings: &KafkaSettings, expected: &TopicSettings) -> Result<Vec<TopicMismatch>, KafkaError> {
    let admin = Admin::new(settings)?;
    let mut mismatches = Vec::new();
    for (topic, expected) in expected_topics(settings, expected) {
        if let Some(partitions) = admin.partitions(&topic).await? {
            mismatches.extend(admin.compare(&topic, &partitions, &expected).await?);
        } else {
            admin.create(&topic, &expected).await?;
            admin.wait_for_leaders(&topic).await?;
        }
    }
    Ok(mismatches)
}

/// Compares the topics like [`ensure`], but creates none: returns the mismatches of existing topics and the names of
/// missing ones.
pub async fn inspect(
    settings: &KafkaSettings,
    expected: &TopicSettings,
) -> Result<(Vec<TopicMismatch>, Vec<String>), KafkaError> {
    let admin = Admin::new(settings)?;
    let (mut mismatches, mut missing) = (Vec::new(), Vec::new());
    for (topic, expected) in expected_topics(settings, expected) {
        match admin.partitions(&topic).await? {
            Some(partitions) => mismatches.extend(admin.compare(&topic, &partitions, &expected).await?),
            None => missing.push(topic),
        }
    }
    Ok((mismatches, missing))
}

/// The topic, its dead-letter topic and the topic of the uses, with their settings.
fn expected_topics(settings: &KafkaSettings, expected: &TopicSettings) -> Vec<(String, TopicSettings)> {
    let dead_letters = TopicSettings { partitions: 1, retention: None, ..expected.clone() };
    let mut topics = vec![(settings.topic.clone(), expected.clone()), (settings.dead_letter_topic(), dead_letters)];
    topics.extend(expected.used_topic.iter().map(|topic| (topic.clone(), expected.clone())));
    topics
}

struct Admin {
    client: AdminClient<ClientLog>,
    /// Fetches metadata. An admin client never delivers the log of librdkafka about its connections, a producer does.
    /// Nothing is ever produced with it.
    metadata_client: FutureProducer<ClientLog>,
    log: ClientLog,
}

impl Admin {
    fn new(settings: &KafkaSettings) -> Result<Self, KafkaError> {
        let (config, log) = (settings::client(settings)?, ClientLog::default());
        let client = AdminClient::from_config_and_context(&config, log.clone());
        let metadata_client = FutureProducer::from_config_and_context(&config, log.clone());
        let at = || KafkaError::at(Operation::Configure);
        Ok(Self { client: client.map_err(at())?, metadata_client: metadata_client.map_err(at())?, log })
    }

    async fn metadata(&self, topic: &str) -> Result<Metadata, RdKafkaError> {
        let (client, topic) = (self.metadata_client.clone(), topic.to_owned());
        blocking(move || client.client().fetch_metadata(Some(&topic), REQUEST_TIMEOUT)).await
    }

    /// The partitions of the topic; None if it does not exist.
    async fn partitions(&self, topic: &str) -> Result<Option<Partitions>, KafkaError> {
        find_topic(topic, self.metadata(topic).await, &self.log)
    }

    async fn create(&self, topic: &str, expected: &TopicSettings) -> Result<(), KafkaError> {
        let min_insync = expected.min_insync_replicas.to_string();
        let retention = retention_ms(expected).to_string();
        let new = NewTopic::new(topic, expected.partitions, TopicReplication::Fixed(expected.replication))
            .set("min.insync.replicas", &min_insync)
            .set("retention.ms", &retention)
            .set("message.timestamp.type", TIMESTAMP_TYPE)
            .set("cleanup.policy", "delete");
        let options = AdminOptions::new()
            .request_timeout(Some(REQUEST_TIMEOUT))
            .operation_timeout(Some(Timeout::After(REQUEST_TIMEOUT)));
        let results =
            self.client.create_topics([&new], &options).await.map_err(KafkaError::at(Operation::CreateTopic))?;
        for result in results {
            match result {
                Ok(_) => tracing::info!(topic, partitions = expected.partitions, "created topic"),
                // Another process has created it.
                Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((_, RDKafkaErrorCode::InvalidReplicationFactor)) => {
                    return Err(self.replication_error(topic, expected.replication).await);
                }
                Err((_, code)) => return Err(KafkaError::at(Operation::CreateTopic)(RdKafkaError::AdminOp(code))),
            }
        }
        Ok(())
    }

    /// The error for a rejected replication factor, with the number of brokers if they are too few.
    async fn replication_error(&self, topic: &str, replication: i32) -> KafkaError {
        match self.metadata(topic).await {
            Ok(metadata) if i64::try_from(metadata.brokers().len()).is_ok_and(|len| len < replication.into()) => {
                let brokers = metadata.brokers().len();
                KafkaError::TooFewBrokers { topic: topic.to_owned(), replication, brokers }
            }
            _ => {
                let code = RDKafkaErrorCode::InvalidReplicationFactor;
                KafkaError::at(Operation::CreateTopic)(RdKafkaError::AdminOp(code))
            }
        }
    }

    async fn wait_for_leaders(&self, topic: &str) -> Result<(), KafkaError> {
        let deadline = Instant::now() + LEADER_TIMEOUT;
        loop {
            let partitions = self.partitions(topic).await?.unwrap_or_default();
            if !partitions.is_empty() && partitions.iter().all(|(_, has_leader)| *has_leader) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(KafkaError::NotReady(topic.to_owned()));
            }
            tokio::time::sleep(LEADER_PAUSE).await;
        }
    }

    async fn compare(
        &self,
        topic: &str,
        partitions: &Partitions,
        expected: &TopicSettings,
    ) -> Result<Vec<TopicMismatch>, KafkaError> {
        let actual = self.configuration(topic).await?;
        let number = |setting: &str| actual.get(setting).and_then(|value| value.parse::<i64>().ok());
        let mut mismatches = Vec::new();
        let mut add = |setting, expected: &dyn fmt::Display, actual: &dyn fmt::Display| {
            let (expected, actual) = (expected.to_string(), actual.to_string());
            mismatches.push(TopicMismatch { topic: topic.to_owned(), setting, expected, actual });
        };
        if i64::from(expected.partitions) > i64::try_from(partitions.len()).unwrap_or(i64::MAX) {
            add("partitions", &expected.partitions, &partitions.len());
        }
        if let Some(fewest) = partitions.iter().map(|(replicas, _)| *replicas).min()
            && i64::try_from(fewest).unwrap_or(i64::MAX) < i64::from(expected.replication)
        {
            add("replication", &expected.replication, &fewest);
        }
        if let Some(min_insync) = number("min.insync.replicas")
            && min_insync < i64::from(expected.min_insync_replicas)
        {
            add("min.insync.replicas", &expected.min_insync_replicas, &min_insync);
        }
        if let Some(retention) = number("retention.ms") {
            let expected = retention_ms(expected);
            if retention >= 0 && (expected < 0 || retention < expected) {
                add("retention.ms", &expected, &retention);
            }
        }
        if let Some(of_timestamps) = actual.get("message.timestamp.type")
            && of_timestamps != TIMESTAMP_TYPE
        {
            add("message.timestamp.type", &TIMESTAMP_TYPE, of_timestamps);
        }
        // Compaction would keep only the last record of each user, over all events.
        if let Some(policy) = actual.get("cleanup.policy")
            && policy != "delete"
        {
            add("cleanup.policy", &"delete", policy);
        }
        Ok(mismatches)
    }

    async fn configuration(&self, topic: &str) -> Result<HashMap<String, String>, KafkaError> {
        let options = AdminOptions::new().request_timeout(Some(REQUEST_TIMEOUT));
        let described = self
            .client
            .describe_configs([&ResourceSpecifier::Topic(topic)], &options)
            .await
            .map_err(KafkaError::at(Operation::DescribeTopic))?;
        let mut configuration = HashMap::new();
        for resource in described {
            let ConfigResource { entries, .. } =
                resource.map_err(|code| KafkaError::at(Operation::DescribeTopic)(RdKafkaError::AdminOp(code)))?;
            configuration.extend(entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?))));
        }
        Ok(configuration)
    }
}

/// The value of `retention.ms`: -1 is without a limit.
fn retention_ms(settings: &TopicSettings) -> i64 {
    settings.retention.map_or(-1, |time| i64::try_from(time.as_millis()).unwrap_or(i64::MAX))
}
