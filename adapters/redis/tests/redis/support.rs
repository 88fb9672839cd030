//! An event of its own for each test, on the shared Redis.

use couponry_domain::{CodeFormat, Coupon, Discount, DiscountType, EventName, Gate, Lot, Seed, UserId, Uuid, Window};
use couponry_redis::{Acknowledge, Loaded, Opening, Settlement, SettlementOutcome, Stock};

pub(crate) struct Event {
    pub(crate) stock: Stock,
    pub(crate) id: EventName,
    pub(crate) uid: Uuid,
}

pub(crate) const TEN_PERCENT: Discount = Discount { kind: DiscountType::Percent, value: 10 };
pub(crate) const FIVE_THOUSAND: Discount = Discount { kind: DiscountType::Amount, value: 5000 };

impl Event {
    /// An event that is loaded with `count` coupons and open.
    pub(crate) async fn open(count: u64) -> Self {
        let event = Self::prepared().await;
        event.load(0, count).await;
        event.gate(Gate::Open, Window::default(), count).await;
        event
    }

    /// An event without coupons yet.
    pub(crate) async fn prepared() -> Self {
        let uid = Uuid::new_v4();
        let stock = Stock::connect(&couponry_testbed::shared::redis(), &format!("test-{uid}-")).unwrap();
        let event = Self { stock, id: "summer".parse().unwrap(), uid };
        assert_eq!(event.stock.prepare(&event.id, uid, 0).await.unwrap(), Loaded::Here(()));
        adopt(&event.stock, &event.id).await;
        event
    }

    pub(crate) async fn load(&self, first_ordinal: u64, count: u64) {
        if count > 0 {
            let loaded = self.stock.load(&self.id, self.uid, 0, &coupons(first_ordinal, count)).await.unwrap();
            assert_eq!(loaded, Loaded::Here(first_ordinal + count));
        }
    }

    pub(crate) async fn gate(&self, gate: Gate, window: Window, total: u64) -> Loaded<Gate> {
        self.stock.set_gate(&self.id, self.uid, &opening(gate, window, total)).await.unwrap()
    }
}

/// Nothing was given yet, so whatever Redis it is will do.
pub(crate) async fn adopt(stock: &Stock, id: &EventName) {
    let seen = stock.observe(id).await.unwrap().unwrap();
    assert_eq!(stock.adopt(id, &seen, None).await.unwrap(), Loaded::Here(()));
}

pub(crate) fn opening(gate: Gate, window: Window, total: u64) -> Opening {
    Opening { gate, window, acknowledge: Acknowledge::Redis, generation: 1, stock_epoch: 0, total }
}

/// `count` coupons of both discounts, beginning at an ordinal; the same ones at every call.
pub(crate) fn coupons(first_ordinal: u64, count: u64) -> Vec<Coupon> {
    let counts = vec![(TEN_PERCENT, count / 2), (FIVE_THOUSAND, count - count / 2)];
    Lot { first_ordinal, counts }.coupons(Seed::from([7; 32]), CodeFormat::default()).collect()
}

pub(crate) fn users(range: std::ops::Range<u64>) -> Vec<UserId> {
    range.map(|i| format!("user-{i}").parse().unwrap()).collect()
}

/// Writes that everything that was given is in the database, and in Kafka.
pub(crate) async fn record_all(stock: &Stock, event: &EventName, uid: Uuid) {
    let given = stock.scan_issued(event).await.unwrap();
    let settlements: Vec<_> = given
        .into_iter()
        .map(|(user, held)| Settlement { user, coupon: held.coupon, outcome: SettlementOutcome::Completed })
        .collect();
    stock.settle(event, uid, &settlements).await.unwrap();
    let left = stock.left_behind(event, std::time::Duration::ZERO, None, 100).await.unwrap();
    let ids: Vec<_> = left.entries.into_iter().map(|entry| entry.id).collect();
    stock.confirm(event, &ids).await.unwrap();
}
