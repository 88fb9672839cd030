//! From when on coupons may be given out.

mod support;

use couponry_postgres::DatabaseError;
use support::{Books, record};

const PAST: i64 = 1_500_000_000_123;
const FUTURE: i64 = 32_503_680_000_456;

#[tokio::test]
async fn an_opening_that_is_to_come_can_be_taken_back() {
    let books = Books::open().await;
    let (event, _) = books.stocked(1, 7, 3).await;
    let opened_at = async || books.database.event(event.uid).await.unwrap().unwrap().opened_at;
    books.database.withdraw_opening(event.uid).await.unwrap();
    books.database.schedule_opening(&event, FUTURE).await.unwrap();
    assert_eq!(opened_at().await, Some(FUTURE), "to the millisecond");
    let refused = books.database.discard_stock(&event).await.unwrap_err();
    assert!(matches!(refused, DatabaseError::AlreadyOpened(_)), "{refused}");
    books.database.withdraw_opening(event.uid).await.unwrap();
    assert_eq!(opened_at().await, None);
    books.database.discard_stock(&event).await.unwrap();
}

#[tokio::test]
async fn an_opening_that_is_past_stays() {
    let books = Books::open().await;
    let event = books.event(1).await;
    books.database.schedule_opening(&event, PAST).await.unwrap();
    books.database.schedule_opening(&event, FUTURE).await.unwrap();
    assert_eq!(books.database.event(event.uid).await.unwrap().unwrap().opened_at, Some(PAST), "the earlier one counts");
    let refused = books.database.withdraw_opening(event.uid).await.unwrap_err();
    assert!(matches!(refused, DatabaseError::AlreadyOpened(_)), "{refused}");
}

#[tokio::test]
async fn an_opening_with_a_recorded_coupon_stays() {
    let books = Books::open().await;
    let (event, coupons) = books.stocked(1, 7, 3).await;
    books.database.schedule_opening(&event, FUTURE).await.unwrap();
    books.database.record(&[record(&event, "u1", &coupons[0])]).await.unwrap();
    assert!(books.database.withdraw_opening(event.uid).await.is_err());
}

/// An operator that is slower than another one must not open what the other has made anew.
#[tokio::test]
async fn what_was_seen_of_an_earlier_edition_has_no_effect() {
    let books = Books::open().await;
    let (seen, _) = books.stocked(1, 7, 3).await;
    books.database.discard_stock(&seen).await.unwrap();
    let now = books.database.event(seen.uid).await.unwrap().unwrap();
    assert_eq!((seen.stock_epoch, now.stock_epoch), (0, 1));
    books.database.preload(&now, &support::lot(0, 1, 1), |_| {}).await.unwrap();

    let is_refused = |error| matches!(error, DatabaseError::StockEpochChanged(_));
    assert!(is_refused(books.database.schedule_opening(&seen, PAST).await.unwrap_err()));
    assert!(is_refused(books.database.preload(&seen, &support::lot(2, 5, 5), |_| {}).await.unwrap_err()));
    books.database.discard_stock(&seen).await.unwrap();
    let after = books.database.event(seen.uid).await.unwrap().unwrap();
    assert_eq!((after.stock_epoch, after.stock_len(), after.opened_at), (1, 2, None), "done already, by someone else");
    books.database.schedule_opening(&after, PAST).await.unwrap();
}

#[tokio::test]
async fn an_older_manifest_has_no_effect() {
    let books = Books::open().await;
    let with = |generation, name: &str| couponry_postgres::NewEvent {
        generation,
        policy_name: name.into(),
        ..support::new_event(1)
    };
    books.database.register(&with(2, "New")).await.unwrap();
    let stored = books.database.register(&with(1, "Old")).await.unwrap();
    assert_eq!((stored.generation, stored.policy_name.as_str()), (2, "New"));
}
