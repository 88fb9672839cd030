//! Reading all coupons of an event, page by page, also while it issues.
//!
//! # Guarantees
//! A value that cannot be decoded does not hide the others: each is returned on its own.

use std::collections::HashMap;

use couponry_domain::{Discount, EventName, UserId, code::CouponCode};

use crate::{
    error::{RedisStoreError, invalid_value},
    issued_entry::{IssuedEntry, parse_item, parse_user},
    redis_store::RedisStore,
};

const SCAN_ISSUED: &str = "cannot scan the issued coupons in Redis";
const SCAN_QUEUE: &str = "cannot scan the queue in Redis";

/// A value of `couponIssued` or `couponQueue` that this version does not write.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UndecodableValue {
    /// The field of `couponIssued`, which is the userId; None for `couponQueue`.
    pub user: Option<String>,
    /// The value.
    pub value: String,
}

impl UndecodableValue {
    fn new(user: Option<&[u8]>, value: &[u8]) -> Self {
        // For display: bytes that are not UTF-8 are replaced.
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Self { user: user.map(text), value: text(value) }
    }

    fn into_error(self, operation: &'static str) -> RedisStoreError {
        invalid_value(operation, &self.value)
    }
}

/// Some entries of `couponIssued`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuedPage {
    /// The entries.
    pub entries: Vec<IssuedEntry>,
    /// The entries that cannot be decoded.
    pub undecodable: Vec<UndecodableValue>,
    /// The cursor of the next page; None: this was the last one.
    pub next: Option<u64>,
}

/// The response to `HSCAN`: the next cursor, and fields with their values.
type RawPage = (u64, Vec<(Vec<u8>, Vec<u8>)>);

/// How many entries are read at a time: Redis needs about a millisecond for a page, in which it serves no other client.
const PAGE: isize = 2000;

impl RedisStore {
    /// Calls `visit` with every entry of `couponIssued`, in no particular order. Entries that exist during the entire
    /// call are visited at least once; entries that are added meanwhile may be missed.
    pub async fn each_issued(
        &self,
        event: &EventName,
        mut visit: impl FnMut(Result<IssuedEntry, UndecodableValue>),
    ) -> Result<(), RedisStoreError> {
        let mut cursor = Some(0);
        while let Some(at) = cursor {
            let IssuedPage { entries, undecodable, next } = self.issued_page(event, at).await?;
            entries.into_iter().map(Ok).chain(undecodable.into_iter().map(Err)).for_each(&mut visit);
            cursor = next;
        }
        Ok(())
    }

    /// Returns some entries of `couponIssued`, about 2000. The first cursor is 0. Over all pages, an entry may be
    /// returned twice; see [`RedisStore::each_issued`].
    pub async fn issued_page(&self, event: &EventName, cursor: u64) -> Result<IssuedPage, RedisStoreError> {
        let (next, page): RawPage = redis::cmd("HSCAN")
            .arg(self.keys(event).issued)
            .arg(cursor)
            .arg("COUNT")
            .arg(PAGE)
            .query_async(&mut self.connection())
            .await
            .map_err(self.failed(SCAN_ISSUED))?;
        let mut decoded =
            IssuedPage { entries: Vec::new(), undecodable: Vec::new(), next: (next != 0).then_some(next) };
        for (user, value) in page {
            match parse_user(&user).and_then(|user_id| IssuedEntry::from_bytes(user_id, &value)) {
                Some(entry) => decoded.entries.push(entry),
                None => decoded.undecodable.push(UndecodableValue::new(Some(&user), &value)),
            }
        }
        Ok(decoded)
    }

    /// Returns every entry of `couponIssued`; see [`RedisStore::each_issued`]. Fails if one cannot be decoded.
    pub async fn scan_issued(&self, event: &EventName) -> Result<HashMap<UserId, IssuedEntry>, RedisStoreError> {
        let mut all = Ok(HashMap::new());
        let visit = |entry: Result<IssuedEntry, UndecodableValue>| match (entry, &mut all) {
            (Ok(entry), Ok(entries)) => drop(entries.insert(entry.issued.user_id.clone(), entry)),
            (Err(undecodable), Ok(_)) => all = Err(undecodable),
            (_, Err(_)) => {}
        };
        self.each_issued(event, visit).await?;
        all.map_err(|undecodable| undecodable.into_error(SCAN_ISSUED))
    }

    /// Calls `visit` with the coupons of the queue, from the last to the first. Coupons are issued from the other end,
    /// so every coupon that is available throughout the call is visited. If coupons are added meanwhile, some are
    /// visited more than once.
    pub async fn each_available(
        &self,
        event: &EventName,
        mut visit: impl FnMut(Result<(CouponCode, Discount), UndecodableValue>),
    ) -> Result<(), RedisStoreError> {
        let mut last = -1;
        loop {
            let page = self.queue_page(event, last - PAGE + 1, last).await?;
            if page.is_empty() {
                return Ok(());
            }
            page.into_iter().rev().for_each(&mut visit);
            last -= PAGE;
        }
    }

    /// Returns the coupons of the queue in order. Exact only while nothing is issued. Fails if one cannot be decoded.
    pub async fn scan_queue(&self, event: &EventName) -> Result<Vec<(CouponCode, Discount)>, RedisStoreError> {
        let mut all = Vec::new();
        loop {
            let from = isize::try_from(all.len()).unwrap_or(isize::MAX);
            let page = self.queue_page(event, from, from.saturating_add(PAGE - 1)).await?;
            if page.is_empty() {
                return Ok(all);
            }
            for item in page {
                all.push(item.map_err(|undecodable| undecodable.into_error(SCAN_QUEUE))?);
            }
        }
    }

    async fn queue_page(
        &self,
        event: &EventName,
        from: isize,
        to: isize,
    ) -> Result<Vec<Result<(CouponCode, Discount), UndecodableValue>>, RedisStoreError> {
        let page: Vec<Vec<u8>> = redis::cmd("LRANGE")
            .arg(self.keys(event).queue)
            .arg(from)
            .arg(to)
            .query_async(&mut self.connection())
            .await
            .map_err(self.failed(SCAN_QUEUE))?;
        let decode = |value: Vec<u8>| parse_item(&value).ok_or_else(|| UndecodableValue::new(None, &value));
        Ok(page.into_iter().map(decode).collect())
    }

    /// Returns the entries of these users, in their order.
    pub async fn issued_to(
        &self,
        event: &EventName,
        users: &[UserId],
    ) -> Result<Vec<Option<Result<IssuedEntry, UndecodableValue>>>, RedisStoreError> {
        const OPERATION: &str = "cannot look up users in Redis";
        let key = self.keys(event).issued;
        let mut all = Vec::with_capacity(users.len());
        for page in users.chunks(PAGE.unsigned_abs()) {
            let mut command = redis::cmd("HMGET");
            command.arg(&key);
            for user in page {
                command.arg(user.as_str());
            }
            let entries: Vec<Option<Vec<u8>>> =
                command.query_async(&mut self.connection()).await.map_err(self.failed(OPERATION))?;
            for (user, entry) in page.iter().zip(entries) {
                let decode = |value: Vec<u8>| {
                    IssuedEntry::from_bytes(user.clone(), &value)
                        .ok_or_else(|| UndecodableValue::new(Some(user.as_str().as_bytes()), &value))
                };
                all.push(entry.map(decode));
            }
        }
        Ok(all)
    }
}
