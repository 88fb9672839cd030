//! What an administrator does to topics. Tests and chaos runs use it; no program of Couponry changes existing topics.

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

/// Replaces the configuration of any topic; settings that are not listed get their default again.
pub async fn replace_configuration(
    settings: &KafkaSettings,
    topic: &str,
    configuration: &[(&str, &str)],
) -> Result<(), KafkaError> {
    let mut alter = AlterConfig::new(ResourceSpecifier::Topic(topic));
    for (name, value) in configuration {
        alter = alter.set(name, value);
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
