//! Recording issuances on a real Postgres.

mod support;

use std::collections::HashMap;

use couponry_domain::{Coupon, Discount, DiscountType, IssuedRecord, UserId, Uuid};
use couponry_postgres::{Database, Recording, Refusal, StoredEvent};
use futures::{TryStreamExt as _, future::join_all};
use support::{Books, record};

fn users(event: &StoredEvent, coupons: &[Coupon]) -> Vec<IssuedRecord> {
    coupons.iter().map(|coupon| record(event, &format!("u{}", coupon.ordinal), coupon)).collect()
}

#[tokio::test]
async fn what_is_recorded_can_be_read_back() {
    let books = Books::open().await;
    let (event, coupons) = books.stocked(1, 5, 5).await;
    let issued = record(&event, "한국어 🎟 'quoted' \\N", &coupons[3]);
    assert_eq!(books.database.record(std::slice::from_ref(&issued)).await.unwrap(), [Recording::Recorded]);
    assert_eq!(books.database.record(std::slice::from_ref(&issued)).await.unwrap(), [Recording::AlreadyRecorded]);
    assert_eq!(books.database.record(&[]).await.unwrap(), []);

    let found = books.database.issuance_of(event.uid, &issued.user_id).await.unwrap().unwrap();
    assert_eq!((&found.user_id, &found.coupon), (&issued.user_id, &issued.coupon));
    assert_eq!((found.discount, found.issued_at), (issued.discount, issued.issued_at));
    assert!(found.recorded_at > 0);
    assert_eq!(books.database.issuance_of(event.uid, &"u2".parse().unwrap()).await.unwrap(), None);
    assert_eq!(books.database.issued_count(event.uid).await.unwrap(), 1);
    assert_eq!(books.database.issuances(event.uid).try_collect::<Vec<_>>().await.unwrap(), [found]);

    let status =
        books.sql("SELECT event, issued, count(*), count(user_id) FROM coupon_status GROUP BY 1, 2 ORDER BY 2");
    assert_eq!(status, "event-1|f|9|0\nevent-1|t|1|1");
    let row = books.sql(
        "SELECT ordinal, code, type, value, user_id, extract(epoch FROM issued_at) FROM coupon_status WHERE issued",
    );
    let Coupon { ordinal, code, discount: Discount { kind, value } } = &coupons[3];
    assert_eq!(row, format!("{ordinal}|{code}|{kind}|{value}|{}|1796083200.123000", issued.user_id));
    assert!(books.database.sql("UPDATE issuance SET user_id = 'thief'").is_err());
}

#[tokio::test]
async fn each_kind_of_record_is_told_apart() {
    let books = Books::open().await;
    let (event, c) = books.stocked(1, 10, 0).await;
    let (other, others) = books.stocked(2, 0, 10).await;
    let before = [record(&event, "holder", &c[0])];
    assert_eq!(books.database.record(&before).await.unwrap(), [Recording::Recorded]);

    let invented = Coupon { code: "SUMMER-AAAAAAAAAAAA".into(), ..c[1].clone() };
    let worth_more = Coupon { discount: Discount { kind: DiscountType::Percent, value: 100 }, ..c[3].clone() };
    let as_amount = Coupon { discount: Discount { kind: DiscountType::Amount, value: 10 }, ..c[3].clone() };
    let good = record(&event, "u1", &c[1]);
    let cases = [
        (record(&event, "holder", &c[0]), Recording::AlreadyRecorded),
        (IssuedRecord { event_uid: Uuid::from_u128(99), ..good.clone() }, refused(Refusal::UnknownEvent)),
        // A record of the event that had the name before, or another name under this uid.
        (IssuedRecord { event_id: other.name.clone(), ..good.clone() }, refused(Refusal::UnknownEvent)),
        (record(&event, "u3", &invented), refused(Refusal::UnknownCoupon)),
        // A coupon of another event.
        (record(&event, "u3", &others[0]), refused(Refusal::UnknownCoupon)),
        (record(&event, "u3", &worth_more), refused(Refusal::Mismatch)),
        (record(&event, "u3", &as_amount), refused(Refusal::Mismatch)),
        (record(&event, "u3", &c[0]), refused(Refusal::CouponHeldByAnother)),
        (record(&event, "holder", &c[2]), refused(another(&before[0], true))),
        (record(&event, "holder", &invented), refused(another(&before[0], false))),
        (IssuedRecord { issued_at: i64::MAX, ..good.clone() }, refused(Refusal::ImpossibleTime)),
        (IssuedRecord { issued_at: -1, ..good.clone() }, refused(Refusal::ImpossibleTime)),
        (good, Recording::Recorded),
        (record(&other, "u1", &others[0]), Recording::Recorded),
    ];
    let (records, expected): (Vec<_>, Vec<_>) = cases.into_iter().unzip();
    assert_eq!(books.database.record(&records).await.unwrap(), expected, "all in one batch");
    assert_eq!(books.sql("SELECT count(*) FROM issuance"), "3");

    let again: Vec<_> = expected
        .into_iter()
        .map(|recording| if recording == Recording::Recorded { Recording::AlreadyRecorded } else { recording })
        .collect();
    assert_eq!(books.database.record(&records).await.unwrap(), again);
}

fn refused(refusal: Refusal) -> Recording {
    Recording::Refused(refusal)
}

fn another(held: &IssuedRecord, record_coupon_is_free: bool) -> Refusal {
    let IssuedRecord { coupon, discount, issued_at, .. } = held.clone();
    Refusal::UserHoldsAnother { coupon, discount, issued_at, record_coupon_is_free }
}

#[tokio::test]
async fn inside_a_batch_the_earlier_record_wins() {
    let books = Books::open().await;
    let (event, c) = books.stocked(1, 10, 0).await;
    let batch = [
        record(&event, "z", &c[0]),
        record(&event, "z", &c[0]), // the same again
        record(&event, "a", &c[0]), // another user, who sorts before
        record(&event, "z", &c[1]), // another coupon for the same user
        record(&event, "b", &c[1]), // the coupon that z did not get
        record(&event, "a", &c[2]),
    ];
    let expected = [
        Recording::Recorded,
        Recording::AlreadyRecorded,
        // What a gets in the end is what a is told of.
        refused(another(&batch[5], false)),
        // By the time that this is looked at, b has it.
        refused(another(&batch[0], false)),
        Recording::Recorded,
        Recording::Recorded,
    ];
    assert_eq!(books.database.record(&batch).await.unwrap(), expected);
}

#[tokio::test]
async fn one_bad_record_does_not_keep_out_the_good_ones() {
    let books = Books::open().await;
    let (event, coupons) = books.stocked(1, 1000, 0).await;
    let mut batch = users(&event, &coupons);
    batch[500].coupon = "SUMMER-AAAAAAAAAAAA".parse().unwrap();
    let recordings = books.database.record(&batch).await.unwrap();
    for (i, recording) in recordings.iter().enumerate() {
        let expected = if i == 500 { refused(Refusal::UnknownCoupon) } else { Recording::Recorded };
        assert_eq!(*recording, expected, "record {i}");
    }
    assert_eq!(books.database.issued_count(event.uid).await.unwrap(), 999);
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_with_overlapping_batches_record_each_once() {
    const CONSUMERS: usize = 8;
    let books = Books::open().await;
    let (event, coupons) = books.stocked(1, 2000, 0).await;
    let (other, more) = books.stocked(2, 0, 500).await;
    let mut all = users(&event, &coupons);
    all.extend(users(&other, &more));
    let total = all.len();

    // Everyone records everything, each in an order of its own (steps that share no divisor with the number of records).
    let consumers = (0..CONSUMERS).map(|n| {
        let step = [1, 3, 7, 11, 13, 17, 19, 23][n];
        let order: Vec<_> = (0..total).map(|i| all[(i * step + n * 311) % total].clone()).collect();
        let database = Database::connect(&books.database.url()).unwrap();
        tokio::spawn(async move {
            let mut recorded = Vec::new();
            for batch in order.chunks(250) {
                for (record, recording) in batch.iter().zip(database.record(batch).await.unwrap()) {
                    match recording {
                        Recording::Recorded => recorded.push((record.event_uid, record.user_id.clone())),
                        Recording::AlreadyRecorded => {}
                        Recording::Refused(refusal) => panic!("{refusal}"),
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
    assert_eq!(books.sql("SELECT event_uid, count(*) FROM issuance GROUP BY 1 ORDER BY 1").lines().count(), 2);
    assert_eq!(books.database.issued_count(event.uid).await.unwrap(), 2000);
    assert_eq!(books.database.issued_count(other.uid).await.unwrap(), 500);
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_that_fight_over_coupons_leave_one_winner_each() {
    let books = Books::open().await;
    let (event, coupons) = books.stocked(1, 300, 0).await;
    // User n claims coupon n, n + 1, n + 2, ...: every claim excludes many others, and deadlocks are likely.
    let fights = (0..6).map(|n| {
        let database = Database::connect(&books.database.url()).unwrap();
        let batch: Vec<_> = (0..300).map(|i| record(&event, &format!("u{i}"), &coupons[(i * 7 + n) % 300])).collect();
        tokio::spawn(async move { database.record(&batch).await.unwrap() })
    });
    let mut recorded = 0;
    for recordings in join_all(fights).await {
        for recording in recordings.unwrap() {
            recorded += u64::from(recording == Recording::Recorded);
        }
    }
    assert_eq!(books.database.issued_count(event.uid).await.unwrap(), recorded);
    assert_eq!(
        books.sql("SELECT count(DISTINCT user_id) = count(*), count(DISTINCT code) = count(*) FROM issuance"),
        "t|t"
    );
}

#[tokio::test]
async fn a_batch_that_is_dropped_anywhere_harms_nobody() {
    let books = Books::open().await;
    let (event, coupons) = books.stocked(1, 400, 0).await;
    let batch = users(&event, &coupons);
    let polls_to_finish = 400;
    let mut finished = false;
    for stop_after in 0..polls_to_finish {
        let mut recording = Box::pin(books.database.record(&batch));
        for _ in 0..stop_after {
            if futures::poll!(&mut recording).is_ready() {
                finished = true;
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(recording);
        books.database.ping().await.unwrap();
        if finished {
            break;
        }
    }
    books.database.record(&batch).await.unwrap();
    assert_eq!(books.database.issued_count(event.uid).await.unwrap(), 400);
    // No connection was left inside a transaction.
    assert_eq!(
        books.sql("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'"),
        "0"
    );
}

#[tokio::test]
async fn deleting_an_event_takes_everything_of_it_and_nothing_else() {
    let books = Books::open().await;
    let (event, coupons) = books.stocked(1, 50, 50).await;
    let (other, others) = books.stocked(2, 10, 0).await;
    books.database.record(&users(&event, &coupons)).await.unwrap();
    books.database.record(&users(&other, &others)).await.unwrap();
    books.database.delete_event(event.uid).await.unwrap();
    books.database.delete_event(event.uid).await.unwrap();

    assert_eq!(books.database.event(event.uid).await.unwrap(), None);
    let left =
        "SELECT (SELECT count(*) FROM coupon), (SELECT count(*) FROM issuance), (SELECT count(*) FROM discount_policy)";
    assert_eq!(books.sql(left), "10|10|2");
    let late = books.database.record(&users(&event, &coupons[..2])).await.unwrap();
    assert_eq!(late, [refused(Refusal::UnknownEvent), refused(Refusal::UnknownEvent)]);

    // Made again under the same uid (which Kubernetes never does), it is a new event.
    let (again, _) = books.stocked(1, 5, 5).await;
    assert_ne!(again.seed, event.seed);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_can_be_deleted_while_it_is_recorded() {
    let books = Books::open().await;
    let (event, coupons) = books.stocked(1, 3000, 0).await;
    let all = users(&event, &coupons);
    let database = books.database.clone();
    let recording = tokio::spawn(async move {
        let mut unknown = 0;
        for batch in all.chunks(100) {
            for recording in database.record(batch).await.unwrap() {
                match recording {
                    Recording::Refused(Refusal::UnknownEvent | Refusal::UnknownCoupon) => unknown += 1,
                    Recording::Recorded => {}
                    other => panic!("{other:?}"),
                }
            }
        }
        unknown
    });
    while books.database.issued_count(event.uid).await.unwrap() == 0 {
        tokio::task::yield_now().await;
    }
    books.database.delete_event(event.uid).await.unwrap();
    recording.await.unwrap();
    assert_eq!(books.sql("SELECT (SELECT count(*) FROM issuance), (SELECT count(*) FROM coupon_event)"), "0|0");
}
