//! Queueing records, and their delivery: one result for those that were queued together.

use std::{
    borrow::Cow,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use rdkafka::{
    error::{KafkaError as RdKafkaError, RDKafkaErrorCode},
    message::OwnedHeaders,
    producer::BaseRecord,
};
use tokio::sync::oneshot;

use crate::{
    error::{KafkaError, Operation},
    pending_records::PendingRecords,
    recreating_producer::{Current, RecreatingProducer},
};

/// A record to be queued.
pub(crate) struct OutgoingRecord<'a> {
    /// None: librdkafka chooses it by the key.
    pub(crate) partition: Option<i32>,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) payload: Cow<'a, [u8]>,
    pub(crate) headers: OwnedHeaders,
}

/// The queue of the producer is full. Some of the records may have been queued. Wait for deliveries, or leave the
/// records in the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the queue of the Kafka producer is full")]
pub struct ProducerFull;

/// Queues records. Does not wait. A record that librdkafka does not accept fails the delivery; each error is also
/// passed to `on_rejected`.
pub(crate) fn send<'a>(
    producer: &Arc<RecreatingProducer>,
    topic: &str,
    records: impl Iterator<Item = OutgoingRecord<'a>>,
    on_rejected: impl Fn(&RdKafkaError),
) -> Result<Delivery, ProducerFull> {
    let Current { generation, producer: current } = producer.current();
    let (pending, result) = PendingRecords::new();
    for OutgoingRecord { partition, key, payload, headers } in records {
        let mut record = BaseRecord::<[u8], [u8], _>::with_opaque_to(topic, pending.clone());
        (record.partition, record.key, record.payload) = (partition, key, Some(&*payload));
        record.headers = Some(headers);
        let is_rejected = couponry_failpoint::is_on("kafka.rejected-records");
        let queued = if is_rejected { Err((rejected(), record)) } else { current.send(record) };
        match queued {
            Ok(()) => {}
            Err((RdKafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => return Err(ProducerFull),
            Err((cause, _)) => {
                on_rejected(&cause);
                pending.fail(cause);
            }
        }
    }
    Ok(Delivery { result, producer: producer.clone(), generation })
}

/// As for a producer whose clock is wrong, with a topic that keeps the timestamps of producers.
const fn rejected() -> RdKafkaError {
    RdKafkaError::MessageProduction(RDKafkaErrorCode::InvalidTimestamp)
}

/// The pending delivery of one record or of a batch.
#[must_use = "records are durable only after their delivery has completed"]
pub struct Delivery {
    result: oneshot::Receiver<Result<(), RdKafkaError>>,
    producer: Arc<RecreatingProducer>,
    generation: u64,
}

impl Delivery {
    /// The outcome with the error of librdkafka.
    fn poll_outcome(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RdKafkaError>> {
        let outcome = ready!(Pin::new(&mut self.result).poll(cx)).unwrap_or(Err(RdKafkaError::Canceled));
        match &outcome {
            Ok(()) => self.producer.report_delivery(),
            Err(cause) => self.producer.report_failure(self.generation, cause),
        }
        Poll::Ready(outcome)
    }

    pub(crate) async fn outcome(mut self) -> Result<(), RdKafkaError> {
        std::future::poll_fn(|cx| self.poll_outcome(cx)).await
    }
}

impl Future for Delivery {
    /// After an error the outcome is unknown: any of the records may have been written.
    type Output = Result<(), KafkaError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_outcome(cx).map_err(KafkaError::at(Operation::Produce))
    }
}
