//! Issuance records, and sending them.

use std::ops::Range;

use couponry_domain::{Discount, DiscountType, IssuedCoupon, IssuedRecord, Uuid};
use couponry_kafka::{KafkaSettings, Producer};
use futures::future::try_join_all;

pub(crate) fn record(n: usize) -> IssuedRecord {
    IssuedRecord {
        event_id: "summer".parse().unwrap(),
        event_uid: Uuid::from_u128(1),
        issued: IssuedCoupon {
            user_id: format!("user {n} é").parse().unwrap(),
            coupon: format!("SUMMER-{n}").parse().unwrap(),
            discount: Discount { kind: DiscountType::Percent, value: 10 },
            issued_at: 1_796_083_200_000,
        },
        valid_until: None,
    }
}

/// Sends the records with these numbers.
pub(crate) async fn write(settings: &KafkaSettings, range: Range<usize>) {
    let producer = Producer::new(settings).unwrap();
    try_join_all(range.map(|n| producer.send(&record(n)).unwrap())).await.unwrap();
}
