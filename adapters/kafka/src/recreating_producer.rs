//! A producer that is recreated after fatal errors.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use couponry_settings::KafkaSettings;
use rdkafka::{
    ClientConfig,
    config::FromClientConfigAndContext as _,
    producer::{FutureProducer, Producer as _},
};

use crate::{
    blocking::blocking,
    client_log::ClientLog,
    error::{KafkaError, Operation},
    metadata::require_topic,
    settings,
};

/// After a fatal error, librdkafka rejects every call of the producer. Only a new producer can continue.
pub(crate) struct RecreatingProducer {
    config: ClientConfig,
    log: ClientLog,
    current: Mutex<Current>,
}

/// The producer in use.
#[derive(Clone)]
pub(crate) struct Current {
    pub(crate) generation: u64,
    pub(crate) producer: FutureProducer<ClientLog>,
}

impl RecreatingProducer {
    pub(crate) fn new(settings: &KafkaSettings) -> Result<Self, KafkaError> {
        let config = settings::producer(settings)?;
        let log = ClientLog::default();
        let producer = create(&config, &log)?;
        Ok(Self { config, log, current: Mutex::new(Current { generation: 0, producer }) })
    }

    pub(crate) fn current(&self) -> Current {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the number of partitions of the topic. Fails if no broker responds within `timeout`.
    pub(crate) async fn partition_count(&self, topic: &str, timeout: Duration) -> Result<usize, KafkaError> {
        let (producer, name) = (self.current().producer, topic.to_owned());
        let metadata = blocking(move || producer.client().fetch_metadata(Some(&name), timeout)).await;
        Ok(require_topic(topic, metadata, &self.log)?.len())
    }

    /// Replaces the producer of this `generation` if it failed fatally and has not been replaced yet. Called after an
    /// error.
    pub(crate) fn replace_if_fatal(&self, generation: u64) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.generation != generation {
            return;
        }
        let Some((code, reason)) = current.producer.client().fatal_error() else { return };
        match create(&self.config, &self.log) {
            Ok(producer) => {
                tracing::error!(error = %code, reason, "recreated Kafka producer after a fatal error");
                let old = std::mem::replace(&mut *current, Current { generation: generation + 1, producer });
                // Dropping a producer joins its thread.
                std::thread::spawn(move || drop(old));
            }
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::error!(error, reason, "cannot recreate Kafka producer after a fatal error");
            }
        }
    }
}

fn create(config: &ClientConfig, log: &ClientLog) -> Result<FutureProducer<ClientLog>, KafkaError> {
    FutureProducer::from_config_and_context(config, log.clone()).map_err(KafkaError::at(Operation::Configure))
}
