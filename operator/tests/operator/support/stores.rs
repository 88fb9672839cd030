//! Coupons in Postgres and Redis.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use couponry_domain::{Coupon, CouponBatch, EventName, IssuedRecord, Uuid};
use couponry_redis::{IssueOutcome, IssuedEntry, Settlement, SettlementOutcome};

use super::World;

impl World {
    /// All coupons in Postgres, in their order.
    pub(crate) async fn coupons_in_postgres(&self, uid: Uuid) -> Result<Vec<Coupon>> {
        let mut all = Vec::new();
        loop {
            let page = self.database.coupons(uid, all.len() as u64, 10_000).await?;
            if page.is_empty() {
                return Ok(all);
            }
            all.extend(page);
        }
    }

    /// Like [`World::check_stores_agree`], and the coupons in Postgres are those that the event's seed generates.
    /// Only for events without a top-up.
    pub(crate) async fn check_generated_stock(&self, name: &str, split: &[(&str, usize)]) -> Result<()> {
        let uid = self.uid(name).await?;
        let stored = self.database.event(uid).await?.context("the event is not in Postgres")?;
        let coupons = self.coupons_in_postgres(uid).await?;
        let batch = CouponBatch { first_ordinal: 0, counts: stored.discount_counts.clone() };
        let expected: Vec<Coupon> = batch.coupons(stored.seed, stored.format.clone()).collect();
        ensure!(coupons == expected, "Postgres does not have the coupons that the seed generates");
        self.check_stores_agree(name, split).await
    }

    /// Fails unless both stores have the same coupons, with these counts by discount and without duplicate codes.
    pub(crate) async fn check_stores_agree(&self, name: &str, split: &[(&str, usize)]) -> Result<()> {
        let event: EventName = name.parse()?;
        let coupons = self.coupons_in_postgres(self.uid(name).await?).await?;
        let codes: BTreeSet<_> = coupons.iter().map(|coupon| &coupon.code).collect();
        ensure!(codes.len() == coupons.len(), "{} codes in {} coupons", codes.len(), coupons.len());
        let mut counted = BTreeMap::new();
        for coupon in &coupons {
            *counted.entry(coupon.discount.to_string()).or_insert(0) += 1;
        }
        let split: BTreeMap<_, _> = split.iter().map(|(discount, count)| ((*discount).to_owned(), *count)).collect();
        ensure!(counted == split, "Postgres has {counted:?}, expected {split:?}");
        let issued = self.redis_store.scan_issued(&event).await?;
        let available = self.redis_store.scan_queue(&event).await?;
        let mut in_redis: Vec<_> =
            issued.into_values().map(|entry| (entry.issued.coupon, entry.issued.discount)).chain(available).collect();
        let mut in_postgres: Vec<_> = coupons.into_iter().map(|coupon| (coupon.code, coupon.discount)).collect();
        in_redis.sort();
        in_postgres.sort();
        ensure!(in_redis == in_postgres, "Redis has {} coupons, which are not those of Postgres", in_redis.len());
        Ok(())
    }

    /// The Redis key of this kind, such as `couponQueue`, of an event.
    pub(crate) fn key(&self, kind: &str, name: &str) -> String {
        format!("{}{kind}:{{{name}}}", self.prefix)
    }

    /// Sends a command to Redis and returns the reply in the encoding of the protocol.
    pub(crate) fn redis(&self, words: &[&str]) -> Result<String> {
        couponry_testbed::redis::command(&self.redis_url, words)
    }

    /// Removes one coupon from the queue, as a loss of data would.
    pub(crate) fn remove_available_coupon(&self, name: &str) -> Result<()> {
        let reply = self.redis(&["LPOP", &self.key("couponQueue", name)])?;
        ensure!(reply.starts_with('$') && !reply.starts_with("$-1"), "the queue is empty: {reply}");
        Ok(())
    }

    /// Applies the event `event`, and issues ten of its coupons once it is open. Returns its uid.
    pub(crate) async fn open_event(&self, spec: &str) -> Result<Uuid> {
        self.apply_open("event", spec).await?;
        ensure!(self.issue("event", 0..10).await? == 10, "ten users receive a coupon");
        self.uid("event").await
    }

    /// Issues coupons to `user-N` for these N, and returns how many users received one.
    pub(crate) async fn issue(&self, name: &str, users: Range<u32>) -> Result<usize> {
        let users: Vec<_> = users.map(|n| format!("user-{n}").parse()).collect::<Result<_, _>>()?;
        let reply = self.redis_store.issue(&name.parse()?, &users).await?.context("the event is not in Redis")?;
        Ok(reply.outcomes.iter().filter(|outcome| matches!(outcome, IssueOutcome::Issued(_))).count())
    }

    /// Records all issued coupons, in place of the issuer and the consumer.
    pub(crate) async fn record_all(&self, name: &str) -> Result<()> {
        self.record_all_by_uid(name, self.uid(name).await?).await
    }

    /// [`World::record_all`] of an event whose resource is removed.
    pub(crate) async fn record_all_by_uid(&self, name: &str, uid: Uuid) -> Result<()> {
        let event: EventName = name.parse()?;
        let stored = self.database.event(uid).await?.context("the event is not in Postgres")?;
        let validity = stored.terms.validity;
        let mut settlements = Vec::new();
        for (user, IssuedEntry { issued, .. }) in self.redis_store.scan_issued(&event).await? {
            let coupon = issued.coupon.clone();
            let valid_until = validity.as_ref().map(|validity| validity.valid_until(issued.issued_at));
            let record = IssuedRecord { event_id: event.clone(), event_uid: uid, issued, valid_until };
            self.database.record(&[record]).await?;
            settlements.push(Settlement { user, coupon, outcome: SettlementOutcome::Completed });
        }
        self.redis_store.settle(&event, uid, &settlements).await?;
        let unconfirmed = self.redis_store.list_unconfirmed(&event, Duration::ZERO, None, 1000).await?.entries;
        let ids: Vec<_> = unconfirmed.into_iter().map(|entry| entry.id).collect();
        Ok(self.redis_store.delete_confirmed(&event, &ids).await?)
    }
}
