//! A record is rejected only if the stock of its event is complete.

mod support;

use couponry_domain::{Coupon, IssuedRecord};
use couponry_postgres::{DatabaseError, Deferral, RecordOutcome, Rejection, StoredEvent};
use futures::TryStreamExt as _;
use support::{Fixture, batch, record};

fn table(event: &StoredEvent) -> String {
    format!("coupon_{}", event.uid.simple())
}

fn unknown_coupon(event: &StoredEvent, coupon: &Coupon) -> IssuedRecord {
    record(event, "stranger", &Coupon { code: "SUMMER-AAAAAAAAAAAA".parse().unwrap(), ..coupon.clone() })
}

/// A session can plan a query of a partitioned table without a partition that was attached in the meantime. The lookup
/// would find no coupon of the event.
#[tokio::test]
async fn stocks_have_no_common_table() {
    let fixture = Fixture::new().await;
    fixture.event_with_coupons(1, 5, 5).await;
    fixture.event_with_coupons(2, 5, 5).await;
    assert_eq!(
        fixture.sql("SELECT count(*) FROM pg_inherits JOIN pg_class ON oid = inhrelid WHERE relkind = 'r'"),
        "0"
    );
    assert_eq!(fixture.sql("SELECT count(*) FROM coupon"), "20");
    let plan = fixture.sql("EXPLAIN SELECT * FROM coupon_status WHERE event = 'event-1'");
    assert!(!plan.contains("coupon_0"), "the plan of the view depends on the number of events:\n{plan}");
}

#[tokio::test]
async fn record_with_incomplete_stock_is_deferred_until_it_is_complete() {
    let fixture = Fixture::new().await;
    let (event, c) = fixture.event_with_coupons(1, 10, 0).await;
    let (table, missing) = (table(&event), &c[3]);
    fixture.sql(&format!(
        "CREATE TABLE kept AS SELECT * FROM {table} WHERE code = '{0}'; DELETE FROM {table} WHERE code = '{0}'",
        missing.code
    ));
    let records = [
        record(&event, "u1", &c[1]),
        record(&event, "u3", missing),
        unknown_coupon(&event, &c[0]),
        // The coupon of the record was not found, so nothing is concluded about it either.
        record(&event, "u1", missing),
    ];
    let deferred = RecordOutcome::Deferred(Deferral::StockIncomplete { generated: 10, found: 9 });
    assert_eq!(
        fixture.database.record(&records).await.unwrap(),
        [RecordOutcome::Recorded, deferred.clone(), deferred.clone(), deferred]
    );

    fixture.sql(&format!("INSERT INTO {table} SELECT * FROM kept"));
    let another = Rejection::UserHoldsAnother { recorded: records[0].issued.clone(), record_coupon_is_free: false };
    assert_eq!(
        fixture.database.record(&records).await.unwrap(),
        [
            RecordOutcome::AlreadyRecorded,
            RecordOutcome::Recorded,
            RecordOutcome::Rejected(Rejection::UnknownCoupon),
            RecordOutcome::Rejected(another),
        ]
    );
}

#[tokio::test]
async fn record_without_stock_table_is_deferred_and_other_events_are_recorded() {
    let fixture = Fixture::new().await;
    let (event, c) = fixture.event_with_coupons(1, 10, 0).await;
    let (other, others) = fixture.event_with_coupons(2, 10, 0).await;
    let held = record(&event, "u0", &c[0]);
    fixture.database.record(std::slice::from_ref(&held)).await.unwrap();
    fixture.sql(&format!("ALTER TABLE {} RENAME TO hidden", table(&event)));

    let records = [record(&event, "u1", &c[1]), record(&other, "u1", &others[1]), held];
    let deferred = RecordOutcome::Deferred(Deferral::StockMissing);
    let expected = [deferred, RecordOutcome::Recorded, RecordOutcome::AlreadyRecorded];
    assert_eq!(fixture.database.record(&records).await.unwrap(), expected);
    let is_missing =
        |error: &DatabaseError| matches!(error, DatabaseError::StockMissing { uid, .. } if *uid == event.uid);
    assert!(is_missing(&fixture.database.coupons(event.uid, 0, 10).await.unwrap_err()));
    assert!(is_missing(&fixture.database.coupons_by_code(event.uid, &[]).await.unwrap_err()));
    let streamed = fixture.database.stream_coupons_with_holders(event.uid).try_collect::<Vec<_>>().await;
    assert!(is_missing(&streamed.unwrap_err()));
    assert!(is_missing(&fixture.database.stream_coupons(event.uid).try_collect::<Vec<_>>().await.unwrap_err()));

    fixture.sql(&format!("ALTER TABLE hidden RENAME TO {}", table(&event)));
    assert_eq!(fixture.database.record(&records[..1]).await.unwrap(), [RecordOutcome::Recorded]);
}

#[tokio::test]
async fn record_before_stock_is_generated_is_deferred() {
    let fixture = Fixture::new().await;
    let event = fixture.event(1).await;
    let coupons: Vec<_> = batch(0, 3, 0).coupons(event.seed, event.format.clone()).collect();
    let issued = [record(&event, "u1", &coupons[1])];
    let deferred = [RecordOutcome::Deferred(Deferral::StockNotGenerated)];
    assert_eq!(fixture.database.record(&issued).await.unwrap(), deferred);
    assert_eq!(fixture.database.coupons(event.uid, 0, 10).await.unwrap(), []);
    assert_eq!(fixture.database.stream_coupons_with_holders(event.uid).try_collect::<Vec<_>>().await.unwrap(), []);
    fixture.database.generate_coupons(&event, &batch(0, 3, 0), |_| {}).await.unwrap();
    assert_eq!(fixture.database.record(&issued).await.unwrap(), [RecordOutcome::Recorded]);
}
