//! From when on coupons may be given out.

mod support;

use ledger::LedgerError;
use support::{Books, record};

const PAST: i64 = 1_500_000_000_123;
const FUTURE: i64 = 32_503_680_000_456;

#[tokio::test]
async fn an_opening_that_is_to_come_can_be_taken_back() {
    let books = Books::open().await;
    let (event, _) = books.stocked(1, 7, 3).await;
    let opened_at = async || books.ledger.event(event.uid).await.unwrap().unwrap().opened_at;
    books.ledger.withdraw_opening(event.uid).await.unwrap();
    books.ledger.schedule_opening(event.uid, FUTURE).await.unwrap();
    assert_eq!(opened_at().await, Some(FUTURE), "to the millisecond");
    let refused = books.ledger.discard_stock(event.uid).await.unwrap_err();
    assert!(matches!(refused, LedgerError::AlreadyOpened(_)), "{refused}");
    books.ledger.withdraw_opening(event.uid).await.unwrap();
    assert_eq!(opened_at().await, None);
    books.ledger.discard_stock(event.uid).await.unwrap();
}

#[tokio::test]
async fn an_opening_that_is_past_stays() {
    let books = Books::open().await;
    let event = books.event(1).await;
    books.ledger.schedule_opening(event.uid, PAST).await.unwrap();
    books.ledger.schedule_opening(event.uid, FUTURE).await.unwrap();
    assert_eq!(books.ledger.event(event.uid).await.unwrap().unwrap().opened_at, Some(PAST), "the earlier one counts");
    let refused = books.ledger.withdraw_opening(event.uid).await.unwrap_err();
    assert!(matches!(refused, LedgerError::AlreadyOpened(_)), "{refused}");
}

#[tokio::test]
async fn an_opening_with_a_recorded_coupon_stays() {
    let books = Books::open().await;
    let (event, coupons) = books.stocked(1, 7, 3).await;
    books.ledger.schedule_opening(event.uid, FUTURE).await.unwrap();
    books.ledger.record(&[record(&event, "u1", &coupons[0])]).await.unwrap();
    assert!(books.ledger.withdraw_opening(event.uid).await.is_err());
}

#[tokio::test]
async fn an_unknown_event_has_no_opening() {
    let books = Books::open().await;
    let unknown = support::new_event(1).uid;
    let refused = books.ledger.schedule_opening(unknown, PAST).await.unwrap_err();
    assert!(matches!(refused, LedgerError::UnknownEvent { .. }), "{refused}");
}
