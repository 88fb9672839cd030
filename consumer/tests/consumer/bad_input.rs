//! What nobody should write to the topic, and someone does.

use couponry_domain::{Coupon, Discount, IssuedRecord, Uuid, record::VERSION_HEADER};
use couponry_kafka::{Message, Producer};
use couponry_redis::Status;

use crate::support::{TEN_PERCENT, World, user};

#[tokio::test(flavor = "multi_thread")]
async fn what_can_never_be_recorded_becomes_a_dead_letter_and_the_rest_is_recorded() {
    let world = World::open(100).await;
    let good = world.issue(0..10).await;
    let refused = world.issue(10..20).await;
    let spare = &world.coupons[90..];

    // In Postgres, someone else has the coupon of user 10, and user 11 has another coupon.
    let before = [world.record("someone", &coupon_of(&refused[0])), world.record("user-11", &spare[0])];
    world.database.record(&before).await.unwrap();
    let two_hands = &refused[0];
    let two_coupons = &refused[1];
    let unknown_coupon = IssuedRecord { coupon: "SUMMER-AAAAAAAAAAAA".parse().unwrap(), ..refused[2].clone() };
    let unknown_event = IssuedRecord { event_uid: Uuid::from_u128(7), ..refused[3].clone() };
    let other_name = IssuedRecord { event_id: "winter".parse().unwrap(), ..refused[4].clone() };
    let mismatch = IssuedRecord { discount: Discount { value: 99, ..TEN_PERCENT }, ..refused[5].clone() };
    let no_time = IssuedRecord { issued_at: i64::MAX, ..refused[6].clone() };

    world.write(&good[..5]).await;
    world.write_raw(Some("1"), b"\xff\x00garbage").await;
    world.write_raw(Some("1"), b"").await;
    world.write_raw(Some("1"), &vec![b'x'; 900_000]).await;
    world.write_raw(Some("2"), &good[0].encode()).await;
    world.write_raw(None, &good[0].encode()).await;
    let bad = [two_hands, two_coupons, &unknown_coupon, &unknown_event, &other_name, &mismatch, &no_time];
    world.write(&bad.map(Clone::clone)).await;
    world.write(&good).await;
    world.write(&good).await;

    let consumer = world.consumer(&[]);
    world.all_is_committed().await;

    // Postgres: all good ones, once.
    let holders = world.holders().await;
    assert_eq!(holders.len(), good.len() + before.len());
    for record in good.iter().chain(&before) {
        assert_eq!(holders[record.user_id.as_str()], record.coupon.as_str());
    }

    // The dead letters: everything else, as it was, with its reason.
    let letters = world.dead_letters().await;
    let mut reasons: Vec<_> = letters.iter().map(|(reason, ..)| reason.as_str()).collect();
    reasons.sort_unstable();
    let expected = [
        "coupon_held_by_another",
        "discount_mismatch",
        "impossible_time",
        "unknown_coupon",
        "unknown_event",
        "unknown_event",
        "unknown_version",
        "unknown_version",
        "unreadable",
        "unreadable",
        "unreadable",
        "user_holds_another",
    ];
    assert_eq!(reasons, expected);
    let letter = |reason| letters.iter().find(|(r, ..)| r == reason).unwrap();
    assert_eq!(letter("coupon_held_by_another").1, "another user has the coupon");
    assert_eq!(letter("coupon_held_by_another").2, two_hands.encode());
    assert!(letter("unknown_version").1.contains("this version reads \"1\""));
    for reason in expected {
        let metric = format!("couponry_consumer_dead_letters_total{{reason=\"{reason}\"}}");
        let count = expected.iter().filter(|r| **r == reason).count() as u64;
        assert_eq!(consumer.metric(&metric), count, "{metric}");
    }
    assert_eq!(consumer.metric("couponry_consumer_recorded_total"), 10);
    assert_eq!(consumer.metric("couponry_consumer_already_recorded_total"), 15);
    assert!(consumer.running.log().contains("this message can never be recorded"));

    // Redis: the truth for everyone.
    for record in &good {
        assert_eq!(world.holding(&record.user_id).await.status, Status::Completed);
    }
    assert_eq!(world.holding(&user(10)).await.status, Status::Cancelled);
    let replaced = world.holding(&user(11)).await;
    assert_eq!((replaced.status, replaced.coupon.as_str()), (Status::Completed, spare[0].code.as_str()));
    // Records that name another coupon or event say nothing about what these hold; the last two were cancelled.
    let statuses = [Status::Pending, Status::Pending, Status::Pending, Status::Cancelled, Status::Cancelled];
    for (n, status) in (12..17).zip(statuses) {
        assert_eq!(world.holding(&user(n)).await.status, status, "user {n}");
    }
    // The coupon that nobody has is the last in the queue now; the one in another hand is not in it, nor is the one that the
    // database says is with user 11.
    let queue = world.stock.scan_queue(&world.event).await.unwrap();
    assert_eq!(queue.last().unwrap().0, two_coupons.coupon);
    assert_eq!(queue.len(), 100 - 20 + 1 - 1);
    assert!(queue.iter().all(|(coupon, _)| *coupon != two_hands.coupon && coupon.as_str() != spare[0].code));
    assert_eq!(consumer.metric("couponry_consumer_coupons_returned_total"), 1);
}

fn coupon_of(record: &IssuedRecord) -> Coupon {
    Coupon { ordinal: 0, code: record.coupon.to_string(), discount: record.discount }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_record_among_a_thousand_costs_only_itself() {
    let world = World::open(1000).await;
    let mut records = world.issue(0..1000).await;
    records[500].coupon = "SUMMER-AAAAAAAAAAAA".parse().unwrap();
    world.write(&records).await;
    let consumer = world.consumer(&[]);
    world.all_is_committed().await;
    assert_eq!(world.recorded().await, 999);
    let expected = ("unknown_coupon".to_owned(), "the event has no such coupon".to_owned(), records[500].encode());
    assert_eq!(world.dead_letters().await, [expected]);
    assert_eq!(consumer.metric("couponry_consumer_recorded_total"), 999);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_postgres_itself_refuses_is_found_among_a_thousand() {
    let world = World::open(1000).await;
    let database = world.database.as_ref().unwrap();
    database.sql("ALTER TABLE issuance ADD CHECK (user_id NOT IN ('user-3', 'user-700'))").unwrap();
    let records = world.issue(0..1000).await;
    world.write(&records).await;
    let consumer = world.consumer(&[]);
    world.all_is_committed().await;
    assert_eq!(world.recorded().await, 998);
    let mut letters = world.dead_letters().await;
    letters.sort_by_key(|(.., payload)| payload.len());
    let [first, second] = letters.as_slice() else { panic!("{} dead letters", letters.len()) };
    assert_eq!((&first.2, &second.2), (&records[3].encode(), &records[700].encode()));
    assert_eq!(first.0, "unrecordable");
    assert!(first.1.contains("violates check constraint"), "{}", first.1);
    assert_eq!(consumer.metric("couponry_consumer_recorded_total"), 998);
    assert_eq!(world.holding(&user(3)).await.status, Status::Cancelled);
}

/// As large as a message can be: its dead letter says more than it does, and must still fit.
#[tokio::test(flavor = "multi_thread")]
async fn no_message_is_too_large_to_become_a_dead_letter() {
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
        world.write(std::slice::from_ref(record)).await;
        producer.send_message(message).unwrap().await.unwrap();
    }
    world.write(&records).await;

    let consumer = world.consumer(&[]);
    world.all_is_committed().await;
    assert_eq!(world.recorded().await, records.len());
    let letters = world.dead_letters().await;
    assert_eq!(letters.len(), foreign.len());
    for message in &foreign {
        assert!(letters.iter().any(|(.., payload)| message.payload.starts_with(payload)));
    }
    assert!(letters.iter().all(|(_, detail, _)| detail.len() <= 1100));
    assert_eq!(consumer.metric("couponry_consumer_recorded_total"), records.len() as u64);
}
