//! Producing issued records.

use std::{sync::Arc, time::Duration};

use couponry_domain::{
    IssuedRecord, Uuid,
    record::{INSTALLATION_HEADER, VERSION, VERSION_HEADER},
};
use couponry_settings::KafkaSettings;
use rdkafka::{
    error::RDKafkaErrorCode,
    message::{Header, OwnedHeaders},
    producer::Producer as _,
};

use crate::{
    blocking::blocking,
    delivery::{self, Delivery, OutgoingRecord, ProducerFull},
    error::{KafkaError, Operation},
    message::Message,
    recreating_producer::RecreatingProducer,
    sticky_partitioner::StickyPartitioner,
};

/// Writes issued records. A clone shares the connections and the queue.
///
/// Records that are not delivered when the last clone is dropped may be lost: call [`Producer::flush`] before.
#[derive(Clone)]
pub struct Producer {
    inner: Arc<RecreatingProducer>,
    topic: Arc<str>,
    partitioner: Arc<StickyPartitioner>,
}

impl Producer {
    /// Connects in the background. Fails only if the settings are invalid.
    pub fn new(settings: &KafkaSettings) -> Result<Self, KafkaError> {
        Ok(Self {
            inner: Arc::new(RecreatingProducer::new(settings)?),
            topic: settings.topic.as_str().into(),
            partitioner: Arc::new(StickyPartitioner::new()),
        })
    }

    /// Queues the record, keyed by its user. Does not wait.
    ///
    /// The delivery completes when all in-sync replicas have acknowledged the record. Dropping it does not cancel the
    /// record.
    pub fn send(&self, record: &IssuedRecord) -> Result<Delivery, ProducerFull> {
        self.send_to(None, std::slice::from_ref(record), None)
    }

    /// Queues the records of one issued batch. They go to the same partition, together with those of other batches of
    /// the same few milliseconds: this takes far fewer requests than a partition by user, and spreads the load as well.
    ///
    /// `installation`: the installation that issued the coupons.
    pub fn send_batch(&self, records: &[IssuedRecord], installation: Option<Uuid>) -> Result<Delivery, ProducerFull> {
        self.send_to(self.partitioner.current(), records, installation)
    }

    fn send_to(
        &self,
        partition: Option<i32>,
        records: &[IssuedRecord],
        installation: Option<Uuid>,
    ) -> Result<Delivery, ProducerFull> {
        let mut headers = OwnedHeaders::new().insert(Header { key: VERSION_HEADER, value: Some(VERSION) });
        if let Some(id) = installation {
            headers = headers.insert(Header { key: INSTALLATION_HEADER, value: Some(&id.to_string()) });
        }
        let outgoing = records.iter().map(|record| OutgoingRecord {
            partition,
            key: Some(record.issued.user_id.as_str().as_bytes()),
            payload: record.encode().into(),
            headers: headers.clone(),
        });
        self.enqueue(outgoing)
    }

    /// Queues messages unchanged, for example a dead letter that is replayed. Their partitions and offsets are ignored.
    pub fn send_messages(&self, messages: &[Message]) -> Result<Delivery, ProducerFull> {
        self.enqueue(messages.iter().map(|message| {
            let headers = message.headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
                headers.insert(Header { key, value: value.as_deref() })
            });
            let (key, payload) = (message.key.as_deref(), message.payload.as_slice().into());
            OutgoingRecord { partition: None, key, payload, headers }
        }))
    }

    fn enqueue<'a>(
        &self,
        records: impl ExactSizeIterator<Item = OutgoingRecord<'a>>,
    ) -> Result<Delivery, ProducerFull> {
        delivery::send(&self.inner, &self.topic, records, |cause| {
            if cause.rdkafka_error_code() == Some(RDKafkaErrorCode::UnknownPartition) {
                // The topic was recreated with fewer partitions.
                self.partitioner.set_partitions(0);
            }
        })
    }

    /// Waits until every queued record is delivered or has failed. Fails after `deadline`.
    pub async fn flush(&self, deadline: Duration) -> Result<(), KafkaError> {
        let producer = self.inner.current().producer;
        blocking(move || producer.flush(deadline)).await.map_err(KafkaError::at(Operation::Flush))
    }

    /// Fails if no broker responds within `timeout`, or if the topic does not exist.
    ///
    /// Call it on a timer: it updates the number of partitions, and recreates a producer that delivers nothing although
    /// the brokers respond.
    pub async fn ping(&self, timeout: Duration) -> Result<(), KafkaError> {
        let partitions = self.inner.partition_count(&self.topic, timeout).await?;
        self.partitioner.set_partitions(partitions);
        Ok(())
    }
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Producer").field("topic", &self.topic).finish_non_exhaustive()
    }
}
