//! What the tests of the database share.
#![allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]

use couponry_domain::{
    CodeFormat, Coupon, Discount,
    DiscountType::{Amount, Percent},
    IssuedRecord, Lot, Uuid,
};
use couponry_postgres::{Database, NewEvent, StoredEvent};
use couponry_testbed::Database;

pub const TEN_PERCENT: Discount = Discount { kind: Percent, value: 10 };
pub const FIVE_THOUSAND: Discount = Discount { kind: Amount, value: 5000 };

/// A database in a database of its own.
pub struct Books {
    pub database: Database,
    pub database: Database,
}

impl Books {
    pub async fn open() -> Self {
        let database = Database::create().unwrap();
        let database = Database::connect(&database.url()).unwrap();
        database.migrate().await.unwrap();
        Self { database, database }
    }

    /// A registered event without stock.
    pub async fn event(&self, number: u128) -> StoredEvent {
        self.database.register(&new_event(number)).await.unwrap()
    }

    /// An event with `percent` + `amount` coupons, and these.
    pub async fn stocked(&self, number: u128, percent: u64, amount: u64) -> (StoredEvent, Vec<Coupon>) {
        let event = self.event(number).await;
        let lot = lot(0, percent, amount);
        self.database.preload(&event, &lot, |_| {}).await.unwrap();
        (event.clone(), lot.coupons(event.seed, event.format).collect())
    }

    /// What a query prints.
    pub fn sql(&self, query: &str) -> String {
        self.database.sql(query).unwrap()
    }
}

pub fn new_event(number: u128) -> NewEvent {
    NewEvent {
        uid: Uuid::from_u128(number),
        name: format!("event-{number}").parse().unwrap(),
        policy_name: "Summer sale".into(),
        format: CodeFormat { prefix: Some("SUMMER".into()), length: 12 },
        generation: 1,
    }
}

pub fn lot(first_ordinal: u64, percent: u64, amount: u64) -> Lot {
    Lot { first_ordinal, counts: vec![(TEN_PERCENT, percent), (FIVE_THOUSAND, amount)] }
}

/// The record of this coupon being given to this user.
pub fn record(event: &StoredEvent, user: &str, coupon: &Coupon) -> IssuedRecord {
    IssuedRecord {
        event_id: event.name.clone(),
        event_uid: event.uid,
        user_id: user.parse().unwrap(),
        coupon: coupon.code.parse().unwrap(),
        discount: coupon.discount,
        issued_at: 1_796_083_200_123,
    }
}
