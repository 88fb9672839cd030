//! A producer that is recreated when it cannot continue: after a fatal error, or when it delivers nothing although the
//! brokers respond.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use couponry_settings::KafkaSettings;
use rdkafka::{
    ClientConfig,
    config::FromClientConfigAndContext as _,
    error::{KafkaError as RdKafkaError, RDKafkaErrorCode},
    producer::{Producer as _, ThreadedProducer},
};

use crate::{
    blocking::blocking,
    client_log::ClientLog,
    error::{KafkaError, Operation},
    metadata::require_topic,
    pending_records::DeliveryReports,
    settings,
};

/// After this many successful requests for metadata in a row, with undelivered records before each, the producer is
/// recreated. One is not enough: the records may have timed out while no broker was reachable.
const MAX_ROUNDS_WITH_TIMEOUTS: u32 = 2;

/// After a fatal error, librdkafka rejects every call of the producer. Only a new producer can continue.
pub(crate) struct RecreatingProducer {
    config: ClientConfig,
    log: ClientLog,
    current: Mutex<Current>,
    deliveries: Mutex<Deliveries>,
}

/// The deliveries since the last acknowledged one.
#[derive(Default)]
struct Deliveries {
    /// Whether a record has timed out since the last request for metadata.
    has_timed_out: bool,
    rounds_with_timeouts: u32,
    /// Why a broker has rejected a record since the last request for metadata.
    rejected: Option<RDKafkaErrorCode>,
}

/// The producer in use.
#[derive(Clone)]
pub(crate) struct Current {
    pub(crate) generation: u64,
    pub(crate) producer: Arc<ThreadedProducer<DeliveryReports>>,
}

impl RecreatingProducer {
    pub(crate) fn new(settings: &KafkaSettings) -> Result<Self, KafkaError> {
        let config = settings::producer(settings)?;
        let log = ClientLog::default();
        let producer = create(&config, &log)?;
        Ok(Self { config, log, current: Mutex::new(Current { generation: 0, producer }), deliveries: Mutex::default() })
    }

    pub(crate) fn current(&self) -> Current {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn deliveries(&self) -> MutexGuard<'_, Deliveries> {
        self.deliveries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the number of partitions of the topic. Fails if no broker responds within `timeout`, or if a
    /// delivery was rejected since the previous call and none has succeeded since.
    ///
    /// Called on a timer: it recreates a producer whose records time out although the brokers respond.
    pub(crate) async fn partition_count(&self, topic: &str, timeout: Duration) -> Result<usize, KafkaError> {
        let Current { generation, producer } = self.current();
        let name = topic.to_owned();
        let metadata = blocking(move || producer.client().fetch_metadata(Some(&name), timeout)).await;
        let count = require_topic(topic, metadata, &self.log)?.len();
        if self.deliveries().is_stalled() {
            self.replace(generation, "its records time out although the brokers respond");
        }
        match self.deliveries().rejected.take() {
            Some(code) => Err(KafkaError::at(Operation::Produce)(RdKafkaError::MessageProduction(code))),
            None => Ok(count),
        }
    }

    /// Called after a delivery has succeeded.
    pub(crate) fn report_delivery(&self) {
        *self.deliveries() = Deliveries::default();
    }

    /// Called after a delivery of this `generation` has failed. Replaces the producer if it failed fatally and has
    /// not been replaced yet.
    pub(crate) fn report_failure(&self, generation: u64, cause: &RdKafkaError) {
        match cause.rdkafka_error_code() {
            Some(RDKafkaErrorCode::MessageTimedOut) => self.deliveries().has_timed_out = true,
            Some(code) if is_rejection(code) => self.deliveries().rejected = Some(code),
            _ => {}
        }
        if let Some((code, reason)) = self.current().producer.client().fatal_error() {
            self.replace(generation, &format!("it failed fatally ({code}): {reason}"));
        }
    }

    fn replace(&self, generation: u64, reason: &str) {
        let mut current = self.lock();
        if current.generation != generation {
            return;
        }
        match create(&self.config, &self.log) {
            Ok(producer) => {
                tracing::error!(reason, "recreated Kafka producer");
                let old = std::mem::replace(&mut *current, Current { generation: generation + 1, producer });
                // Dropping a producer joins its thread.
                std::thread::spawn(move || drop(old));
            }
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::error!(error, reason, "cannot recreate Kafka producer");
            }
        }
    }
}

impl Deliveries {
    /// Called after the brokers have responded. Returns whether the producer has to be replaced.
    fn is_stalled(&mut self) -> bool {
        self.rounds_with_timeouts += u32::from(std::mem::take(&mut self.has_timed_out));
        let is_stalled = self.rounds_with_timeouts >= MAX_ROUNDS_WITH_TIMEOUTS;
        if is_stalled {
            *self = Self::default();
        }
        is_stalled
    }
}

/// Whether a broker has reported this error. librdkafka's own errors have negative codes.
fn is_rejection(code: RDKafkaErrorCode) -> bool {
    code as i32 > 0
}

fn create(config: &ClientConfig, log: &ClientLog) -> Result<Arc<ThreadedProducer<DeliveryReports>>, KafkaError> {
    let producer = ThreadedProducer::from_config_and_context(config, DeliveryReports(log.clone()));
    producer.map(Arc::new).map_err(KafkaError::at(Operation::Configure))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deliveries_are_stalled_when_records_time_out_while_brokers_respond() {
        let mut deliveries = Deliveries::default();
        assert!(!deliveries.is_stalled());
        deliveries.has_timed_out = true;
        assert!(!deliveries.is_stalled(), "the brokers may have been unreachable until now");
        assert!(!deliveries.is_stalled(), "nothing has timed out since then");
        deliveries.has_timed_out = true;
        assert!(deliveries.is_stalled());
        deliveries.has_timed_out = true;
        assert!(!deliveries.is_stalled(), "the new producer starts anew");
    }
}
