//! Changes of topics and brokers for tests and chaos runs. No program of Couponry changes an existing topic.

use std::time::Duration;

use couponry_settings::KafkaSettings;
use rdkafka::{
    admin::{AdminClient, AdminOptions, AlterConfig, NewPartitions, ResourceSpecifier},
    config::FromClientConfigAndContext as _,
    error::{KafkaError as RdKafkaError, RDKafkaErrorCode},
    util::Timeout,
};

use crate::{
    client_log::ClientLog,
    error::{KafkaError, Operation},
    settings,
};

/// Timeout of one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// Deletes the topic with all of its messages. The brokers delete the committed offsets of the topic as well.
pub async fn delete_topic(settings: &KafkaSettings) -> Result<(), KafkaError> {
    let results = client(settings)?.delete_topics(&[&settings.topic], &options()).await;
    check(results.map_err(KafkaError::at(Operation::AlterTopic))?)
}

/// Increases the number of partitions.
pub async fn set_partitions(settings: &KafkaSettings, partitions: usize) -> Result<(), KafkaError> {
    let results =
        client(settings)?.create_partitions([&NewPartitions::new(&settings.topic, partitions)], &options()).await;
    check(results.map_err(KafkaError::at(Operation::AlterTopic))?)
}

/// Makes the brokers reject all offset commits, or accept them again.
pub async fn set_offset_commits(settings: &KafkaSettings, are_accepted: bool) -> Result<(), KafkaError> {
    let mut alter = AlterConfig::new(ResourceSpecifier::Topic("__consumer_offsets"));
    // Settings that are not listed would get the defaults of ordinary topics.
    for (name, value) in
        [("cleanup.policy", "compact"), ("compression.type", "producer"), ("segment.bytes", "104857600")]
    {
        alter = alter.set(name, value);
    }
    if !are_accepted {
        alter = alter.set("max.message.bytes", "10");
    }
    let results = client(settings)?.alter_configs([&alter], &options()).await;
    check(results.map_err(KafkaError::at(Operation::AlterTopic))?)
}

fn client(settings: &KafkaSettings) -> Result<AdminClient<ClientLog>, KafkaError> {
    AdminClient::from_config_and_context(&settings::client(settings)?, ClientLog::default())
        .map_err(KafkaError::at(Operation::Configure))
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(REQUEST_TIMEOUT)).operation_timeout(Some(Timeout::After(REQUEST_TIMEOUT)))
}

fn check<T, S>(results: impl IntoIterator<Item = Result<T, (S, RDKafkaErrorCode)>>) -> Result<(), KafkaError> {
    results.into_iter().try_for_each(|result| match result {
        Ok(_) => Ok(()),
        Err((_, code)) => Err(KafkaError::at(Operation::AlterTopic)(RdKafkaError::AdminOp(code))),
    })
}
