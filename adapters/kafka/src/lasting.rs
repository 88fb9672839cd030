//! A producer that outlives fatal errors.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rdkafka::{
    ClientConfig,
    config::FromClientConfigAndContext as _,
    producer::{FutureProducer, Producer as _},
};

use crate::{
    JournalError, KafkaSettings,
    blocking::blocking,
    error::Operation,
    settings::{self, Logs},
    topics,
};

/// After a fatal error librdkafka refuses everything, and only a new producer goes on.
pub(crate) struct LastingProducer {
    config: ClientConfig,
    logs: Logs,
    current: Mutex<Current>,
}

/// The producer of the moment.
#[derive(Clone)]
pub(crate) struct Current {
    pub(crate) generation: u64,
    pub(crate) producer: FutureProducer<Logs>,
}

impl LastingProducer {
    pub(crate) fn new(settings: &KafkaSettings) -> Result<Self, JournalError> {
        let config = settings::producer(settings)?;
        let logs = Logs::default();
        let producer = make(&config, &logs)?;
        Ok(Self { config, logs, current: Mutex::new(Current { generation: 0, producer }) })
    }

    pub(crate) fn current(&self) -> Current {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the brokers answer within `timeout` and know the topic: how many partitions it has.
    pub(crate) async fn ping(&self, topic: &str, timeout: Duration) -> Result<usize, JournalError> {
        let (producer, name) = (self.current().producer, topic.to_owned());
        let metadata = blocking(move || producer.client().fetch_metadata(Some(&name), timeout)).await;
        Ok(topics::existing(topic, metadata, &self.logs)?.len())
    }

    /// To be called after an error. Goes on with a new producer if the one of `generation` failed for good and nobody
    /// replaced it yet.
    pub(crate) fn replace_if_fatal(&self, generation: u64) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.generation != generation {
            return;
        }
        let Some((code, reason)) = current.producer.client().fatal_error() else { return };
        match make(&self.config, &self.logs) {
            Ok(producer) => {
                tracing::error!(%code, reason, "the Kafka producer failed for good, going on with a new one");
                let old = std::mem::replace(&mut *current, Current { generation: generation + 1, producer });
                // Its end waits for its thread.
                std::thread::spawn(move || drop(old));
            }
            Err(error) => tracing::error!(%code, reason, %error, "the Kafka producer failed for good"),
        }
    }
}

fn make(config: &ClientConfig, logs: &Logs) -> Result<FutureProducer<Logs>, JournalError> {
    FutureProducer::from_config_and_context(config, logs.clone()).map_err(JournalError::at(Operation::Configure))
}
