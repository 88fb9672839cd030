//! Each test has its own event on the shared Redis.

use std::error::Error;

use couponry_domain::{
    Acknowledge, CodeFormat, Coupon, CouponBatch, Discount, DiscountType, EventName, Gate, Release, Seed, UserId, Uuid,
    Window,
};
use couponry_redis::{FencedWrite, GateSettings, IssueOutcome, RedisStore, Settlement, SettlementOutcome};

pub(crate) struct Event {
    pub(crate) redis_store: RedisStore,
    pub(crate) id: EventName,
    pub(crate) uid: Uuid,
}

pub(crate) const TEN_PERCENT: Discount = Discount { kind: DiscountType::Percent, value: 10 };
/// No coupon is available, and none is held back.
pub(crate) const SOLD_OUT: IssueOutcome = IssueOutcome::SoldOut { next_drop_at: None };
pub(crate) const FIVE_THOUSAND: Discount = Discount { kind: DiscountType::Amount, value: 5000 };

impl Event {
    /// An open event with `count` coupons.
    pub(crate) async fn open(count: u64) -> Self {
        let event = Self::prepared().await;
        event.load(0, count).await;
        event.gate(Gate::Open, Window::default(), count).await;
        event
    }

    /// A verified event without coupons.
    pub(crate) async fn prepared() -> Self {
        let uid = Uuid::new_v4();
        let redis_store = RedisStore::connect(&couponry_testbed::shared::redis(), &format!("test-{uid}-")).unwrap();
        let event = Self { redis_store, id: "summer".parse().unwrap(), uid };
        assert_eq!(event.redis_store.prepare(&event.id, uid, 0).await.unwrap(), FencedWrite::Applied(()));
        mark_verified(&event.redis_store, &event.id).await;
        event
    }

    pub(crate) async fn load(&self, first_ordinal: u64, count: u64) {
        if count > 0 {
            let loaded = self.redis_store.load(&self.id, self.uid, 0, &coupons(first_ordinal, count)).await.unwrap();
            assert_eq!(loaded, FencedWrite::Applied(first_ordinal + count));
        }
    }

    pub(crate) async fn gate(&self, gate: Gate, window: Window, total: u64) -> FencedWrite<Gate> {
        self.redis_store.set_gate(&self.id, self.uid, &gate_settings(gate, window, total)).await.unwrap()
    }
}

/// Marks the current Redis as verified.
pub(crate) async fn mark_verified(redis_store: &RedisStore, id: &EventName) {
    let observed = redis_store.observe(id).await.unwrap().unwrap();
    assert_eq!(redis_store.mark_verified(id, &observed, None).await.unwrap(), FencedWrite::Applied(()));
}

pub(crate) fn gate_settings(gate: Gate, window: Window, total: u64) -> GateSettings {
    GateSettings {
        gate,
        window,
        acknowledge: Acknowledge::Redis,
        validity: None,
        release: Release::default(),
        admission_key: None,
        generation: 1,
        stock_epoch: 0,
        total,
    }
}

/// `count` coupons of both discounts from this ordinal on; the same ones in every call.
pub(crate) fn coupons(first_ordinal: u64, count: u64) -> Vec<Coupon> {
    let counts = vec![(TEN_PERCENT, count / 2), (FIVE_THOUSAND, count - count / 2)];
    CouponBatch { first_ordinal, counts }.coupons(Seed::from([7; 32]), CodeFormat::default()).collect()
}

/// Prints the error with its causes.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

pub(crate) fn users(range: std::ops::Range<u64>) -> Vec<UserId> {
    range.map(|i| format!("user-{i}").parse().unwrap()).collect()
}

/// Marks all issued coupons as recorded, and confirms the outbox.
pub(crate) async fn record_all(redis_store: &RedisStore, event: &EventName, uid: Uuid) {
    let issued = redis_store.scan_issued(event).await.unwrap();
    let settlements: Vec<_> = issued
        .into_iter()
        .map(|(user, entry)| Settlement { user, coupon: entry.issued.coupon, outcome: SettlementOutcome::Completed })
        .collect();
    redis_store.settle(event, uid, &settlements).await.unwrap();
    let left = redis_store.list_unconfirmed(event, std::time::Duration::ZERO, None, 100).await.unwrap();
    let ids: Vec<_> = left.entries.into_iter().map(|entry| entry.id).collect();
    redis_store.delete_confirmed(event, &ids).await.unwrap();
}
