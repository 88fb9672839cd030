//! Reading the data of an event from the stores.

use std::time::Duration;

use couponry_domain::{Coupon, EventName, IssuedCoupon, IssuedRecord, Uuid, record::RecordDecodeError};
use couponry_kafka::{DeadLetterProducer, KafkaError, KafkaSettings, LagClient, Message, TopicReader};
use couponry_postgres::{Database, DatabaseError, StoredEvent};
use couponry_redis::{IssuedEntry, RedisEvent, RedisStore};
use futures::TryStreamExt as _;

use crate::{comparison::Comparison, discrepancy::Discrepancy, error::AuditError};

/// Timeout of a request to Kafka.
const KAFKA_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum number of dead letters listed in the notes.
const MAX_DEAD_LETTER_NOTES: u64 = 10;

/// The stores of an installation.
#[derive(Clone)]
pub struct Stores {
    /// Redis.
    pub redis_store: RedisStore,
    /// Postgres.
    pub database: Database,
    /// Kafka.
    pub kafka: KafkaSettings,
    /// The consumer group that records the issuances, without the id of the installation.
    pub group: String,
}

impl Stores {
    /// The consumer group that records the issuances.
    pub async fn consumer_group(&self) -> Result<String, DatabaseError> {
        Ok(couponry_kafka::consumer_group(&self.group, self.database.installation().await?.id))
    }

    pub(crate) async fn read_postgres(
        &self,
        event: &StoredEvent,
        comparison: &mut Comparison,
    ) -> Result<(), AuditError> {
        let mut coupons = self.database.stream_coupons(event.uid);
        while let Some(Coupon { ordinal: _, code, discount }) = coupons.try_next().await? {
            comparison.add_generated(&code, discount);
        }
        comparison.finish_generated();
        let mut issuances = self.database.stream_issuances(event.uid);
        while let Some(issuance) = issuances.try_next().await? {
            comparison.add_recorded(&issuance.issued);
        }
        let mut voided = self.database.stream_voided(event.uid);
        while let Some((user, coupon)) = voided.try_next().await? {
            comparison.add_voided(&user, &coupon);
        }
        comparison.finish_recorded();
        for (coupon, seq) in self.database.invalid_uses(event.uid).await? {
            comparison.discrepancies.add(Discrepancy::InvalidUse { coupon, seq });
        }
        let (expected, actual) = (event.generated(), comparison.counts.generated);
        if expected != actual {
            // A top-up since the event was read changes both numbers.
            let expected = self.database.event(event.uid).await?.map_or(0, |event| event.generated());
            if expected < actual || expected == event.generated() {
                comparison.discrepancies.add(Discrepancy::StockSize { expected, actual });
            }
        }
        Ok(())
    }

    /// Reads the topic and the dead letters. Returns the issued coupons of the event's dead letters.
    pub(crate) async fn read_kafka(
        &self,
        uid: Uuid,
        comparison: &mut Comparison,
        notes: &mut Vec<String>,
    ) -> Result<Vec<IssuedCoupon>, AuditError> {
        let mut reader = TopicReader::start(&self.kafka);
        loop {
            match reader.next().await {
                Ok(Some(message)) => match decode(&message) {
                    Ok(record) if record.event_uid == uid => comparison.add_sent(record.issued),
                    Ok(_) => {}
                    Err(_) => comparison.counts.undecodable += 1,
                },
                Ok(None) => break,
                Err(KafkaError::TopicNotFound(topic)) => {
                    notes.push(format!("the Kafka topic {topic} does not exist"));
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        comparison.finish_sent();

        let mut letters = Vec::new();
        let dead_letters = KafkaSettings { topic: self.kafka.dead_letter_topic(), ..self.kafka.clone() };
        let mut reader = TopicReader::start(&dead_letters);
        loop {
            let message = match reader.next().await {
                Ok(Some(message)) => message,
                Ok(None) | Err(KafkaError::TopicNotFound(_)) => break,
                Err(error) => return Err(error.into()),
            };
            // An undecodable message does not belong to any event.
            let Ok(record) = decode(&message) else { continue };
            if record.event_uid == uid {
                let counts = &mut comparison.counts;
                counts.dead_letters += 1;
                let reason = DeadLetterProducer::reason(&message);
                if counts.dead_letters <= MAX_DEAD_LETTER_NOTES {
                    let IssuedCoupon { user_id, coupon, .. } = &record.issued;
                    notes.push(format!("dead letter ({reason}): user {user_id}, coupon {coupon}"));
                }
                letters.push(record.issued);
            }
        }
        let more = comparison.counts.dead_letters.saturating_sub(MAX_DEAD_LETTER_NOTES);
        if more > 0 {
            notes.push(format!("and {more} more dead letters"));
        }
        Ok(letters)
    }

    /// Reads the queue and the issued coupons. None: Redis does not have the event.
    pub(crate) async fn read_redis(
        &self,
        event: &StoredEvent,
        comparison: &mut Comparison,
    ) -> Result<Option<RedisEvent>, AuditError> {
        let Some(before) = self.observe(&event.name, event.uid).await? else { return Ok(None) };
        let visit = |item| match item {
            Ok((coupon, discount)) => comparison.add_available(coupon, discount),
            Err(undecodable) => comparison.add_undecodable(undecodable),
        };
        self.redis_store.each_available(&event.name, visit).await?;
        let visit = |entry| match entry {
            Ok(IssuedEntry { issued, status }) => comparison.add_issued(issued, status),
            Err(undecodable) => comparison.add_undecodable(undecodable),
        };
        self.redis_store.each_issued(&event.name, visit).await?;
        // The event may have been replaced or retired in between.
        let after = self.observe(&event.name, event.uid).await?;
        Ok(after.map(|after| if after.retired.is_some() { after } else { before }))
    }

    /// The event in Redis, if it has this uid.
    pub(crate) async fn observe(&self, name: &EventName, uid: Uuid) -> Result<Option<RedisEvent>, AuditError> {
        Ok(self.redis_store.observe(name).await?.filter(|observed| observed.uid == uid))
    }

    /// The uid of the event with this name in Redis.
    pub(crate) async fn uid_in_redis(&self, name: &EventName) -> Result<Option<Uuid>, AuditError> {
        Ok(self.redis_store.observe(name).await?.map(|observed| observed.uid))
    }

    /// How many messages the consumers have not recorded yet.
    pub(crate) async fn lag(&self) -> Result<u64, AuditError> {
        match LagClient::new(&self.kafka, &self.consumer_group().await?)?.measure(KAFKA_TIMEOUT).await {
            Err(KafkaError::TopicNotFound(_)) => Ok(0),
            measured => Ok(measured?),
        }
    }
}

fn decode(message: &Message) -> Result<IssuedRecord, RecordDecodeError> {
    IssuedRecord::decode(message.version(), &message.payload)
}
