//! Issuing: one atomic step for a batch of users.

use std::collections::HashMap;

use couponry_domain::{Acknowledge, EventName, IssuedCoupon, IssuedRecord, UserId, Uuid, Validity};

use crate::{
    error::{RedisStoreError, invalid_value},
    issued_entry::{IssuedEntry, IssuedStatus, parse_installation, parse_item, parse_uid, parse_validity},
    outbox::{OutboxEntry, OutboxId},
    redis_store::RedisStore,
};

/// Maximum number of users per call: Lua puts at most about 8,000 values on its stack, and each user takes two.
pub const MAX_BATCH: usize = 3000;

/// The outcome for one user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IssueOutcome {
    /// This call issued the coupon.
    Issued(IssuedCoupon),
    /// The user already has a coupon of the event.
    Duplicate(IssuedEntry),
    /// The coupon of the user was voided.
    Voided,
    /// No coupon is available.
    SoldOut {
        /// When the next coupons become available (milliseconds since the Unix epoch). None: none are held back.
        next_drop_at: Option<i64>,
    },
    /// Coupons are available, but the user is not admitted yet.
    Wait {
        /// When the user is (milliseconds since the Unix epoch, by the clock of Redis).
        admitted_at: i64,
    },
    /// The window has not begun, or the event is still loading.
    NotStarted,
    /// The window is over, or the event was closed.
    Ended,
    /// The event is paused.
    Paused,
    /// This Redis has restarted or was replaced, and is not verified yet. A retry returns the outcome.
    Unverified,
    /// The user's entry, or the coupon that this call took from the queue, is not of the form that this version writes.
    /// Other users are not affected.
    Undecodable,
}

/// The result of a call.
#[derive(Debug)]
pub struct IssueReply {
    /// The event.
    pub event_uid: Uuid,
    /// The installation of the event, if it is known.
    pub installation: Option<Uuid>,
    /// When an issued coupon may be returned to its user.
    pub acknowledge: Acknowledge,
    /// How long the coupons are valid. None: unlimited.
    pub validity: Option<Validity>,
    /// From when on the coupons that this call issued are not valid any more. None: unlimited.
    pub valid_until: Option<i64>,
    /// One outcome for each user, in the order of the call.
    pub outcomes: Vec<IssueOutcome>,
    /// The records to send to Kafka, if any coupon was issued.
    pub outbox: Option<OutboxEntry>,
}

type RawReply = (
    String,
    String,
    i64,
    String,
    Vec<Option<Vec<u8>>>,
    Vec<Vec<u8>>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
    Vec<Option<i64>>,
    Option<i64>,
);

impl RedisStore {
    /// Checks that Redis, or each master of a cluster, accepts writes.
    pub async fn check_writes(&self) -> Result<(), RedisStoreError> {
        let checked = self.query_masters::<()>(&self.scripts.check_issuing.without_keys()).await;
        checked.map(drop).map_err(self.failed("cannot write to Redis"))
    }

    /// Issues one coupon to each of `users`. If a user is named twice, the second outcome is a duplicate.
    ///
    /// Returns None if Redis does not have the event.
    ///
    /// # Errors
    /// After an error the outcome is unknown: coupons may have been issued, and are in the outbox then. A retry
    /// returns them.
    ///
    /// # Panics
    /// With more than [`MAX_BATCH`] users.
    pub async fn issue(&self, event: &EventName, users: &[UserId]) -> Result<Option<IssueReply>, RedisStoreError> {
        const OPERATION: &str = "cannot issue coupons in Redis";
        assert!(users.len() <= MAX_BATCH, "{} users in one batch", users.len());
        let mut distinct: Vec<&UserId> = Vec::with_capacity(users.len());
        let mut positions = HashMap::with_capacity(users.len());
        for user in users {
            positions.entry(user).or_insert_with(|| {
                distinct.push(user);
                distinct.len() - 1
            });
        }

        let keys = self.keys(event);
        let mut call = self.scripts.issue.key(keys.meta).key(keys.queue).key(keys.issued).key(keys.outbox);
        for user in &distinct {
            call.push(user.as_str());
        }
        let reply: Option<RawReply> =
            call.invoke_async(&mut self.connection()).await.map_err(self.failed(OPERATION))?;
        let Some(reply) = reply else { return Ok(None) };
        let (state, uid, issued_at, acknowledge, mut entries, items, outbox_id, incarnation, installation, ..) = reply;
        let (.., validity, mut waits, next_drop_at) = reply;

        if outbox_id.is_some() {
            // Best effort: the sweeper also finds entries of events that are not marked. The reply does not wait for
            // it.
            let (redis_store, event) = (self.clone(), event.clone());
            tokio::spawn(async move { redis_store.mark_active(&event).await });
        }
        let event_uid = parse_uid(OPERATION, &uid)?;
        let installation = parse_installation(installation);
        let validity = parse_validity(OPERATION, validity.as_deref())?;
        let valid_until = validity.as_ref().map(|validity| validity.valid_until(issued_at));
        let without_coupon = match state.as_str() {
            "OPEN" => IssueOutcome::SoldOut { next_drop_at },
            "NOT_STARTED" => IssueOutcome::NotStarted,
            "ENDED" => IssueOutcome::Ended,
            "PAUSED" => IssueOutcome::Paused,
            "UNVERIFIED" => IssueOutcome::Unverified,
            other => return Err(invalid_value(OPERATION, other)),
        };
        entries.resize(distinct.len(), None);
        waits.resize(distinct.len(), None);
        let (issued_count, mut items) = (items.len(), items.iter());
        let mut records = Vec::with_capacity(issued_count);
        let mut outcomes = Vec::with_capacity(distinct.len());
        for ((&user, entry), admitted_at) in distinct.iter().zip(&entries).zip(waits) {
            outcomes.push(if let Some(entry) = entry {
                match IssuedEntry::from_bytes(user.clone(), entry) {
                    Some(IssuedEntry { status: IssuedStatus::Voided, .. }) => IssueOutcome::Voided,
                    Some(entry) => IssueOutcome::Duplicate(entry),
                    None => IssueOutcome::Undecodable,
                }
            } else if let Some(admitted_at) = admitted_at {
                IssueOutcome::Wait { admitted_at }
            } else if let Some(item) = items.next() {
                parse_item(item).map_or(IssueOutcome::Undecodable, |(coupon, discount)| {
                    let issued = IssuedCoupon { user_id: user.clone(), coupon, discount, issued_at };
                    records.push(IssuedRecord {
                        event_id: event.clone(),
                        event_uid,
                        issued: issued.clone(),
                        valid_until,
                    });
                    IssueOutcome::Issued(issued)
                })
            } else {
                without_coupon.clone()
            });
        }

        if distinct.len() < users.len() {
            let mut is_repeated = vec![false; distinct.len()];
            outcomes = users
                .iter()
                .map(|user| {
                    let position = positions[user];
                    match &outcomes[position] {
                        IssueOutcome::Issued(issued) if std::mem::replace(&mut is_repeated[position], true) => {
                            let issued = issued.clone();
                            IssueOutcome::Duplicate(IssuedEntry { issued, status: IssuedStatus::Pending })
                        }
                        outcome => outcome.clone(),
                    }
                })
                .collect();
        }
        Ok(Some(IssueReply {
            event_uid,
            installation,
            acknowledge: Acknowledge::from_name(&acknowledge).ok_or_else(|| invalid_value(OPERATION, &acknowledge))?,
            validity,
            valid_until,
            outcomes,
            outbox: outbox_id
                .zip(incarnation)
                .map(|(id, incarnation)| OutboxId { id: id.into(), incarnation: incarnation.into() })
                .map(|id| OutboxEntry { id, installation, undecodable: issued_count - records.len(), records }),
        }))
    }
}
