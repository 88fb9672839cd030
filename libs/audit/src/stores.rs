//! Reading the stores.

use std::time::Duration;

use couponry_domain::{Coupon, EventName, IssuedRecord, Uuid};
use couponry_kafka::{History, JournalError, KafkaSettings, Lag, Message};
use couponry_postgres::{Database, DatabaseError, StoredEvent};
use couponry_redis::{Observed, Stock, StockError};
use futures::TryStreamExt as _;

use crate::{Difference, Held, Report, Verdict, comparison::Comparison, second_look::SecondLook};

/// How long Kafka may take to say how far the consumers are.
const LAG_TIMEOUT: Duration = Duration::from_secs(10);

/// How many dead letters are quoted.
const LETTERS: u64 = 10;

/// The stores of an installation.
#[derive(Clone)]
pub struct Stores {
    /// Redis.
    pub stock: Stock,
    /// Postgres.
    pub database: Database,
    /// Kafka.
    pub kafka: KafkaSettings,
    /// The consumer group that brings the records into Postgres.
    pub group: String,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// Postgres.
    #[error("Postgres: {0}")]
    Database(#[from] DatabaseError),
    /// Redis.
    #[error("Redis: {0}")]
    Stock(#[from] StockError),
    /// Kafka.
    #[error("Kafka: {0}")]
    Journal(#[from] JournalError),
    /// Nothing to compare.
    #[error("Postgres has no event {name} with the uid {uid}{}", listed(others))]
    UnknownEvent {
        /// Its name.
        name: EventName,
        /// Its uid.
        uid: Uuid,
        /// The events of this name that Postgres has.
        others: Vec<Uuid>,
    },
}

fn listed(uids: &[Uuid]) -> String {
    if uids.is_empty() {
        return String::new();
    }
    let uids: Vec<String> = uids.iter().map(Uuid::to_string).collect();
    format!("; of this name it has {}", uids.join(", "))
}

impl Stores {
    /// Compares what the stores hold of this event. What is on its way is looked at again for up to `patience`.
    pub async fn audit(&self, name: &EventName, uid: Uuid, patience: Duration) -> Result<Report, AuditError> {
        let Some(event) = self.database.event(uid).await? else {
            let others = self.database.uids_of(name).await?;
            return Err(AuditError::UnknownEvent { name: name.clone(), uid, others });
        };
        let mut notes = Vec::new();
        let mut comparison = Comparison::default();
        self.read_postgres(&event, &mut comparison).await?;
        let dead_letters = self.read_kafka(uid, &mut comparison, &mut notes).await?;
        let observed = self.read_redis(&event, &mut comparison).await?;
        match &observed {
            Some(observed) if observed.retired.is_some() => {
                let counts = &mut comparison.counts;
                (counts.retired, counts.available, counts.held) = (true, observed.available, observed.issued);
                notes.push("the coupons have left Redis, since the event is over".to_owned());
            }
            None if event.opened_at.is_some() => {
                comparison.differences.add(Difference::OtherEvent { redis: self.uid_in_redis(name).await? });
            }
            None => notes.push("the event is not in Redis yet: its coupons are not loaded".to_owned()),
            Some(_) => {}
        }
        let observed = observed.filter(|observed| observed.retired.is_none());
        let second_look = SecondLook { stores: self, name, uid, observed, dead_letters, comparison };
        let (mut comparison, in_flight) = second_look.look(patience).await?;
        if !comparison.counts.topic_is_whole {
            notes.push("Kafka no longer has every record of the topic, so nothing is missed there".to_owned());
        }
        if comparison.counts.voided > 0 {
            let voided = comparison.counts.voided;
            notes.push(format!("{voided} users were told of a coupon that could not be recorded (CANCEL)"));
        }
        let unchecked = comparison.suspects.unchecked;
        let differences = std::mem::take(&mut comparison.differences);
        Ok(Report {
            event: name.clone(),
            uid,
            verdict: Verdict::of(&differences, unchecked),
            counts: comparison.counts,
            in_flight,
            differences,
            unchecked,
            notes,
        })
    }

    async fn read_postgres(&self, event: &StoredEvent, comparison: &mut Comparison) -> Result<(), AuditError> {
        let mut coupons = self.database.stock(event.uid);
        while let Some(Coupon { ordinal: _, code, discount }) = coupons.try_next().await? {
            comparison.stocked(&readable(&code)?, discount);
        }
        comparison.stock_ends();
        let mut issuances = self.database.issuances(event.uid);
        while let Some(issuance) = issuances.try_next().await? {
            comparison.recorded(&issuance.into());
        }
        comparison.record_ends();
        let (wanted, found) = (event.stock_len(), comparison.counts.stocked);
        if wanted != found {
            // Coupons that were added since the event was read are both in the stock and in the event.
            let wanted = self.database.event(event.uid).await?.map_or(0, |event| event.stock_len());
            if wanted < found || wanted == event.stock_len() {
                comparison.differences.add(Difference::StockSize { wanted, found });
            }
        }
        Ok(())
    }

    /// Returns what the dead letters of the event are about.
    async fn read_kafka(
        &self,
        uid: Uuid,
        comparison: &mut Comparison,
        notes: &mut Vec<String>,
    ) -> Result<Vec<Held>, AuditError> {
        let mut history = History::read(&self.kafka);
        loop {
            match history.next().await {
                Ok(Some(message)) => match decode(&message) {
                    Ok(record) if record.event_uid == uid => comparison.sent(record.into()),
                    Ok(_) => {}
                    Err(_) => comparison.counts.unreadable += 1,
                },
                Ok(None) => break,
                Err(JournalError::NoTopic(topic)) => {
                    notes.push(format!("Kafka has no topic {topic}"));
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        comparison.counts.topic_is_whole = history.was_whole().await;

        let mut letters = Vec::new();
        let mut history = History::read(&KafkaSettings { topic: self.kafka.dead_letter_topic(), ..self.kafka.clone() });
        loop {
            let message = match history.next().await {
                Ok(Some(message)) => message,
                Ok(None) | Err(JournalError::NoTopic(_)) => break,
                Err(error) => return Err(error.into()),
            };
            // What no one can read is of no event.
            let Ok(record) = decode(&message) else { continue };
            if record.event_uid == uid {
                let counts = &mut comparison.counts;
                counts.dead_letters += 1;
                let reason = message.header("reason").map_or_else(|| "no reason".into(), String::from_utf8_lossy);
                if counts.dead_letters <= LETTERS {
                    notes.push(format!("dead letter ({reason}): {} and coupon {}", record.user_id, record.coupon));
                }
                letters.push(record.into());
            }
        }
        let more = comparison.counts.dead_letters.saturating_sub(LETTERS);
        if more > 0 {
            notes.push(format!("and {more} more dead letters"));
        }
        Ok(letters)
    }

    /// None: Redis does not have the event.
    async fn read_redis(
        &self,
        event: &StoredEvent,
        comparison: &mut Comparison,
    ) -> Result<Option<Observed>, AuditError> {
        let Some(observed) = self.observe(&event.name, event.uid).await? else { return Ok(None) };
        self.stock.each_queued(&event.name, |coupon, discount| comparison.available(coupon, discount)).await?;
        self.stock
            .each_issued(&event.name, |user, holding| comparison.issued(Held::by(user, &holding), holding.status))
            .await?;
        // The name may have changed hands in between, or the coupons have left.
        let after = self.observe(&event.name, event.uid).await?;
        Ok(after.map(|after| if after.retired.is_some() { after } else { observed }))
    }

    /// The event as Redis has it, if it is this one.
    pub(crate) async fn observe(&self, name: &EventName, uid: Uuid) -> Result<Option<Observed>, AuditError> {
        Ok(self.stock.observe(name).await?.filter(|observed| observed.uid == uid))
    }

    async fn uid_in_redis(&self, name: &EventName) -> Result<Option<Uuid>, AuditError> {
        Ok(self.stock.observe(name).await?.map(|observed| observed.uid))
    }

    /// How many messages the consumers have not recorded yet.
    pub(crate) async fn lag(&self) -> Result<u64, AuditError> {
        match Lag::new(&self.kafka, &self.group)?.measure(LAG_TIMEOUT).await {
            Err(JournalError::NoTopic(_)) => Ok(0),
            measured => Ok(measured?),
        }
    }
}

pub(crate) fn readable(code: &str) -> Result<couponry_domain::code::CouponCode, DatabaseError> {
    code.parse().map_err(|error| DatabaseError::Corrupt {
        operation: couponry_postgres::Operation::ReadCoupons,
        what: format!("the coupon {code:?}: {error}"),
    })
}

fn decode(message: &Message) -> Result<IssuedRecord, couponry_domain::record::UnreadableRecord> {
    IssuedRecord::decode(message.version(), &message.payload)
}
