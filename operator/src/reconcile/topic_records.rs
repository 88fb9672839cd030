//! Records issuances that only the topic has, after Postgres and Redis have lost them.
//!
//! # Guarantees
//! Only free users and coupons are recorded, and only under the record cutoff that the caller has read
//! ([`couponry_postgres::Database::record_again`]).
//!
//! # Assumptions
//! Redis issues no coupon of the event meanwhile, and all holders in Redis are recorded
//! ([`crate::reconcile::stranded_issuances`]): otherwise a coupon that is free in Postgres may belong to another user.
//!
//! # Caveats
//! Dead letters are left out, because Postgres has rejected them. `couponry-operator replay-dead-letters` sends them
//! again. The dead letters of the event are kept in memory.

use std::collections::{HashMap, HashSet};

use couponry_domain::{IssuedCoupon, IssuedRecord, UserId, Uuid, code::CouponCode};
use couponry_kafka::{KafkaError, KafkaSettings, TopicReader};
use couponry_postgres::{Database, StoredEvent};

use crate::reconcile::{error::ReconcileError, stranded_issuances::StrandedOutcome};

/// How many records are compared with Postgres at a time.
const CHUNK: usize = 1000;

/// Reads the complete topic. None: a recovery of Redis has started meanwhile.
pub(crate) async fn record_issuances_from_topic(
    stored: &StoredEvent,
    database: &Database,
    kafka: &KafkaSettings,
) -> Result<Option<StrandedOutcome>, ReconcileError> {
    let mut rejected = HashSet::new();
    let dead_letters = KafkaSettings { topic: kafka.dead_letter_topic(), ..kafka.clone() };
    let mut reader = RecordReader::start(&dead_letters, stored.uid);
    while let Some(issued) = reader.next().await? {
        rejected.insert(issued);
    }
    let mut outcome = StrandedOutcome::default();
    let mut reader = RecordReader::start(kafka, stored.uid);
    let mut chunk = Vec::with_capacity(CHUNK);
    loop {
        let next = reader.next().await?;
        let is_last = next.is_none();
        chunk.extend(next.filter(|issued| !rejected.contains(issued)));
        if chunk.len() == CHUNK || is_last {
            let Some(done) = record(stored, database, std::mem::take(&mut chunk)).await? else { return Ok(None) };
            outcome.recorded += done.recorded;
            outcome.conflicting += done.conflicting;
        }
        if is_last {
            return Ok(Some(outcome));
        }
    }
}

async fn record(
    stored: &StoredEvent,
    database: &Database,
    chunk: Vec<IssuedCoupon>,
) -> Result<Option<StrandedOutcome>, ReconcileError> {
    let users: Vec<UserId> = chunk.iter().map(|issued| issued.user_id.clone()).collect();
    let recorded = database.find_issuances(stored.uid, &users, &[]).await?;
    let recorded: HashMap<UserId, CouponCode> =
        recorded.into_iter().map(|found| (found.issued.user_id, found.issued.coupon)).collect();
    let is_recorded = |issued: &IssuedCoupon| recorded.get(&issued.user_id) == Some(&issued.coupon);
    let missing: HashSet<IssuedCoupon> = chunk.into_iter().filter(|issued| !is_recorded(issued)).collect();
    if missing.is_empty() {
        return Ok(Some(StrandedOutcome::default()));
    }
    let missing: Vec<IssuedCoupon> = missing.into_iter().collect();
    let Some(users) = database.record_again(stored, &missing).await? else { return Ok(None) };
    let (recorded, all) = (users.len() as u64, missing.len() as u64);
    Ok(Some(StrandedOutcome { recorded, conflicting: all.saturating_sub(recorded), ..StrandedOutcome::default() }))
}

/// The records of one event in a topic. A topic that does not exist has none.
struct RecordReader {
    reader: TopicReader,
    uid: Uuid,
}

impl RecordReader {
    fn start(topic: &KafkaSettings, uid: Uuid) -> Self {
        Self { reader: TopicReader::start(topic), uid }
    }

    async fn next(&mut self) -> Result<Option<IssuedCoupon>, ReconcileError> {
        loop {
            let message = match self.reader.next().await {
                Ok(Some(message)) => message,
                Ok(None) | Err(KafkaError::TopicNotFound(_)) => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            if let Ok(record) = IssuedRecord::decode(message.version(), &message.payload)
                && record.event_uid == self.uid
            {
                return Ok(Some(record.issued));
            }
        }
    }
}
