//! Reads the data of an event from Redis, Kafka and Postgres.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result};
use couponry_domain::{Coupon, EventName, IssuedRecord, Uuid};
use couponry_kafka::{DeadLetterProducer, KafkaError, Message};
use couponry_postgres::Database;
use couponry_redis::{IssuedStatus, RedisEvent, RedisStore};
use couponry_settings::{KafkaSettings, PostgresSettings, RedisSettings};
use futures::TryStreamExt as _;
use tokio::time::Instant;

use crate::checker::{DeadLetter, KafkaData, PostgresData, RedisData};

/// Number of coupons read from Postgres at once.
const PAGE: u32 = 20_000;
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// The stores of an installation.
pub struct Stores {
    redis_store: RedisStore,
    database: Database,
    kafka: KafkaSettings,
}

/// How far an event has moved from Redis to Postgres.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventCounts {
    /// Number of coupons issued by Redis.
    pub issued: u64,
    /// Number of issuances recorded in Postgres.
    pub recorded: u64,
    /// Number of issuances which Redis has marked as recorded.
    pub marked_recorded: u64,
    /// Number of outbox entries.
    pub outbox: u64,
    /// Whether Redis is verified: known to have lost nothing.
    pub is_verified: bool,
}

impl EventCounts {
    /// Whether everything is recorded.
    #[must_use]
    pub fn is_recorded(&self) -> bool {
        self.is_verified && self.recorded == self.issued && self.marked_recorded == self.issued && self.outbox == 0
    }
}

impl Stores {
    /// Connects on first use.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn connect(redis: &RedisSettings, postgres: &PostgresSettings, kafka: KafkaSettings) -> Result<Self> {
        kafka.check()?;
        Ok(Self { redis_store: RedisStore::open(redis)?, database: Database::open(postgres)?, kafka })
    }

    async fn observe(&self, event: &EventName) -> Result<RedisEvent> {
        self.redis_store.observe(event).await?.with_context(|| format!("Redis does not have the event {event}"))
    }

    /// The event's uid in Redis.
    pub async fn uid(&self, event: &EventName) -> Result<Uuid> {
        Ok(self.observe(event).await?.uid)
    }

    /// The event's counts.
    pub async fn counts(&self, event: &EventName) -> Result<EventCounts> {
        let observed = self.observe(event).await?;
        let recorded = self.database.recorded_count(observed.uid).await?;
        let RedisEvent { issued, marked_recorded, outbox, is_verified, .. } = observed;
        Ok(EventCounts { issued, recorded, marked_recorded, outbox, is_verified })
    }

    /// Polls the counts until everything is recorded or the timeout has passed, and returns the last one. A store that
    /// does not respond may do so at the next attempt.
    pub async fn wait_recorded(
        &self,
        event: &EventName,
        timeout: Duration,
        mut observe: impl FnMut(EventCounts),
    ) -> Result<EventCounts> {
        let deadline = Instant::now() + timeout;
        loop {
            let counts = self.counts(event).await;
            if let Ok(counts) = counts {
                observe(counts);
            }
            if counts.as_ref().is_ok_and(EventCounts::is_recorded) || Instant::now() >= deadline {
                return counts;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// The event's data in Redis.
    pub async fn redis(&self, event: &EventName) -> Result<RedisData> {
        let observed = self.observe(event).await?;
        let queue = self.redis_store.scan_queue(event).await?;
        let issued = self.redis_store.scan_issued(event).await?.into_values().collect();
        anyhow::ensure!(observed.damaged_release.is_none(), "damaged: {:?}", observed.damaged_release);
        let RedisEvent { outbox, window, release, admission_key, is_verified, .. } = observed;
        Ok(RedisData { queue, issued, outbox, window, release, admission_key, is_verified })
    }

    /// Waits until Redis has this number of voided coupons, or the timeout has passed, and returns its data.
    pub async fn wait_voided(&self, event: &EventName, voided: usize, timeout: Duration) -> Result<RedisData> {
        let deadline = Instant::now() + timeout;
        loop {
            let data = self.redis(event).await?;
            let found = data.issued.iter().filter(|entry| entry.status == IssuedStatus::Voided).count();
            if found == voided || Instant::now() >= deadline {
                return Ok(data);
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// The event's data in Kafka. Undecodable records may belong to any event, so all of them are included.
    pub async fn kafka(&self, uid: Uuid) -> Result<KafkaData> {
        let mut data = KafkaData::default();
        for message in couponry_kafka::read_all(&self.kafka).await? {
            match decode(&message) {
                Ok(record) if record.event_uid == uid => data.records.push(record.issued),
                Ok(_) => {}
                Err(error) => data.undecodable.push(format!("{}: {:#}", position(&message), anyhow::Error::new(error))),
            }
        }
        let dead_letters = KafkaSettings { topic: self.kafka.dead_letter_topic(), ..self.kafka.clone() };
        let dead_letters = match couponry_kafka::read_all(&dead_letters).await {
            Err(KafkaError::TopicNotFound(_)) => Vec::new(),
            other => other?,
        };
        // An undecodable dead-lettered record is on the topic as well.
        let of_event = |message: &Message| {
            let record = decode(message).ok().filter(|record| record.event_uid == uid)?;
            Some(DeadLetter { issued: record.issued, description: describe(message) })
        };
        data.dead_letters = dead_letters.iter().filter_map(of_event).collect();
        Ok(data)
    }

    /// The event's data in Postgres, without voids.
    pub async fn postgres(&self, uid: Uuid) -> Result<PostgresData> {
        let mut coupons: Vec<Coupon> = Vec::new();
        loop {
            let from = coupons.last().map_or(0, |last| last.ordinal + 1);
            let page = self.database.coupons(uid, from, PAGE).await?;
            if page.is_empty() {
                break;
            }
            coupons.extend(page);
        }
        let coupons = coupons.into_iter().map(|Coupon { code, discount, .. }| (code, discount)).collect();
        let issuances = self.database.stream_issuances(uid).map_ok(|issuance| issuance.issued);
        Ok(PostgresData { coupons, issuances: issuances.try_collect().await?, voided: BTreeSet::new() })
    }
}

fn decode(message: &Message) -> Result<IssuedRecord, couponry_domain::record::RecordDecodeError> {
    IssuedRecord::decode(message.version(), &message.payload)
}

fn position(message: &Message) -> String {
    format!("partition {} offset {}", message.partition, message.offset)
}

fn describe(message: &Message) -> String {
    let reason = DeadLetterProducer::reason(message);
    format!("{} ({reason}): {}", position(message), String::from_utf8_lossy(&message.payload))
}
