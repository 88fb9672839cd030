//! The opening of an event.

mod support;

use std::collections::BTreeMap;

use couponry_domain::{CouponTerms, DiscountConditions};
use couponry_postgres::{DatabaseError, NewEvent};
use support::{Fixture, TEN_PERCENT, new_event, record};

const PAST: i64 = 1_500_000_000_123;
const FUTURE: i64 = 32_503_680_000_456;

#[tokio::test]
async fn withdraw_opening_removes_one_that_is_not_final() {
    let fixture = Fixture::new().await;
    let (event, _) = fixture.event_with_coupons(1, 7, 3).await;
    assert!(!fixture.database.withdraw_opening(&event).await.unwrap(), "none is stored");
    // The clock of Postgres does not matter: not whether this time has passed, and not whether it is in the future.
    for at in [PAST, FUTURE] {
        let known = fixture.database.event(event.uid).await.unwrap().unwrap();
        fixture.database.schedule_opening(&known, at, Some(at), false).await.unwrap();
        let scheduled = fixture.database.event(event.uid).await.unwrap().unwrap();
        let opening = (scheduled.opens_at, scheduled.starts_at, scheduled.is_opening_final);
        assert_eq!(opening, (Some(at), Some(at), false), "has milliseconds");
        let error = fixture.database.discard_stock(&scheduled).await.unwrap_err();
        assert!(matches!(error, DatabaseError::HasOpening(_)), "{error}");
        assert!(!fixture.database.withdraw_opening(&known).await.unwrap(), "the call was delayed");
        assert!(fixture.database.withdraw_opening(&scheduled).await.unwrap());
        let withdrawn = fixture.database.event(event.uid).await.unwrap().unwrap();
        assert_eq!((withdrawn.opens_at, withdrawn.starts_at), (None, None));
    }
    fixture.database.discard_stock(&event).await.unwrap();
}

#[tokio::test]
async fn withdraw_final_opening_changes_nothing() {
    let fixture = Fixture::new().await;
    let event = fixture.event(1).await;
    for (at, start, is_final) in [(FUTURE, Some(FUTURE), false), (PAST, None, true), (FUTURE, Some(PAST), false)] {
        fixture.database.schedule_opening(&event, at, start, is_final).await.unwrap();
    }
    let known = fixture.database.event(event.uid).await.unwrap().unwrap();
    let opening = (known.opens_at, known.starts_at, known.is_opening_final, known.openings);
    assert_eq!(opening, (Some(PAST), Some(PAST), true, 1), "the earlier opening remains, with the latest start");
    assert!(!fixture.database.withdraw_opening(&known).await.unwrap());
}

/// Users receive coupons on the terms that were stored before the opening.
#[tokio::test]
async fn register_changes_terms_only_without_opening() {
    let fixture = Fixture::new().await;
    let terms = |validity: &str, currency: &str, max_discount, minimum_order_amount| {
        let conditions = DiscountConditions { max_discount, minimum_order_amount };
        CouponTerms {
            validity: Some(validity.parse().unwrap()),
            currency: Some(currency.parse().unwrap()),
            conditions: BTreeMap::from([(TEN_PERCENT, conditions)]),
        }
    };
    let register = async |terms: &CouponTerms, generation| {
        let event = NewEvent { terms: terms.clone(), generation, ..new_event(1) };
        let registered = fixture.database.register(&event).await.unwrap();
        assert_eq!(fixture.database.event(event.uid).await.unwrap().as_ref(), Some(&registered));
        registered
    };
    let first = terms("P30D Europe/Berlin end-of-day", "EUR", Some(500), None);
    let second = terms("2027-01-01T00:00:00Z UTC", "KRW", None, Some(1_000_000_000_000));
    assert_eq!(register(&first, 1).await.terms, first);
    let event = register(&second, 2).await;
    assert_eq!(event.terms, second);
    assert_eq!(register(&first, 1).await.terms, second, "an older manifest");

    // Coupons do not change the terms, nor the terms the counts.
    fixture.database.generate_coupons(&event, &support::batch(0, 7, 3), |_| {}).await.unwrap();
    let event = register(&CouponTerms::default(), 3).await;
    assert_eq!((&event.terms, event.generated()), (&CouponTerms::default(), 10));
    register(&first, 4).await;
    let event = fixture.database.event(event.uid).await.unwrap().unwrap();

    fixture.database.schedule_opening(&event, FUTURE, None, false).await.unwrap();
    let changed = register(&second, 5).await;
    assert_eq!((&changed.terms, changed.generation), (&first, 5), "an opening is stored");
    assert!(fixture.database.withdraw_opening(&changed).await.unwrap());
    assert_eq!(register(&second, 5).await.terms, second);
}

/// A delayed withdrawal must not remove an opening that was stored since.
#[tokio::test]
async fn withdraw_of_earlier_opening_or_generation_changes_nothing() {
    let fixture = Fixture::new().await;
    let event = fixture.event(1).await;
    let read = async || fixture.database.event(event.uid).await.unwrap().unwrap();
    fixture.database.schedule_opening(&event, FUTURE, None, false).await.unwrap();
    let first = read().await;
    assert!(fixture.database.withdraw_opening(&first).await.unwrap());
    fixture.database.schedule_opening(&event, FUTURE, None, false).await.unwrap();
    assert!(!fixture.database.withdraw_opening(&first).await.unwrap(), "another opening");
    let second = read().await;
    let changed = NewEvent { generation: event.generation + 1, ..new_event(1) };
    fixture.database.register(&changed).await.unwrap();
    assert!(!fixture.database.withdraw_opening(&second).await.unwrap(), "another manifest");
    assert!(fixture.database.withdraw_opening(&read().await).await.unwrap());
}

#[tokio::test]
async fn withdraw_opening_with_recorded_coupon_changes_nothing() {
    let fixture = Fixture::new().await;
    let (event, coupons) = fixture.event_with_coupons(1, 7, 3).await;
    fixture.database.schedule_opening(&event, FUTURE, None, false).await.unwrap();
    fixture.database.record(&[record(&event, "u1", &coupons[0])]).await.unwrap();
    let known = fixture.database.event(event.uid).await.unwrap().unwrap();
    assert!(!fixture.database.withdraw_opening(&known).await.unwrap());
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

    let is_rejected = |error| matches!(error, DatabaseError::EventChanged(_));
    assert!(is_rejected(fixture.database.schedule_opening(&known, PAST, None, true).await.unwrap_err()));
    assert!(is_rejected(
        fixture.database.generate_coupons(&known, &support::batch(2, 5, 5), |_| {}).await.unwrap_err()
    ));
    fixture.database.discard_stock(&known).await.unwrap();
    let after = fixture.database.event(known.uid).await.unwrap().unwrap();
    assert_eq!(
        (after.stock_epoch, after.generated(), after.opens_at),
        (1, 2, None),
        "another operator has discarded it already"
    );
    fixture.database.schedule_opening(&after, PAST, None, true).await.unwrap();
}

#[tokio::test]
async fn register_with_older_generation_changes_nothing() {
    let fixture = Fixture::new().await;
    let with = |generation, name: &str| NewEvent { generation, policy_name: name.into(), ..new_event(1) };
    fixture.database.register(&with(2, "New")).await.unwrap();
    let stored = fixture.database.register(&with(1, "Old")).await.unwrap();
    assert_eq!((stored.generation, stored.policy_name.as_str()), (2, "New"));
}

/// Earlier versions write only `opens_at`.
#[tokio::test]
async fn opening_that_an_earlier_version_withdraws_leaves_no_start() {
    let fixture = Fixture::new().await;
    let event = fixture.event(1).await;
    fixture.database.schedule_opening(&event, FUTURE, Some(FUTURE), false).await.unwrap();
    fixture.sql("UPDATE coupon_event SET opens_at = NULL");
    fixture.sql("UPDATE coupon_event SET opens_at = '2030-01-01T00:00:00Z'");
    let stored = fixture.database.event(event.uid).await.unwrap().unwrap();
    assert_eq!((stored.opens_at, stored.starts_at), (Some(1_893_456_000_000), None));
}
