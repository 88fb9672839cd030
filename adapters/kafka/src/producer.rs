//! Producing issued records.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use couponry_domain::{
    IssuedRecord, Uuid,
    record::{INSTALLATION_HEADER, VERSION, VERSION_HEADER},
};
use couponry_settings::KafkaSettings;
use rdkafka::{
    error::{KafkaError as RdKafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::{DeliveryFuture, FutureRecord, Producer as _},
};

use crate::{
    blocking::blocking,
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

/// The queue of the producer is full, and nothing was sent. Wait for deliveries, or leave the record in the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the queue of the Kafka producer is full")]
pub struct ProducerFull;

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
        self.send_to(None, record, None)
    }

    /// Queues the records of one issued batch. They go to the same partition, together with those of other batches of
    /// the same few milliseconds: this takes far fewer requests than a partition by user, and spreads the load as well.
    ///
    /// After an error, some of the records may have been queued.
    ///
    /// `installation`: the installation that issued the coupons.
    pub fn send_batch(
        &self,
        records: &[IssuedRecord],
        installation: Option<Uuid>,
    ) -> Result<Vec<Delivery>, ProducerFull> {
        let partition = self.partitioner.current();
        let installation = installation.map(|id| id.to_string());
        records.iter().map(|record| self.send_to(partition, record, installation.as_deref())).collect()
    }

    fn send_to(
        &self,
        partition: Option<i32>,
        record: &IssuedRecord,
        installation: Option<&str>,
    ) -> Result<Delivery, ProducerFull> {
        let mut headers = OwnedHeaders::new().insert(Header { key: VERSION_HEADER, value: Some(VERSION) });
        if let Some(id) = installation {
            headers = headers.insert(Header { key: INSTALLATION_HEADER, value: Some(id) });
        }
        self.enqueue(partition, Some(record.issued.user_id.as_str().as_bytes()), &record.encode(), headers)
    }

    /// Queues a message unchanged, for example a dead letter that is replayed. Its partition and offset are not used.
    pub fn send_message(&self, message: &Message) -> Result<Delivery, ProducerFull> {
        let headers = message
            .headers
            .iter()
            .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: value.as_deref() }));
        self.enqueue(None, message.key.as_deref(), &message.payload, headers)
    }

    fn enqueue(
        &self,
        partition: Option<i32>,
        key: Option<&[u8]>,
        payload: &[u8],
        headers: OwnedHeaders,
    ) -> Result<Delivery, ProducerFull> {
        let current = self.inner.current();
        let mut message = FutureRecord::<[u8], [u8]>::to(&self.topic).payload(payload).headers(headers);
        (message.partition, message.key) = (partition, key);
        let state = match current.producer.send_result(message) {
            Ok(delivery) => DeliveryState::Queued(delivery),
            Err((RdKafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => return Err(ProducerFull),
            Err((cause, _)) => {
                if cause.rdkafka_error_code() == Some(RDKafkaErrorCode::UnknownPartition) {
                    // The topic was recreated with fewer partitions.
                    self.partitioner.set_partitions(0);
                }
                DeliveryState::Rejected(Some(cause))
            }
        };
        Ok(Delivery { state, inner: self.inner.clone(), generation: current.generation })
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

/// The pending delivery of one record.
#[must_use = "the record is durable only after its delivery has completed"]
pub struct Delivery {
    state: DeliveryState,
    inner: Arc<RecreatingProducer>,
    generation: u64,
}

enum DeliveryState {
    Queued(DeliveryFuture),
    Rejected(Option<RdKafkaError>),
}

impl Future for Delivery {
    /// After an error the outcome is unknown: the record may have been written.
    type Output = Result<(), KafkaError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let cause = match &mut self.state {
            DeliveryState::Queued(delivery) => match ready!(Pin::new(delivery).poll(cx)) {
                Ok(Ok(_)) => {
                    self.inner.report_delivery();
                    return Poll::Ready(Ok(()));
                }
                Ok(Err((cause, _))) => cause,
                Err(_) => RdKafkaError::Canceled,
            },
            DeliveryState::Rejected(cause) => cause.take().unwrap_or(RdKafkaError::Canceled),
        };
        self.inner.report_failure(self.generation, &cause);
        Poll::Ready(Err(KafkaError::at(Operation::Produce)(cause)))
    }
}
