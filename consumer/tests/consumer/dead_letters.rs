//! Messages that can never be recorded.

use couponry_domain::{Coupon, Discount, IssuedCoupon, IssuedRecord, Uuid, record::VERSION_HEADER};
use couponry_kafka::{Message, Producer};
use couponry_redis::IssuedStatus;

use crate::support::{TEN_PERCENT, World, user};

/// The field is optional: earlier versions do not write it.
#[tokio::test(flavor = "multi_thread")]
async fn records_with_and_without_validity_are_recorded() {
    let world = World::open(10).await;
    let mut records = world.issue(0..4).await;
    records[0].valid_until = Some(1_798_761_600_000);
    records[1].valid_until = Some(253_402_300_799_999);
    world.publish(&records[..3]).await;
    let out_of_range = String::from_utf8(records[3].encode()).unwrap().replace('}', r#","validUntil":-1}"#);
    world.publish_raw(Some("1"), out_of_range.as_bytes()).await;
    let _consumer = world.consumer(&[]);
    world.wait_until_committed().await;
    assert_eq!(world.recorded().await, 3);
    for record in &records[..3] {
        let issuance = world.database.issuance_of(world.uid, &record.issued.user_id).await.unwrap().unwrap();
        assert_eq!(issuance.valid_until, record.valid_until);
    }
    let letters = world.dead_letters().await;
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert!(letters[0].1.contains("validUntil is out of range"), "{letters:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn unrecordable_messages_are_dead_lettered_and_the_rest_is_recorded() {
    let world = World::open(100).await;
    let valid = world.issue(0..10).await;
    let rejected = world.issue(10..20).await;
    let spare = &world.coupons[90..];

    // In Postgres, another user holds the coupon of user 10, and user 11 holds another coupon.
    let before = [world.record("other-user", &coupon_of(&rejected[0])), world.record("user-11", &spare[0])];
    world.database.record(&before).await.unwrap();
    let held_by_another = &rejected[0];
    let holds_another = &rejected[1];
    let changed = |record: &IssuedRecord, change: fn(&mut IssuedCoupon)| {
        let mut record = record.clone();
        change(&mut record.issued);
        record
    };
    let unknown_coupon = changed(&rejected[2], |issued| issued.coupon = "SUMMER-AAAAAAAAAAAA".parse().unwrap());
    let unknown_event = IssuedRecord { event_uid: Uuid::from_u128(7), ..rejected[3].clone() };
    let other_name = IssuedRecord { event_id: "winter".parse().unwrap(), ..rejected[4].clone() };
    let discount_mismatch = changed(&rejected[5], |issued| issued.discount = Discount { value: 99, ..TEN_PERCENT });
    let invalid_time = changed(&rejected[6], |issued| issued.issued_at = i64::MAX);

    world.publish(&valid[..5]).await;
    world.publish_raw(Some("1"), b"\xff\x00garbage").await;
    world.publish_raw(Some("1"), b"").await;
    world.publish_raw(Some("1"), &vec![b'x'; 900_000]).await;
    world.publish_raw(Some("2"), &valid[0].encode()).await;
    world.publish_raw(None, &valid[0].encode()).await;
    let bad = [
        held_by_another,
        holds_another,
        &unknown_coupon,
        &unknown_event,
        &other_name,
        &discount_mismatch,
        &invalid_time,
    ];
    world.publish(&bad.map(Clone::clone)).await;
    world.publish(&valid).await;
    world.publish(&valid).await;

    let consumer = world.consumer(&[]);
    world.wait_until_committed().await;

    // Postgres has all valid records once.
    let holders = world.holders().await;
    assert_eq!(holders.len(), valid.len() + before.len());
    for record in valid.iter().chain(&before) {
        assert_eq!(holders[record.issued.user_id.as_str()], record.issued.coupon.as_str());
    }

    // The dead-letter topic has all other messages unchanged, with their reason.
    let letters = world.dead_letters().await;
    let mut reasons: Vec<_> = letters.iter().map(|(reason, ..)| reason.as_str()).collect();
    reasons.sort_unstable();
    let expected = [
        "coupon_held_by_another",
        "discount_mismatch",
        "issued_at_out_of_range",
        "undecodable",
        "undecodable",
        "undecodable",
        "undecodable",
        "unknown_coupon",
        "unknown_event",
        "unknown_event",
        "unknown_version",
        "user_holds_another",
    ];
    assert_eq!(reasons, expected);
    let letter = |reason| letters.iter().find(|(r, ..)| r == reason).unwrap();
    assert_eq!(letter("coupon_held_by_another").1, "another user has the coupon");
    assert_eq!(letter("coupon_held_by_another").2, held_by_another.encode());
    assert!(letter("unknown_version").1.contains("expected \"1\""));
    for reason in expected {
        let metric = format!("couponry_consumer_dead_letters_total{{reason=\"{reason}\"}}");
        let count = expected.iter().filter(|r| **r == reason).count() as u64;
        assert_eq!(consumer.metric(&metric), count, "{metric}");
    }
    let (_, metrics) = consumer.page("/metrics").unwrap();
    let unused = "couponry_consumer_dead_letters_total{reason=\"unrecordable\"} 0";
    assert!(metrics.contains(unused), "the alert would miss the first dead letter: {metrics}");
    assert_eq!(consumer.metric("couponry_consumer_recorded_total"), 10);
    assert_eq!(consumer.metric("couponry_consumer_already_recorded_total"), 15);
    assert!(consumer.running.log().contains("dead-lettered a message"));

    // Redis has the outcome for every user.
    for record in &valid {
        assert_eq!(world.entry(&record.issued.user_id).await.status, IssuedStatus::Completed);
    }
    assert_eq!(world.entry(&user(10)).await.status, IssuedStatus::Cancelled);
    let replaced = world.entry(&user(11)).await;
    assert_eq!((replaced.status, &replaced.issued.coupon), (IssuedStatus::Completed, &spare[0].code));
    // Records with another coupon or event do not change the entries of their users; the last two are cancelled.
    let statuses = [
        IssuedStatus::Pending,
        IssuedStatus::Pending,
        IssuedStatus::Pending,
        IssuedStatus::Cancelled,
        IssuedStatus::Cancelled,
    ];
    for (n, status) in (12..17).zip(statuses) {
        assert_eq!(world.entry(&user(n)).await.status, status, "user {n}");
    }
    // The coupon without a holder was returned to the end of the queue. The coupons with a holder in Postgres are not
    // in the queue.
    let queue = world.redis_store.scan_queue(&world.event).await.unwrap();
    assert_eq!(queue.last().unwrap().0, holds_another.issued.coupon);
    assert_eq!(queue.len(), 100 - 20 + 1 - 1);
    assert!(queue.iter().all(|(coupon, _)| *coupon != held_by_another.issued.coupon && *coupon != spare[0].code));
    assert_eq!(consumer.metric("couponry_consumer_coupons_requeued_total"), 1);
}

fn coupon_of(record: &IssuedRecord) -> Coupon {
    Coupon { ordinal: 0, code: record.issued.coupon.clone(), discount: record.issued.discount }
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_record_in_a_batch_is_dead_lettered_alone() {
    let world = World::open(1000).await;
    let mut records = world.issue(0..1000).await;
    records[500].issued.coupon = "SUMMER-AAAAAAAAAAAA".parse().unwrap();
    world.publish(&records).await;
    let consumer = world.consumer(&[]);
    world.wait_until_committed().await;
    assert_eq!(world.recorded().await, 999);
    let expected = ("unknown_coupon".to_owned(), "the event has no such coupon".to_owned(), records[500].encode());
    assert_eq!(world.dead_letters().await, [expected]);
    assert_eq!(consumer.metric("couponry_consumer_recorded_total"), 999);
}

#[tokio::test(flavor = "multi_thread")]
async fn record_rejected_by_postgres_is_found_by_bisection() {
    let world = World::open(1000).await;
    let database = world.test_database.as_ref().unwrap();
    database.sql("ALTER TABLE issuance ADD CHECK (user_id NOT IN ('user-3', 'user-700'))").unwrap();
    let records = world.issue(0..1000).await;
    world.publish(&records).await;
    let consumer = world.consumer(&[]);
    world.wait_until_committed().await;
    assert_eq!(world.recorded().await, 998);
    let mut letters = world.dead_letters().await;
    letters.sort_by_key(|(.., payload)| payload.len());
    let [first, second] = letters.as_slice() else { panic!("{} dead letters", letters.len()) };
    assert_eq!((&first.2, &second.2), (&records[3].encode(), &records[700].encode()));
    assert_eq!(first.0, "unrecordable");
    assert!(first.1.contains("violates check constraint"), "{}", first.1);
    assert_eq!(consumer.metric("couponry_consumer_recorded_total"), 998);
    assert_eq!(world.entry(&user(3)).await.status, IssuedStatus::Cancelled);
}

/// A dead letter has more headers than its message, and must fit even if the message has the maximum size.
#[tokio::test(flavor = "multi_thread")]
async fn largest_messages_are_dead_lettered() {
    let world = World::open(20).await;
    let records = world.issue(0..20).await;
    let record = records[0].encode();
    let version = |value: &[u8]| (VERSION_HEADER.to_owned(), Some(value.to_vec()));
    let message = |key: Option<Vec<u8>>, payload: &[u8], headers| Message {
        partition: 0,
        offset: 0,
        key,
        payload: payload.to_vec(),
        headers,
    };
    let huge_type = String::from_utf8(record.clone()).unwrap().replace("PERCENT", &"é".repeat(400_000));
    let many = (0..9000).map(|i| (format!("header-{i}"), Some(vec![b'x'; 90]))).collect();
    let foreign = [
        message(None, &record, vec![version(&[0xff; 500_000])]),
        message(None, &record, vec![version(&[b'9'; 999_000])]),
        message(None, huge_type.as_bytes(), vec![version(b"1")]),
        message(Some(vec![b'k'; 999_500]), b"garbage", vec![version(b"1")]),
        message(None, &vec![b'x'; 900_000], vec![version(b"1")]),
        message(None, &vec![b'x'; 999_800], vec![version(b"1")]),
        message(None, b"garbage", many),
    ];
    let producer = Producer::new(&world.kafka).unwrap();
    for (message, record) in foreign.iter().zip(&records) {
        world.publish(std::slice::from_ref(record)).await;
        producer.send_messages(std::slice::from_ref(message)).unwrap().await.unwrap();
    }
    world.publish(&records).await;

    let consumer = world.consumer(&[]);
    world.wait_until_committed().await;
    assert_eq!(world.recorded().await, records.len());
    let letters = world.dead_letters().await;
    assert_eq!(letters.len(), foreign.len());
    for message in &foreign {
        assert!(letters.iter().any(|(.., payload)| message.payload.starts_with(payload)));
    }
    assert!(letters.iter().all(|(_, detail, _)| detail.len() <= 1100));
    assert_eq!(consumer.metric("couponry_consumer_recorded_total"), records.len() as u64);
}
