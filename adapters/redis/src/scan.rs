//! Reading all coupons of an event, page by page, also while it issues.

use std::collections::HashMap;

use couponry_domain::{Discount, EventName, UserId, code::CouponCode};

use crate::{
    error::{RedisStoreError, invalid_value},
    issued_entry::{IssuedEntry, parse_item},
    redis_store::RedisStore,
};

/// How many entries are read at a time: Redis needs about a millisecond for a page, in which it serves no other client.
const PAGE: isize = 2000;

impl RedisStore {
    /// Calls `visit` with every entry of `couponIssued`, in no particular order. Entries that exist during the entire
    /// call are visited at least once; entries that are added meanwhile may be missed.
    pub async fn each_issued(
        &self,
        event: &EventName,
        mut visit: impl FnMut(IssuedEntry),
    ) -> Result<(), RedisStoreError> {
        let mut cursor = Some(0);
        while let Some(at) = cursor {
            let (page, next) = self.issued_page(event, at).await?;
            page.into_iter().for_each(&mut visit);
            cursor = next;
        }
        Ok(())
    }

    /// Returns some entries of `couponIssued`, about 2000, and the cursor of the next ones. The first cursor is 0. Over
    /// all pages, an entry may be returned twice; see [`RedisStore::each_issued`].
    pub async fn issued_page(
        &self,
        event: &EventName,
        cursor: u64,
    ) -> Result<(Vec<IssuedEntry>, Option<u64>), RedisStoreError> {
        const OPERATION: &str = "cannot scan the issued coupons in Redis";
        let (next, page): (u64, Vec<(String, String)>) = redis::cmd("HSCAN")
            .arg(self.keys(event).issued)
            .arg(cursor)
            .arg("COUNT")
            .arg(PAGE)
            .query_async(&mut self.connection())
            .await
            .map_err(self.failed(OPERATION))?;
        let parse = |(user, entry): (String, String)| {
            let user_id = user.try_into().map_err(|_| invalid_value(OPERATION, &entry))?;
            IssuedEntry::parse(OPERATION, user_id, &entry)
        };
        Ok((page.into_iter().map(parse).collect::<Result<_, _>>()?, (next != 0).then_some(next)))
    }

    /// Returns every entry of `couponIssued`; see [`RedisStore::each_issued`].
    pub async fn scan_issued(&self, event: &EventName) -> Result<HashMap<UserId, IssuedEntry>, RedisStoreError> {
        let mut all = HashMap::new();
        self.each_issued(event, |entry| drop(all.insert(entry.issued.user_id.clone(), entry))).await?;
        Ok(all)
    }

    /// Calls `visit` with the coupons of the queue, from the last to the first. Coupons are issued from the other end,
    /// so every coupon that is available throughout the call is visited. If coupons are added meanwhile, some are
    /// visited more than once.
    pub async fn each_available(
        &self,
        event: &EventName,
        mut visit: impl FnMut(CouponCode, Discount),
    ) -> Result<(), RedisStoreError> {
        let mut last = -1;
        loop {
            let page = self.queue_page(event, last - PAGE + 1, last).await?;
            if page.is_empty() {
                return Ok(());
            }
            for (coupon, discount) in page.into_iter().rev() {
                visit(coupon, discount);
            }
            last -= PAGE;
        }
    }

    /// Returns the coupons of the queue in order. Exact only while nothing is issued.
    pub async fn scan_queue(&self, event: &EventName) -> Result<Vec<(CouponCode, Discount)>, RedisStoreError> {
        let mut all = Vec::new();
        loop {
            let from = isize::try_from(all.len()).unwrap_or(isize::MAX);
            let page = self.queue_page(event, from, from.saturating_add(PAGE - 1)).await?;
            if page.is_empty() {
                return Ok(all);
            }
            all.extend(page);
        }
    }

    async fn queue_page(
        &self,
        event: &EventName,
        from: isize,
        to: isize,
    ) -> Result<Vec<(CouponCode, Discount)>, RedisStoreError> {
        const OPERATION: &str = "cannot scan the queue in Redis";
        let page: Vec<String> = redis::cmd("LRANGE")
            .arg(self.keys(event).queue)
            .arg(from)
            .arg(to)
            .query_async(&mut self.connection())
            .await
            .map_err(self.failed(OPERATION))?;
        page.iter().map(|item| parse_item(item).ok_or_else(|| invalid_value(OPERATION, item))).collect()
    }

    /// Returns the entries of these users, in their order.
    pub async fn issued_to(
        &self,
        event: &EventName,
        users: &[UserId],
    ) -> Result<Vec<Option<IssuedEntry>>, RedisStoreError> {
        const OPERATION: &str = "cannot look up users in Redis";
        let key = self.keys(event).issued;
        let mut all = Vec::with_capacity(users.len());
        for page in users.chunks(PAGE.unsigned_abs()) {
            let mut command = redis::cmd("HMGET");
            command.arg(&key);
            for user in page {
                command.arg(user.as_str());
            }
            let entries: Vec<Option<String>> =
                command.query_async(&mut self.connection()).await.map_err(self.failed(OPERATION))?;
            for (user, entry) in page.iter().zip(entries) {
                all.push(entry.map(|entry| IssuedEntry::parse(OPERATION, user.clone(), &entry)).transpose()?);
            }
        }
        Ok(all)
    }
}
