//! What became of issued coupons in the database.

use couponry_domain::{EventName, UserId, Uuid, code::CouponCode};

use crate::{
    connection::{Stock, StockError, failed},
    holding::{Holding, Status},
    load::Loaded,
};

/// How many settlements go into one call of the script; [`Stock::settle`] cuts longer batches. The script could take 1,500, but
/// Redis does nothing else meanwhile: users would wait for some ten milliseconds.
pub const MAX_SETTLEMENTS: usize = 100;

/// What became of one issued coupon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// Who was told of it.
    pub user: UserId,
    /// Which coupon. The user's entry is only changed while it is pending with this coupon.
    pub coupon: CouponCode,
    /// What became of it.
    pub outcome: SettlementOutcome,
}

/// How an issued coupon ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettlementOutcome {
    /// The database has it.
    Completed,
    /// It can never be recorded.
    Cancelled {
        /// Whether nobody holds the coupon, so that it can be given to someone else.
        return_to_stock: bool,
    },
    /// The database has another coupon for this user, and that one counts.
    Replaced {
        /// What the database has.
        by: Holding,
        /// Whether nobody holds the coupon that was issued, so that it can be given to someone else.
        return_to_stock: bool,
    },
}

/// How many entries were changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Now COMPLETED.
    pub completed: u64,
    /// Now CANCEL.
    pub cancelled: u64,
    /// Coupons put back into the stock.
    pub returned: u64,
}

impl Stock {
    /// Writes what became of issued coupons. Repeating a call changes nothing more.
    pub async fn settle(
        &self,
        event: &EventName,
        uid: Uuid,
        settlements: &[Settlement],
    ) -> Result<Loaded<Settled>, StockError> {
        let mut sum = Settled::default();
        for chunk in settlements.chunks(MAX_SETTLEMENTS) {
            let keys = self.keys(event);
            let mut call = (self.scripts.settle).key(keys.meta).key(keys.queue).key(keys.issued).arg(uid.to_string());
            for Settlement { user, coupon, outcome } in chunk {
                let (status, give_back, entry) = match outcome {
                    SettlementOutcome::Completed => ("COMPLETED", false, String::new()),
                    SettlementOutcome::Cancelled { return_to_stock } => ("CANCEL", *return_to_stock, String::new()),
                    SettlementOutcome::Replaced { by, return_to_stock } => {
                        let by = Holding { status: Status::Completed, ..by.clone() };
                        ("REPLACE", *return_to_stock, by.to_entry())
                    }
                };
                call.push((user.as_str(), coupon.as_str(), status, u8::from(give_back), entry));
            }
            let settled: Option<(u64, u64, u64)> =
                call.invoke_async(&mut self.connection()).await.map_err(failed("settle issued coupons"))?;
            let Some((completed, cancelled, returned)) = settled else { return Ok(Loaded::OtherEvent) };
            sum.completed += completed;
            sum.cancelled += cancelled;
            sum.returned += returned;
        }
        Ok(Loaded::Here(sum))
    }
}
