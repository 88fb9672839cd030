//! Settling issued coupons: applying the decision of the database.

use std::collections::HashMap;

use couponry_domain::{EventName, IssuedCoupon, UserId, Uuid, code::CouponCode};

use crate::{
    error::RedisStoreError,
    fenced_write::FencedWrite,
    issued_entry::{IssuedEntry, IssuedStatus},
    redis_store::RedisStore,
};

/// Maximum number of settlements per script call; [`RedisStore::settle`] splits longer batches. The script accepts
/// 1,500, but Redis serves no other client meanwhile: issue requests would be delayed by about ten milliseconds.
pub const MAX_SETTLEMENTS: usize = 100;

/// The decision about one issued coupon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// The user to whom the coupon was issued.
    pub user: UserId,
    /// The coupon. The user's entry changes only while it is pending and has this coupon; to void it, it may also be
    /// completed.
    pub coupon: CouponCode,
    /// The decision.
    pub outcome: SettlementOutcome,
}

/// The decision of the database about an issued coupon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettlementOutcome {
    /// The coupon is recorded.
    Completed,
    /// The coupon is recorded and voided.
    Voided,
    /// The coupon can never be recorded.
    Cancelled {
        /// Whether the coupon has no holder and is put back into the queue.
        requeue: bool,
    },
    /// Another coupon is recorded for this user and replaces the one that was issued.
    Replaced {
        /// The recorded coupon.
        by: IssuedCoupon,
        /// Whether the coupon that was issued has no holder and is put back into the queue.
        requeue: bool,
    },
}

/// How many entries were changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Entries that are COMPLETED or VOIDED now, and were not before.
    pub marked_recorded: u64,
    /// Entries that are VOIDED now, and were not before.
    pub voided: u64,
    /// Entries that are CANCEL now.
    pub cancelled: u64,
    /// Coupons that were put back into the queue.
    pub requeued: u64,
}

/// Separates coupons that are completed, nearly all of them, from other settlements. A user who occurs more than once
/// is among the others, which the script applies one after the other.
fn partition(settlements: &[Settlement]) -> (Vec<&Settlement>, Vec<&Settlement>) {
    let mut counts: HashMap<&UserId, u32> = HashMap::with_capacity(settlements.len());
    for settlement in settlements {
        *counts.entry(&settlement.user).or_default() += 1;
    }
    settlements.iter().partition(|it| it.outcome == SettlementOutcome::Completed && counts[&it.user] == 1)
}

impl RedisStore {
    /// Applies settlements. Idempotent.
    pub async fn settle(
        &self,
        event: &EventName,
        uid: Uuid,
        settlements: &[Settlement],
    ) -> Result<FencedWrite<Settled>, RedisStoreError> {
        let mut sum = Settled::default();
        for chunk in settlements.chunks(MAX_SETTLEMENTS) {
            let keys = self.keys(event);
            let mut call = (self.scripts.settle).key(keys.meta).key(keys.queue).key(keys.issued).arg(uid.to_string());
            let (completed, others) = partition(chunk);
            call.push(completed.len());
            for Settlement { user, coupon, .. } in completed {
                call.push((user.as_str(), coupon.as_str()));
            }
            for Settlement { user, coupon, outcome } in others {
                let (status, requeue, entry) = match outcome {
                    SettlementOutcome::Completed => ("COMPLETED", false, String::new()),
                    SettlementOutcome::Voided => ("VOIDED", false, String::new()),
                    SettlementOutcome::Cancelled { requeue } => ("CANCEL", *requeue, String::new()),
                    SettlementOutcome::Replaced { by, requeue } => {
                        let entry = IssuedEntry { issued: by.clone(), status: IssuedStatus::Completed };
                        ("REPLACE", *requeue, entry.to_value())
                    }
                };
                call.push((user.as_str(), coupon.as_str(), status, u8::from(requeue), entry));
            }
            let counts: Option<(u64, u64, u64, u64)> = call
                .invoke_async(&mut self.connection())
                .await
                .map_err(self.failed("cannot settle issued coupons in Redis"))?;
            let Some((marked_recorded, cancelled, requeued, voided)) = counts else { return Ok(FencedWrite::Stale) };
            sum.marked_recorded += marked_recorded;
            sum.cancelled += cancelled;
            sum.requeued += requeued;
            sum.voided += voided;
        }
        Ok(FencedWrite::Applied(sum))
    }
}
