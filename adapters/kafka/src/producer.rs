//! Writing issued records.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use couponry_domain::{
    IssuedRecord,
    record::{VERSION, VERSION_HEADER},
};
use rdkafka::{
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::{DeliveryFuture, FutureRecord, Producer as _},
};

use crate::{
    JournalError, KafkaSettings, Message, blocking::blocking, error::Operation, lasting::LastingProducer,
    settings::LINGER,
};

/// Writes issued records. A clone shares the connections and the queue.
///
/// Records that are on their way when the last clone is dropped may be lost: [`Producer::flush`] first.
#[derive(Clone)]
pub struct Producer {
    lasting: Arc<LastingProducer>,
    topic: Arc<str>,
    turns: Arc<Turns>,
}

/// Whose turn it is among the partitions: each has it for as long as a record lingers. 0 partitions: nobody has asked yet how many
/// there are.
struct Turns {
    partitions: AtomicI32,
    start: Instant,
}

impl Turns {
    fn current(&self) -> Option<i32> {
        turn(self.start.elapsed(), self.partitions.load(Ordering::Relaxed))
    }
}

/// The partition whose turn it is after this time.
fn turn(elapsed: Duration, partitions: i32) -> Option<i32> {
    let turn = elapsed.as_millis() / LINGER.as_millis();
    i32::try_from(turn.checked_rem(u128::try_from(partitions).ok()?)?).ok()
}

/// The queue to Kafka is full: nothing was sent. Wait for some deliveries, or leave the record in the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the queue to Kafka is full")]
pub struct ProducerFull;

impl Producer {
    /// Connects in the background: fails only when the settings are no good.
    pub fn new(settings: &KafkaSettings) -> Result<Self, JournalError> {
        let lasting = Arc::new(LastingProducer::new(settings)?);
        let turns = Arc::new(Turns { partitions: AtomicI32::new(0), start: Instant::now() });
        Ok(Self { lasting, topic: settings.topic.as_str().into(), turns })
    }

    /// Puts the record into the queue to Kafka, keyed by its user. Never waits.
    ///
    /// The delivery is done when all in-sync replicas have the record. Dropping it does not take the record back.
    pub fn send(&self, record: &IssuedRecord) -> Result<Delivery, ProducerFull> {
        self.send_to(None, record)
    }

    /// The same for records that came into being together. They go to one partition, with those of the calls around them: the
    /// load spreads as with a partition for each user, and takes far fewer requests.
    ///
    /// After an error, some may be on their way.
    pub fn send_together(&self, records: &[IssuedRecord]) -> Result<Vec<Delivery>, ProducerFull> {
        let partition = self.turns.current();
        records.iter().map(|record| self.send_to(partition, record)).collect()
    }

    fn send_to(&self, partition: Option<i32>, record: &IssuedRecord) -> Result<Delivery, ProducerFull> {
        let headers = OwnedHeaders::new().insert(Header { key: VERSION_HEADER, value: Some(VERSION) });
        self.queue(partition, Some(record.user_id.as_str().as_bytes()), &record.encode(), headers)
    }

    /// Like [`Producer::send`], but puts any message there as it is, such as one that comes back from the dead letters. Its
    /// partition and offset are not used.
    pub fn send_message(&self, message: &Message) -> Result<Delivery, ProducerFull> {
        let headers = message
            .headers
            .iter()
            .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: value.as_deref() }));
        self.queue(None, message.key.as_deref(), &message.payload, headers)
    }

    fn queue(
        &self,
        partition: Option<i32>,
        key: Option<&[u8]>,
        payload: &[u8],
        headers: OwnedHeaders,
    ) -> Result<Delivery, ProducerFull> {
        let current = self.lasting.current();
        let mut message = FutureRecord::<[u8], [u8]>::to(&self.topic).payload(payload).headers(headers);
        (message.partition, message.key) = (partition, key);
        let state = match current.producer.send_result(message) {
            Ok(delivery) => State::Sent(delivery),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => return Err(ProducerFull),
            Err((cause, _)) => {
                if cause.rdkafka_error_code() == Some(RDKafkaErrorCode::UnknownPartition) {
                    // The topic was made anew, with fewer: librdkafka will choose.
                    self.turns.partitions.store(0, Ordering::Relaxed);
                }
                State::Refused(Some(cause))
            }
        };
        Ok(Delivery { state, lasting: self.lasting.clone(), generation: current.generation })
    }

    /// Waits until every record that was sent is delivered or has failed, at most until `deadline` has passed.
    pub async fn flush(&self, deadline: Duration) -> Result<(), JournalError> {
        let producer = self.lasting.current().producer;
        blocking(move || producer.flush(deadline)).await.map_err(JournalError::at(Operation::Flush))
    }

    /// Whether the brokers answer within `timeout` and know the topic.
    pub async fn ping(&self, timeout: Duration) -> Result<(), JournalError> {
        let partitions = self.lasting.ping(&self.topic, timeout).await?;
        self.turns.partitions.store(i32::try_from(partitions).unwrap_or(i32::MAX), Ordering::Relaxed);
        Ok(())
    }
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Producer").field("topic", &self.topic).finish_non_exhaustive()
    }
}

/// The way of one record to Kafka.
#[must_use = "the record is only safe when its delivery is done"]
pub struct Delivery {
    state: State,
    lasting: Arc<LastingProducer>,
    generation: u64,
}

enum State {
    Sent(DeliveryFuture),
    Refused(Option<KafkaError>),
}

impl Future for Delivery {
    /// An error leaves the outcome open: the record may have been written all the same.
    type Output = Result<(), JournalError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let cause = match &mut self.state {
            State::Sent(delivery) => match ready!(Pin::new(delivery).poll(cx)) {
                Ok(Ok(_)) => return Poll::Ready(Ok(())),
                Ok(Err((cause, _))) => cause,
                Err(_) => KafkaError::Canceled,
            },
            State::Refused(cause) => cause.take().unwrap_or(KafkaError::Canceled),
        };
        self.lasting.replace_if_fatal(self.generation);
        Poll::Ready(Err(JournalError::Kafka { operation: Operation::Produce, cause }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_take_turns() {
        let turns = |partitions| (0..8).map(|n| turn(LINGER * n, partitions)).collect::<Vec<_>>();
        assert_eq!(turns(3), [0, 1, 2, 0, 1, 2, 0, 1].map(Some));
        assert_eq!(turns(1), [Some(0); 8]);
        assert_eq!(turns(0), [None; 8], "nobody knows how many there are");
        assert_eq!(turn(LINGER / 2, 3), Some(0));
    }
}
