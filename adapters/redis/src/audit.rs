//! Reading everything that Redis holds of an event, page by page, while it may be running.

use couponry_domain::{Discount, EventName, UserId, code::CouponCode};

use crate::{
    connection::{Stock, StockError, failed},
    holding::{Holding, parse_item, unreadable},
};

/// How many entries are read at a time: as many as keep Redis from its other work for about a millisecond.
const PAGE: isize = 2000;

impl Stock {
    /// Shows everyone who holds or held a coupon, in no order. Who is there from the beginning to the end of the call is
    /// shown, perhaps more than once; who comes meanwhile, perhaps not.
    pub async fn each_issued(&self, event: &EventName, mut show: impl FnMut(UserId, Holding)) -> Result<(), StockError> {
        const OPERATION: &str = "scan the issued coupons";
        let key = self.keys(event).issued;
        let mut cursor = 0;
        loop {
            let (next, page): (u64, Vec<(String, String)>) = redis::cmd("HSCAN")
                .arg(&key)
                .arg(cursor)
                .arg("COUNT")
                .arg(PAGE)
                .query_async(&mut self.connection())
                .await
                .map_err(failed(OPERATION))?;
            for (user, entry) in page {
                let holding = Holding::from_entry(OPERATION, &entry)?;
                show(user.try_into().map_err(|_| unreadable(OPERATION, &entry))?, holding);
            }
            if next == 0 {
                return Ok(());
            }
            cursor = next;
        }
    }

    /// Shows the coupons left to give, from the last to the first. Coupons that are given meanwhile leave at the other end: so
    /// whatever is available from the beginning to the end of the call is shown. Where coupons are added meanwhile, some are
    /// shown more than once.
    pub async fn each_queued(
        &self,
        event: &EventName,
        mut show: impl FnMut(CouponCode, Discount),
    ) -> Result<(), StockError> {
        const OPERATION: &str = "scan the queue";
        let key = self.keys(event).queue;
        let mut last = -1;
        loop {
            let page: Vec<String> = redis::cmd("LRANGE")
                .arg(&key)
                .arg(last - PAGE + 1)
                .arg(last)
                .query_async(&mut self.connection())
                .await
                .map_err(failed(OPERATION))?;
            if page.is_empty() {
                return Ok(());
            }
            for item in page.iter().rev() {
                let (coupon, discount) = parse_item(item).ok_or_else(|| unreadable(OPERATION, item))?;
                show(coupon, discount);
            }
            last -= PAGE;
        }
    }

    /// What these users hold or held now, in their order.
    pub async fn holdings_of(&self, event: &EventName, users: &[UserId]) -> Result<Vec<Option<Holding>>, StockError> {
        const OPERATION: &str = "look up users";
        let key = self.keys(event).issued;
        let mut all = Vec::with_capacity(users.len());
        for page in users.chunks(PAGE.unsigned_abs()) {
            let mut ask = redis::cmd("HMGET");
            ask.arg(&key);
            for user in page {
                ask.arg(user.as_str());
            }
            let entries: Vec<Option<String>> =
                ask.query_async(&mut self.connection()).await.map_err(failed(OPERATION))?;
            for entry in entries {
                all.push(entry.map(|entry| Holding::from_entry(OPERATION, &entry)).transpose()?);
            }
        }
        Ok(all)
    }
}
