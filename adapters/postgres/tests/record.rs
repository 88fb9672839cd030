//! Recording issuances in a real Postgres.

mod support;

use std::{
    collections::HashMap,
    future::poll_fn,
    task::Poll,
    time::{Duration, Instant},
};

use couponry_domain::{
    Coupon, CouponTerms, Discount, DiscountType, IssuedCoupon, IssuedRecord, UserId, Uuid, Validity,
};
use couponry_postgres::{Database, NewEvent, RecordOutcome, Rejection, StoredEvent};
use futures::{TryStreamExt as _, future::join_all};
use support::{Fixture, batch, new_event, record};

fn users(event: &StoredEvent, coupons: &[Coupon]) -> Vec<IssuedRecord> {
    coupons.iter().map(|coupon| record(event, &format!("u{}", coupon.ordinal), coupon)).collect()
}

#[tokio::test]
async fn recorded_issuance_is_returned_by_every_query() {
    let fixture = Fixture::new().await;
    let (event, coupons) = fixture.event_with_coupons(1, 5, 5).await;
    let issued = record(&event, "한국어 🎟 'quoted' \\N", &coupons[3]);
    assert_eq!(fixture.database.record(std::slice::from_ref(&issued)).await.unwrap(), [RecordOutcome::Recorded]);
    assert_eq!(fixture.database.record(std::slice::from_ref(&issued)).await.unwrap(), [RecordOutcome::AlreadyRecorded]);
    assert_eq!(fixture.database.record(&[]).await.unwrap(), []);

    let found = fixture.database.issuance_of(event.uid, &issued.issued.user_id).await.unwrap().unwrap();
    assert_eq!(found.issued, issued.issued);
    assert!(found.recorded_at > 0);
    assert_eq!(fixture.database.issuance_of(event.uid, &"u2".parse().unwrap()).await.unwrap(), None);
    assert_eq!(fixture.database.recorded_count(event.uid).await.unwrap(), 1);
    assert_eq!(fixture.database.stream_issuances(event.uid).try_collect::<Vec<_>>().await.unwrap(), [found]);

    let status =
        fixture.sql("SELECT event, recorded, count(*), count(user_id) FROM coupon_status GROUP BY 1, 2 ORDER BY 2");
    assert_eq!(status, "event-1|f|9|0\nevent-1|t|1|1");
    let row = fixture.sql(
        "SELECT ordinal, code, type, value, user_id, extract(epoch FROM issued_at) FROM coupon_status WHERE recorded",
    );
    let Coupon { ordinal, code, discount: Discount { kind, value } } = &coupons[3];
    assert_eq!(row, format!("{ordinal}|{code}|{kind}|{value}|{}|1796083200.123000", issued.issued.user_id));
    assert!(fixture.server.sql("UPDATE issuance SET user_id = 'other'").is_err());
}

/// Each coupon has the validity of its record, also in a batch with records of an earlier version, and after conflicts.
#[tokio::test]
async fn validity_is_recorded_with_issuance() {
    let fixture = Fixture::new().await;
    let validity: Validity = "P1D UTC".parse().unwrap();
    let terms = CouponTerms { validity: Some(validity.clone()), ..CouponTerms::default() };
    let event = fixture.database.register(&NewEvent { terms, ..new_event(1) }).await.unwrap();
    let batch = batch(0, 5, 5);
    fixture.database.generate_coupons(&event, &batch, |_| {}).await.unwrap();
    let coupons: Vec<_> = batch.coupons(event.seed, event.format.clone()).collect();
    let limited = |user: &str, coupon: &Coupon| {
        let record = record(&event, user, coupon);
        IssuedRecord { valid_until: Some(validity.valid_until(record.issued.issued_at)), ..record }
    };
    let valid_until = async |user: &str| {
        fixture.database.issuance_of(event.uid, &user.parse().unwrap()).await.unwrap().unwrap().valid_until
    };
    let expected = Some(1_796_083_200_123 + 86_400_000);

    let mixed = [limited("u0", &coupons[0]), record(&event, "u1", &coupons[1])];
    assert_eq!(fixture.database.record(&mixed).await.unwrap(), [RecordOutcome::Recorded, RecordOutcome::Recorded]);
    assert_eq!((valid_until("u0").await, valid_until("u1").await), (expected, None));
    let again = [limited("u0", &coupons[0]), limited("u2", &coupons[2])];
    let outcomes = fixture.database.record(&again).await.unwrap();
    assert_eq!(outcomes, [RecordOutcome::AlreadyRecorded, RecordOutcome::Recorded]);
    assert_eq!(valid_until("u2").await, expected);
    let unlimited = record(&event, "u3", &coupons[3]);
    assert_eq!(fixture.database.record(&[unlimited]).await.unwrap(), [RecordOutcome::Recorded]);
    // The operator records what Redis has without a record.
    let stored = fixture.database.event(event.uid).await.unwrap().unwrap();
    let issued = [record(&event, "u4", &coupons[4]).issued];
    fixture.database.record_again(&stored, &issued).await.unwrap().unwrap();
    assert_eq!((valid_until("u3").await, valid_until("u4").await), (None, expected));

    let coupons: Vec<_> = fixture.database.stream_coupons_with_holders(event.uid).try_collect().await.unwrap();
    let ends: Vec<_> = coupons.iter().map(|coupon| coupon.valid_until).collect();
    assert_eq!(ends, [expected, None, expected, None, expected, None, None, None, None, None]);
    let ends =
        fixture.sql("SELECT DISTINCT extract(epoch FROM valid_until) FROM coupon_status WHERE recorded ORDER BY 1");
    assert_eq!(ends, "1796169600.123000");
}

#[tokio::test]
async fn record_returns_outcome_of_each_kind_of_record() {
    let fixture = Fixture::new().await;
    let (event, c) = fixture.event_with_coupons(1, 10, 0).await;
    let (other, others) = fixture.event_with_coupons(2, 0, 10).await;
    let before = [record(&event, "holder", &c[0])];
    assert_eq!(fixture.database.record(&before).await.unwrap(), [RecordOutcome::Recorded]);

    let unknown = Coupon { code: "SUMMER-AAAAAAAAAAAA".parse().unwrap(), ..c[1].clone() };
    let worth_more = Coupon { discount: Discount { kind: DiscountType::Percent, value: 100 }, ..c[3].clone() };
    let as_amount = Coupon { discount: Discount { kind: DiscountType::Amount, value: 10 }, ..c[3].clone() };
    let good = record(&event, "u1", &c[1]);
    let cases = [
        (record(&event, "holder", &c[0]), RecordOutcome::AlreadyRecorded),
        (IssuedRecord { event_uid: Uuid::from_u128(99), ..good.clone() }, rejected(Rejection::UnknownEvent)),
        // A record of an earlier event with this name, or of another name with this uid.
        (IssuedRecord { event_id: other.name.clone(), ..good.clone() }, rejected(Rejection::UnknownEvent)),
        (record(&event, "u3", &unknown), rejected(Rejection::UnknownCoupon)),
        // A coupon of another event.
        (record(&event, "u3", &others[0]), rejected(Rejection::UnknownCoupon)),
        (record(&event, "u3", &worth_more), rejected(Rejection::DiscountMismatch)),
        (record(&event, "u3", &as_amount), rejected(Rejection::DiscountMismatch)),
        (record(&event, "u3", &c[0]), rejected(Rejection::CouponHeldByAnother)),
        (record(&event, "holder", &c[2]), rejected(another(&before[0], true))),
        (record(&event, "holder", &unknown), rejected(another(&before[0], false))),
        (issued_at(i64::MAX, &good), rejected(Rejection::IssuedAtOutOfRange)),
        (issued_at(-1, &good), rejected(Rejection::IssuedAtOutOfRange)),
        (good, RecordOutcome::Recorded),
        (record(&other, "u1", &others[0]), RecordOutcome::Recorded),
    ];
    let (records, expected): (Vec<_>, Vec<_>) = cases.into_iter().unzip();
    assert_eq!(fixture.database.record(&records).await.unwrap(), expected, "in one batch");
    assert_eq!(fixture.sql("SELECT count(*) FROM issuance"), "3");

    let again: Vec<_> = expected
        .into_iter()
        .map(|recording| if recording == RecordOutcome::Recorded { RecordOutcome::AlreadyRecorded } else { recording })
        .collect();
    assert_eq!(fixture.database.record(&records).await.unwrap(), again);
}

fn rejected(rejection: Rejection) -> RecordOutcome {
    RecordOutcome::Rejected(rejection)
}

fn another(held: &IssuedRecord, record_coupon_is_free: bool) -> Rejection {
    Rejection::UserHoldsAnother { recorded: held.issued.clone(), record_coupon_is_free }
}

fn issued_at(issued_at: i64, record: &IssuedRecord) -> IssuedRecord {
    IssuedRecord { issued: IssuedCoupon { issued_at, ..record.issued.clone() }, ..record.clone() }
}

#[tokio::test]
async fn record_with_conflicting_records_in_batch_records_first_one() {
    let fixture = Fixture::new().await;
    let (event, c) = fixture.event_with_coupons(1, 10, 0).await;
    let batch = [
        record(&event, "z", &c[0]),
        record(&event, "z", &c[0]), // the same record again
        record(&event, "a", &c[0]), // another user, who is sorted before
        record(&event, "z", &c[1]), // another coupon for the same user
        record(&event, "b", &c[1]), // the coupon that z did not receive
        record(&event, "a", &c[2]),
    ];
    let expected = [
        RecordOutcome::Recorded,
        RecordOutcome::AlreadyRecorded,
        // The last record of user `a` is recorded.
        rejected(another(&batch[5], false)),
        // When it is classified, b has the coupon.
        rejected(another(&batch[0], false)),
        RecordOutcome::Recorded,
        RecordOutcome::Recorded,
    ];
    assert_eq!(fixture.database.record(&batch).await.unwrap(), expected);
}

#[tokio::test]
async fn record_with_one_invalid_record_records_the_others() {
    let fixture = Fixture::new().await;
    let (event, coupons) = fixture.event_with_coupons(1, 1000, 0).await;
    let mut batch = users(&event, &coupons);
    batch[500].issued.coupon = "SUMMER-AAAAAAAAAAAA".parse().unwrap();
    let recordings = fixture.database.record(&batch).await.unwrap();
    for (i, recording) in recordings.iter().enumerate() {
        let expected = if i == 500 { rejected(Rejection::UnknownCoupon) } else { RecordOutcome::Recorded };
        assert_eq!(*recording, expected, "record {i}");
    }
    assert_eq!(fixture.database.recorded_count(event.uid).await.unwrap(), 999);
}

#[tokio::test(flavor = "multi_thread")]
async fn record_of_overlapping_batches_records_each_issuance_once() {
    const CONSUMERS: usize = 8;
    let fixture = Fixture::new().await;
    let (event, coupons) = fixture.event_with_coupons(1, 2000, 0).await;
    let (other, more) = fixture.event_with_coupons(2, 0, 500).await;
    let mut all = users(&event, &coupons);
    all.extend(users(&other, &more));
    let total = all.len();

    // Every consumer records everything in its own order (the steps share no divisor with the number of records).
    let consumers = (0..CONSUMERS).map(|n| {
        let step = [1, 3, 7, 11, 13, 17, 19, 23][n];
        let order: Vec<_> = (0..total).map(|i| all[(i * step + n * 311) % total].clone()).collect();
        let database = Database::connect(&fixture.server.url()).unwrap();
        tokio::spawn(async move {
            let mut recorded = Vec::new();
            for batch in order.chunks(250) {
                for (record, recording) in batch.iter().zip(database.record(batch).await.unwrap()) {
                    match recording {
                        RecordOutcome::Recorded => recorded.push((record.event_uid, record.issued.user_id.clone())),
                        RecordOutcome::AlreadyRecorded => {}
                        other => panic!("{other:?}"),
                    }
                }
            }
            recorded
        })
    });
    let mut times: HashMap<(Uuid, UserId), usize> = HashMap::new();
    for recorded in join_all(consumers).await {
        for who in recorded.unwrap() {
            *times.entry(who).or_default() += 1;
        }
    }
    assert_eq!(times.len(), total);
    assert!(times.values().all(|n| *n == 1));
    assert_eq!(fixture.sql("SELECT event_uid, count(*) FROM issuance GROUP BY 1 ORDER BY 1").lines().count(), 2);
    assert_eq!(fixture.database.recorded_count(event.uid).await.unwrap(), 2000);
    assert_eq!(fixture.database.recorded_count(other.uid).await.unwrap(), 500);
}

#[tokio::test(flavor = "multi_thread")]
async fn record_of_conflicting_batches_keeps_users_and_coupons_unique() {
    let fixture = Fixture::new().await;
    let (event, coupons) = fixture.event_with_coupons(1, 300, 0).await;
    // The batches assign different coupons to the same users: every record excludes many others, and deadlocks are
    // likely.
    let conflicting = (0..6).map(|n| {
        let database = Database::connect(&fixture.server.url()).unwrap();
        let batch: Vec<_> = (0..300).map(|i| record(&event, &format!("u{i}"), &coupons[(i * 7 + n) % 300])).collect();
        tokio::spawn(async move { database.record(&batch).await.unwrap() })
    });
    let mut recorded = 0;
    for recordings in join_all(conflicting).await {
        for recording in recordings.unwrap() {
            recorded += u64::from(recording == RecordOutcome::Recorded);
        }
    }
    assert_eq!(fixture.database.recorded_count(event.uid).await.unwrap(), recorded);
    assert_eq!(
        fixture.sql("SELECT count(DISTINCT user_id) = count(*), count(DISTINCT code) = count(*) FROM issuance"),
        "t|t"
    );
}

const OPEN_TRANSACTIONS: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'";

#[tokio::test]
async fn record_dropped_at_any_await_leaves_pool_usable() {
    let fixture = Fixture::new().await;
    let (event, coupons) = fixture.event_with_coupons(1, 400, 0).await;
    let batch = users(&event, &coupons);
    let (mut finished, mut stop_after) = (false, 0);
    while !finished {
        stop_after += 1;
        let (mut recording, mut polls) = (Box::pin(fixture.database.record(&batch)), 0);
        // It is polled only when it can continue, so each await is reached, on a slow machine as well.
        finished = poll_fn(|context| {
            polls += 1;
            match recording.as_mut().poll(context) {
                Poll::Ready(recorded) => Poll::Ready(recorded.map(|_| true)),
                Poll::Pending if polls == stop_after => Poll::Ready(Ok(false)),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
        .unwrap();
        drop(recording);
        fixture.database.ping().await.unwrap();
        // A session that was left in a transaction would stay in it for a minute.
        let dropped_at = Instant::now();
        while fixture.sql(OPEN_TRANSACTIONS) != "0" {
            assert!(dropped_at.elapsed() < Duration::from_secs(30), "dropped after {stop_after} polls");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    fixture.database.record(&batch).await.unwrap();
    assert_eq!(fixture.database.recorded_count(event.uid).await.unwrap(), 400);
}

#[tokio::test]
async fn delete_event_removes_its_rows_only() {
    let fixture = Fixture::new().await;
    let (event, coupons) = fixture.event_with_coupons(1, 50, 50).await;
    let (other, others) = fixture.event_with_coupons(2, 10, 0).await;
    fixture.database.record(&users(&event, &coupons)).await.unwrap();
    fixture.database.record(&users(&other, &others)).await.unwrap();
    fixture.database.delete_event(event.uid, &event.name).await.unwrap();
    fixture.database.delete_event(event.uid, &event.name).await.unwrap();

    assert_eq!(fixture.database.event(event.uid).await.unwrap(), None);
    let left =
        "SELECT (SELECT count(*) FROM coupon), (SELECT count(*) FROM issuance), (SELECT count(*) FROM discount_policy)";
    assert_eq!(fixture.sql(left), "10|10|2");
    let late = fixture.database.record(&users(&event, &coupons[..2])).await.unwrap();
    assert_eq!(late, [rejected(Rejection::UnknownEvent), rejected(Rejection::UnknownEvent)]);

    // Registered again with the same uid (which Kubernetes never does), it is a new event.
    let (again, _) = fixture.event_with_coupons(1, 5, 5).await;
    assert_ne!(again.seed, event.seed);
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_event_while_recording_removes_all_rows() {
    let fixture = Fixture::new().await;
    let (event, coupons) = fixture.event_with_coupons(1, 3000, 0).await;
    let all = users(&event, &coupons);
    let database = fixture.database.clone();
    let recording = tokio::spawn(async move {
        let mut unknown = 0;
        for batch in all.chunks(100) {
            for recording in database.record(batch).await.unwrap() {
                match recording {
                    RecordOutcome::Rejected(Rejection::UnknownEvent) => unknown += 1,
                    RecordOutcome::Recorded => {}
                    other => panic!("{other:?}"),
                }
            }
        }
        unknown
    });
    while fixture.database.recorded_count(event.uid).await.unwrap() == 0 {
        tokio::task::yield_now().await;
    }
    fixture.database.delete_event(event.uid, &event.name).await.unwrap();
    recording.await.unwrap();
    assert_eq!(fixture.sql("SELECT (SELECT count(*) FROM issuance), (SELECT count(*) FROM coupon_event)"), "0|0");
}
