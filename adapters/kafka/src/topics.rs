//! The topics: made when they are missing, left alone when they are there.

use std::{collections::HashMap, fmt, time::Duration};

use rdkafka::{
    admin::{AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication},
    config::FromClientConfigAndContext as _,
    error::{KafkaError, RDKafkaErrorCode},
    producer::{FutureProducer, Producer as _},
    util::Timeout,
};
use tokio::time::Instant;

use crate::{
    JournalError, KafkaSettings,
    blocking::blocking,
    error::Operation,
    settings::{self, Logs},
};

/// How a missing topic is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSettings {
    /// How many partitions: as many consumers can share the work. The dead-letter topic has one.
    pub partitions: i32,
    /// On how many brokers each record is.
    pub replication: i32,
    /// How many of them must have a record before it is confirmed.
    pub min_insync_replicas: i32,
    /// How long records are kept. None: for ever. Dead letters are always kept for ever: they wait for a person.
    pub retention: Option<Duration>,
}

/// Something about an existing topic that is not as it was asked for. It is reported, never changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The topic.
    pub topic: String,
    /// What it is about: `partitions`, `replication`, or the name of a topic setting.
    pub setting: &'static str,
    /// What was asked for.
    pub wanted: String,
    /// What is there.
    pub found: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { topic, setting, wanted, found } = self;
        write!(f, "topic {topic}: {setting} is {found}, expected {wanted}")
    }
}

/// How long a broker may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long the brokers may take to agree about a new topic.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// What the brokers know about a topic: for each partition, on how many brokers it is and whether it has a leader.
pub(crate) type Partitions = Vec<(usize, bool)>;

/// Makes the topic and its dead-letter topic where they are missing, and waits until the brokers know them. Topics that
/// exist stay as they are; what is not as `wanted` is returned. Several programs may do it at once.
pub async fn ensure(settings: &KafkaSettings, wanted: &TopicSettings) -> Result<Vec<Finding>, JournalError> {
    let admin = admin(settings)?;
    let mut findings = Vec::new();
    for (topic, wanted) in asked_for(settings, wanted) {
        if let Some(partitions) = describe(&admin, &topic).await? {
            findings.extend(compare(&admin, &topic, &partitions, &wanted).await?);
        } else {
            create(&admin, &topic, &wanted).await?;
            wait_until_known(&admin, &topic).await?;
        }
    }
    Ok(findings)
}

/// What [`ensure`] would say about the topics, without making any: the findings about those that exist, and the names of
/// those that are missing.
pub async fn inspect(
    settings: &KafkaSettings,
    wanted: &TopicSettings,
) -> Result<(Vec<Finding>, Vec<String>), JournalError> {
    let admin = admin(settings)?;
    let (mut findings, mut missing) = (Vec::new(), Vec::new());
    for (topic, wanted) in asked_for(settings, wanted) {
        match describe(&admin, &topic).await? {
            Some(partitions) => findings.extend(compare(&admin, &topic, &partitions, &wanted).await?),
            None => missing.push(topic),
        }
    }
    Ok((findings, missing))
}

/// The topic and its dead-letter topic, each with how it is to be.
fn asked_for(settings: &KafkaSettings, wanted: &TopicSettings) -> [(String, TopicSettings); 2] {
    let dead_letters = TopicSettings { partitions: 1, retention: None, ..wanted.clone() };
    [(settings.topic.clone(), wanted.clone()), (settings.dead_letter_topic(), dead_letters)]
}

struct Admin {
    client: AdminClient<Logs>,
    /// An admin client never hands out what librdkafka tells of its connections. A producer does, so this one is asked for
    /// the topics; nothing is ever written with it.
    asked: FutureProducer<Logs>,
    logs: Logs,
}

fn admin(settings: &KafkaSettings) -> Result<Admin, JournalError> {
    let (config, logs) = (settings::client(settings)?, Logs::default());
    let client = AdminClient::from_config_and_context(&config, logs.clone());
    let asked = FutureProducer::from_config_and_context(&config, logs.clone());
    let at = || JournalError::at(Operation::Configure);
    Ok(Admin { client: client.map_err(at())?, asked: asked.map_err(at())?, logs })
}

async fn describe(admin: &Admin, topic: &str) -> Result<Option<Partitions>, JournalError> {
    let (asked, name) = (admin.asked.clone(), topic.to_owned());
    let metadata = blocking(move || asked.client().fetch_metadata(Some(&name), PATIENCE)).await;
    known_partitions(topic, metadata, &admin.logs)
}

/// What an answer about one topic says.
fn known_partitions(
    topic: &str,
    metadata: Result<rdkafka::metadata::Metadata, KafkaError>,
    logs: &Logs,
) -> Result<Option<Partitions>, JournalError> {
    let metadata = metadata.map_err(|cause| logs.unreachable(cause))?;
    logs.forget();
    let Some(found) = metadata.topics().iter().find(|t| t.name() == topic) else { return Ok(None) };
    match found.error().map(RDKafkaErrorCode::from) {
        None | Some(RDKafkaErrorCode::LeaderNotAvailable) => {}
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => return Ok(None),
        Some(code) => return Err(JournalError::at(Operation::Reach)(KafkaError::MetadataFetch(code))),
    }
    Ok(Some(found.partitions().iter().map(|p| (p.replicas().len(), p.leader() >= 0)).collect()))
}

/// The error when there is no such topic.
pub(crate) fn existing(
    topic: &str,
    metadata: Result<rdkafka::metadata::Metadata, KafkaError>,
    logs: &Logs,
) -> Result<Partitions, JournalError> {
    match known_partitions(topic, metadata, logs)? {
        Some(partitions) if !partitions.is_empty() => Ok(partitions),
        _ => Err(JournalError::NoTopic(topic.to_owned())),
    }
}

async fn create(admin: &Admin, topic: &str, wanted: &TopicSettings) -> Result<(), JournalError> {
    let min_insync = wanted.min_insync_replicas.to_string();
    let retention = retention_ms(wanted).to_string();
    let new = NewTopic::new(topic, wanted.partitions, TopicReplication::Fixed(wanted.replication))
        .set("min.insync.replicas", &min_insync)
        .set("retention.ms", &retention)
        .set("cleanup.policy", "delete");
    let options = AdminOptions::new().request_timeout(Some(PATIENCE)).operation_timeout(Some(Timeout::After(PATIENCE)));
    let results =
        admin.client.create_topics([&new], &options).await.map_err(JournalError::at(Operation::CreateTopic))?;
    for result in results {
        match result {
            Ok(_) => tracing::info!(topic, partitions = wanted.partitions, "topic made"),
            // Another program was faster.
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((_, RDKafkaErrorCode::InvalidReplicationFactor)) => {
                return Err(refused_replication(admin, topic, wanted).await);
            }
            Err((_, code)) => {
                return Err(JournalError::at(Operation::CreateTopic)(KafkaError::AdminOp(code)));
            }
        }
    }
    Ok(())
}

/// Why the brokers do not take so many copies, as far as it can be seen.
async fn refused_replication(admin: &Admin, topic: &str, wanted: &TopicSettings) -> JournalError {
    let (asked, name) = (admin.asked.clone(), topic.to_owned());
    match blocking(move || asked.client().fetch_metadata(Some(&name), PATIENCE)).await {
        Ok(metadata)
            if i64::try_from(metadata.brokers().len()).is_ok_and(|there| there < wanted.replication.into()) =>
        {
            let brokers = metadata.brokers().len();
            JournalError::TooFewBrokers { topic: topic.to_owned(), replication: wanted.replication, brokers }
        }
        _ => {
            let code = RDKafkaErrorCode::InvalidReplicationFactor;
            JournalError::at(Operation::CreateTopic)(KafkaError::AdminOp(code))
        }
    }
}

fn retention_ms(wanted: &TopicSettings) -> i64 {
    wanted.retention.map_or(-1, |time| i64::try_from(time.as_millis()).unwrap_or(i64::MAX))
}

async fn wait_until_known(admin: &Admin, topic: &str) -> Result<(), JournalError> {
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        let partitions = describe(admin, topic).await?.unwrap_or_default();
        if !partitions.is_empty() && partitions.iter().all(|(_, has_leader)| *has_leader) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(JournalError::NotReady(topic.to_owned()));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn compare(
    admin: &Admin,
    topic: &str,
    partitions: &Partitions,
    wanted: &TopicSettings,
) -> Result<Vec<Finding>, JournalError> {
    let found = configuration(admin, topic).await?;
    let number = |setting: &str| found.get(setting).and_then(|value| value.parse::<i64>().ok());
    let mut findings = Vec::new();
    let mut note = |setting, wanted: &dyn fmt::Display, found: &dyn fmt::Display| {
        findings.push(Finding {
            topic: topic.to_owned(),
            setting,
            wanted: wanted.to_string(),
            found: found.to_string(),
        });
    };
    if i64::from(wanted.partitions) > i64::try_from(partitions.len()).unwrap_or(i64::MAX) {
        note("partitions", &wanted.partitions, &partitions.len());
    }
    if let Some(fewest) = partitions.iter().map(|(replicas, _)| *replicas).min()
        && i64::try_from(fewest).unwrap_or(i64::MAX) < i64::from(wanted.replication)
    {
        note("replication", &wanted.replication, &fewest);
    }
    if let Some(min_insync) = number("min.insync.replicas")
        && min_insync < i64::from(wanted.min_insync_replicas)
    {
        note("min.insync.replicas", &wanted.min_insync_replicas, &min_insync);
    }
    if let Some(retention) = number("retention.ms") {
        let wanted = retention_ms(wanted);
        if retention >= 0 && (wanted < 0 || retention < wanted) {
            note("retention.ms", &wanted, &retention);
        }
    }
    // A compacted topic forgets all but the last record of a user, of whatever event.
    if let Some(policy) = found.get("cleanup.policy")
        && policy != "delete"
    {
        note("cleanup.policy", &"delete", policy);
    }
    Ok(findings)
}

async fn configuration(admin: &Admin, topic: &str) -> Result<HashMap<String, String>, JournalError> {
    let options = AdminOptions::new().request_timeout(Some(PATIENCE));
    let described = admin
        .client
        .describe_configs([&ResourceSpecifier::Topic(topic)], &options)
        .await
        .map_err(JournalError::at(Operation::DescribeTopic))?;
    let mut configuration = HashMap::new();
    for resource in described {
        let ConfigResource { entries, .. } =
            resource.map_err(|code| JournalError::at(Operation::DescribeTopic)(KafkaError::AdminOp(code)))?;
        configuration.extend(entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?))));
    }
    Ok(configuration)
}
