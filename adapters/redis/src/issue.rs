//! The atomic step: one coupon to one user, for many users at once.

use std::collections::HashMap;

use couponry_domain::{EventName, UserId, Uuid};

use crate::{
    connection::{Stock, StockError, failed},
    holding::{Holding, parse_uid, unreadable},
    load::Acknowledge,
    outbox::OutboxEntry,
};

/// How many users one call may have: Lua puts at most about 8,000 values on its stack, and each user takes two.
pub const MAX_BATCH: usize = 3000;

/// What a user is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// This call gave the user a coupon.
    Issued(Holding),
    /// The user already holds one.
    Duplicate(Holding),
    /// The stock is used up.
    SoldOut,
    /// The window is not open yet.
    NotStarted,
    /// The window is over, or the event was closed.
    Ended,
    /// The event is held.
    Paused,
    /// Redis has restarted or changed, and it is not known yet whether it holds everything: ask again.
    Unverified,
}

/// What a call gave.
#[derive(Debug)]
pub struct IssueReply {
    /// Which event it was.
    pub event_uid: Uuid,
    /// When a user may be told of a coupon.
    pub acknowledge: Acknowledge,
    /// One outcome for each user, in the order of the call.
    pub outcomes: Vec<Outcome>,
    /// What must go to Kafka, when something was issued.
    pub outbox: Option<OutboxEntry>,
}

type RawReply = (String, String, i64, String, Vec<Option<String>>, Vec<String>, Option<String>);

impl Stock {
    /// Gives each of `users` the one coupon that they may have. A user who is named twice is given one coupon, and the second
    /// time told that it is a duplicate.
    ///
    /// None when Redis knows no such event.
    ///
    /// # Errors
    /// After an error the outcome is unknown: coupons may have been issued, and are then in the outbox. Asking again tells.
    ///
    /// # Panics
    /// With more than [`MAX_BATCH`] users.
    pub async fn issue(&self, event: &EventName, users: &[UserId]) -> Result<Option<IssueReply>, StockError> {
        const OPERATION: &str = "issue";
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
        let reply: Option<RawReply> = call.invoke_async(&mut self.connection()).await.map_err(failed(OPERATION))?;
        let Some((verdict, uid, now, acknowledge, mut entries, given, outbox_id)) = reply else { return Ok(None) };

        let event_uid = parse_uid(OPERATION, &uid)?;
        let without = match verdict.as_str() {
            "OPEN" => Outcome::SoldOut,
            "NOT_STARTED" => Outcome::NotStarted,
            "ENDED" => Outcome::Ended,
            "PAUSED" => Outcome::Paused,
            "UNVERIFIED" => Outcome::Unverified,
            other => return Err(unreadable(OPERATION, other)),
        };
        entries.resize(distinct.len(), None);
        let mut given = given.iter();
        let mut records = Vec::with_capacity(given.len());
        let mut outcomes = Vec::with_capacity(distinct.len());
        for (user, entry) in distinct.iter().zip(&entries) {
            outcomes.push(if let Some(entry) = entry {
                Outcome::Duplicate(Holding::from_entry(OPERATION, entry)?)
            } else if let Some(item) = given.next() {
                let holding = Holding::from_item(OPERATION, item, now)?;
                records.push(holding.record(event, event_uid, user));
                Outcome::Issued(holding)
            } else {
                without.clone()
            });
        }

        let mut told = vec![false; distinct.len()];
        let outcomes = users
            .iter()
            .map(|user| {
                let position = positions[user];
                match &outcomes[position] {
                    Outcome::Issued(holding) if std::mem::replace(&mut told[position], true) => {
                        Outcome::Duplicate(holding.clone())
                    }
                    outcome => outcome.clone(),
                }
            })
            .collect();
        Ok(Some(IssueReply {
            event_uid,
            acknowledge: Acknowledge::from_name(&acknowledge).ok_or_else(|| unreadable(OPERATION, &acknowledge))?,
            outcomes,
            outbox: outbox_id.map(|id| OutboxEntry { id, records }),
        }))
    }
}
