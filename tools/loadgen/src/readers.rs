//! Fetches the checker's evidence from the real stores.

use std::time::Duration;

use anyhow::{Context, Result};
use couponry_domain::{Coupon, EventName, IssuedRecord, Uuid};
use couponry_kafka::{JournalError, Message};
use couponry_postgres::Database;
use couponry_redis::Stock;
use couponry_settings::{KafkaSettings, PostgresSettings, RedisSettings};
use futures::TryStreamExt as _;
use tokio::time::Instant;

use crate::checker::{Holding, KafkaSide, PostgresSide, RedisSide, Status};

/// How many coupons are read from Postgres at a time.
const PAGE: u32 = 20_000;
/// How often the consumers' progress is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// The stores of an installation.
pub struct Stores {
    stock: Stock,
    database: Database,
    kafka: KafkaSettings,
}

/// How far the way from Redis to Postgres is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// How many coupons Redis has given.
    pub issued: u64,
    /// How many of them Postgres has.
    pub recorded: u64,
    /// How many of them Redis knows to be recorded.
    pub completed: u64,
    /// How many batches are not yet known to be in Kafka.
    pub outbox: u64,
    /// Whether this Redis is known to be whole: it is not while it is restored.
    pub is_verified: bool,
}

impl Backlog {
    /// Whether everything has arrived.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.is_verified && self.recorded == self.issued && self.completed == self.issued && self.outbox == 0
    }
}

impl Stores {
    /// The stores with these settings. Connects with the first call.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn connect(redis: &RedisSettings, postgres: &PostgresSettings, kafka: KafkaSettings) -> Result<Self> {
        kafka.check()?;
        Ok(Self { stock: Stock::open(redis)?, database: Database::open(postgres)?, kafka })
    }

    /// The uid of the event, as Redis knows it.
    pub async fn uid(&self, event: &EventName) -> Result<Uuid> {
        let observed = self.stock.observe(event).await?;
        Ok(observed.with_context(|| format!("Redis knows no event {event}"))?.uid)
    }

    /// How far everything is.
    pub async fn backlog(&self, event: &EventName) -> Result<Backlog> {
        let observed = self.stock.observe(event).await?;
        let observed = observed.with_context(|| format!("Redis knows no event {event}"))?;
        let recorded = self.database.issued_count(observed.uid).await?;
        let couponry_redis::Observed { issued, completed, outbox, is_verified, .. } = observed;
        Ok(Backlog { issued, recorded, completed, outbox, is_verified })
    }

    /// Waits until everything has arrived or the time is over, and says how far it came.
    pub async fn caught_up(&self, event: &EventName, wait: Duration, mut seen: impl FnMut(Backlog)) -> Result<Backlog> {
        let until = Instant::now() + wait;
        loop {
            let backlog = self.backlog(event).await?;
            seen(backlog);
            if backlog.is_empty() || Instant::now() >= until {
                return Ok(backlog);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// What Redis holds of the event.
    pub async fn redis(&self, event: &EventName) -> Result<RedisSide> {
        let observed = self.stock.observe(event).await?;
        let observed = observed.with_context(|| format!("Redis knows no event {event}"))?;
        let queue = self.stock.scan_queue(event).await?;
        let issued = self.stock.scan_issued(event).await?;
        let issued = issued.into_iter().map(|(user, entry)| {
            let couponry_redis::Holding { coupon, discount, issued_at, status } = entry;
            let status = match status {
                couponry_redis::Status::Pending => Status::Pending,
                couponry_redis::Status::Completed => Status::Completed,
                couponry_redis::Status::Cancelled => Status::Cancelled,
            };
            (Holding { user, coupon, discount, issued_at }, status)
        });
        Ok(RedisSide { queue, issued: issued.collect(), outbox: observed.outbox, window: observed.window })
    }

    /// What Kafka holds of the event with this uid. What cannot be read is of no event, so of each.
    pub async fn kafka(&self, uid: Uuid) -> Result<KafkaSide> {
        let mut side = KafkaSide::default();
        for message in couponry_kafka::read_all(&self.kafka).await? {
            match decode(&message) {
                Ok(record) if record.event_uid == uid => side.records.push(holding(record)),
                Ok(_) => {}
                Err(why) => side.unreadable.push(format!("{}: {why}", place(&message))),
            }
        }
        let dead_letters = KafkaSettings { topic: self.kafka.dead_letter_topic(), ..self.kafka.clone() };
        let dead_letters = match couponry_kafka::read_all(&dead_letters).await {
            Err(JournalError::NoTopic(_)) => Vec::new(),
            other => other?,
        };
        // An unreadable dead letter is on the topic as well.
        let ours = |message: &Message| decode(message).is_ok_and(|record| record.event_uid == uid);
        side.dead_letters = dead_letters.iter().filter(|message| ours(message)).map(describe).collect();
        Ok(side)
    }

    /// What Postgres holds of the event with this uid.
    pub async fn postgres(&self, uid: Uuid) -> Result<PostgresSide> {
        let mut coupons: Vec<Coupon> = Vec::new();
        loop {
            let from = coupons.last().map_or(0, |last| last.ordinal + 1);
            let page = self.database.coupons(uid, from, PAGE).await?;
            if page.is_empty() {
                break;
            }
            coupons.extend(page);
        }
        let read = |Coupon { code, discount, .. }: Coupon| {
            Ok((code.parse().with_context(|| format!("Postgres has the coupon {code:?}"))?, discount))
        };
        let coupons = coupons.into_iter().map(read).collect::<Result<_>>()?;
        let issuances = self.database.issuances(uid).map_ok(|issuance| {
            let couponry_postgres::Issuance { user_id: user, coupon, discount, issued_at, recorded_at: _ } = issuance;
            Holding { user, coupon, discount, issued_at }
        });
        Ok(PostgresSide { coupons, issuances: issuances.try_collect().await? })
    }
}

fn decode(message: &Message) -> Result<IssuedRecord, couponry_domain::record::UnreadableRecord> {
    IssuedRecord::decode(message.version(), &message.payload)
}

fn holding(record: IssuedRecord) -> Holding {
    let IssuedRecord { event_id: _, event_uid: _, user_id: user, coupon, discount, issued_at } = record;
    Holding { user, coupon, discount, issued_at }
}

fn place(message: &Message) -> String {
    format!("partition {} offset {}", message.partition, message.offset)
}

fn describe(message: &Message) -> String {
    let reason = message.header("reason").map_or_else(|| "no reason".into(), String::from_utf8_lossy);
    format!("{} ({reason}): {}", place(message), String::from_utf8_lossy(&message.payload))
}
