//! The opening of an event.

mod support;

use couponry_postgres::DatabaseError;
use support::{Fixture, record};

const PAST: i64 = 1_500_000_000_123;
const FUTURE: i64 = 32_503_680_000_456;

#[tokio::test]
async fn withdraw_opening_in_the_future_removes_it() {
    let fixture = Fixture::new().await;
    let (event, _) = fixture.event_with_coupons(1, 7, 3).await;
    let opened_at = async || fixture.database.event(event.uid).await.unwrap().unwrap().opened_at;
    fixture.database.withdraw_opening(event.uid).await.unwrap();
    fixture.database.schedule_opening(&event, FUTURE).await.unwrap();
    assert_eq!(opened_at().await, Some(FUTURE), "has milliseconds");
    let error = fixture.database.discard_stock(&event).await.unwrap_err();
    assert!(matches!(error, DatabaseError::AlreadyOpened(_)), "{error}");
    fixture.database.withdraw_opening(event.uid).await.unwrap();
    assert_eq!(opened_at().await, None);
    fixture.database.discard_stock(&event).await.unwrap();
}

#[tokio::test]
async fn withdraw_opening_in_the_past_returns_error() {
    let fixture = Fixture::new().await;
    let event = fixture.event(1).await;
    fixture.database.schedule_opening(&event, PAST).await.unwrap();
    fixture.database.schedule_opening(&event, FUTURE).await.unwrap();
    assert_eq!(
        fixture.database.event(event.uid).await.unwrap().unwrap().opened_at,
        Some(PAST),
        "the earlier opening remains"
    );
    let error = fixture.database.withdraw_opening(event.uid).await.unwrap_err();
    assert!(matches!(error, DatabaseError::AlreadyOpened(_)), "{error}");
}

#[tokio::test]
async fn withdraw_opening_with_recorded_coupon_returns_error() {
    let fixture = Fixture::new().await;
    let (event, coupons) = fixture.event_with_coupons(1, 7, 3).await;
    fixture.database.schedule_opening(&event, FUTURE).await.unwrap();
    fixture.database.record(&[record(&event, "u1", &coupons[0])]).await.unwrap();
    assert!(fixture.database.withdraw_opening(event.uid).await.is_err());
}

/// A stale operator must not open a stock that another operator has generated again.
#[tokio::test]
async fn operations_with_old_stock_epoch_are_rejected() {
    let fixture = Fixture::new().await;
    let (known, _) = fixture.event_with_coupons(1, 7, 3).await;
    fixture.database.discard_stock(&known).await.unwrap();
    let now = fixture.database.event(known.uid).await.unwrap().unwrap();
    assert_eq!((known.stock_epoch, now.stock_epoch), (0, 1));
    fixture.database.generate_coupons(&now, &support::batch(0, 1, 1), |_| {}).await.unwrap();

    let is_rejected = |error| matches!(error, DatabaseError::StockEpochChanged(_));
    assert!(is_rejected(fixture.database.schedule_opening(&known, PAST).await.unwrap_err()));
    assert!(is_rejected(
        fixture.database.generate_coupons(&known, &support::batch(2, 5, 5), |_| {}).await.unwrap_err()
    ));
    fixture.database.discard_stock(&known).await.unwrap();
    let after = fixture.database.event(known.uid).await.unwrap().unwrap();
    assert_eq!(
        (after.stock_epoch, after.generated(), after.opened_at),
        (1, 2, None),
        "another operator has discarded it already"
    );
    fixture.database.schedule_opening(&after, PAST).await.unwrap();
}

#[tokio::test]
async fn register_with_older_generation_changes_nothing() {
    let fixture = Fixture::new().await;
    let with = |generation, name: &str| couponry_postgres::NewEvent {
        generation,
        policy_name: name.into(),
        ..support::new_event(1)
    };
    fixture.database.register(&with(2, "New")).await.unwrap();
    let stored = fixture.database.register(&with(1, "Old")).await.unwrap();
    assert_eq!((stored.generation, stored.policy_name.as_str()), (2, "New"));
}
