//! Fixtures of the database tests.
#![allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]

use couponry_domain::{
    CodeFormat, Coupon, CouponBatch, CouponTerms, Discount,
    DiscountType::{Amount, Percent},
    IssuedCoupon, IssuedRecord, Release, Uuid,
};
use couponry_postgres::{Database, NewEvent, StoredEvent};
use couponry_testbed::Database as TestDatabase;

pub const TEN_PERCENT: Discount = Discount { kind: Percent, value: 10 };
pub const FIVE_THOUSAND: Discount = Discount { kind: Amount, value: 5000 };

/// A migrated database of its own.
pub struct Fixture {
    pub database: Database,
    pub server: TestDatabase,
}

impl Fixture {
    pub async fn new() -> Self {
        let server = TestDatabase::create().unwrap();
        let database = Database::connect(&server.url()).unwrap();
        database.migrate().await.unwrap();
        Self { database, server }
    }

    /// Registers an event without coupons.
    pub async fn event(&self, number: u128) -> StoredEvent {
        self.database.register(&new_event(number)).await.unwrap()
    }

    /// Registers an event and generates its coupons: `percent` + `amount` of them.
    pub async fn event_with_coupons(&self, number: u128, percent: u64, amount: u64) -> (StoredEvent, Vec<Coupon>) {
        let event = self.event(number).await;
        let batch = batch(0, percent, amount);
        self.database.generate_coupons(&event, &batch, |_| {}).await.unwrap();
        (event.clone(), batch.coupons(event.seed, event.format).collect())
    }

    /// The output of a query.
    pub fn sql(&self, query: &str) -> String {
        self.server.sql(query).unwrap()
    }
}

pub fn new_event(number: u128) -> NewEvent {
    NewEvent {
        uid: Uuid::from_u128(number),
        name: format!("event-{number}").parse().unwrap(),
        policy_name: "Summer sale".into(),
        format: CodeFormat { prefix: Some("SUMMER".into()), length: 12 },
        terms: CouponTerms::default(),
        release: Release::default(),
        generation: 1,
    }
}

pub fn batch(first_ordinal: u64, percent: u64, amount: u64) -> CouponBatch {
    CouponBatch { first_ordinal, counts: vec![(TEN_PERCENT, percent), (FIVE_THOUSAND, amount)] }
}

/// The record of this coupon issued to this user.
pub fn record(event: &StoredEvent, user: &str, coupon: &Coupon) -> IssuedRecord {
    IssuedRecord {
        event_id: event.name.clone(),
        event_uid: event.uid,
        issued: IssuedCoupon {
            user_id: user.parse().unwrap(),
            coupon: coupon.code.clone(),
            discount: coupon.discount,
            issued_at: 1_796_083_200_123,
        },
        valid_until: None,
    }
}
