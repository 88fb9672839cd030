//! Audits of real stores: consistent stores have no discrepancy, and every manipulation is reported.

use std::time::Duration;

use couponry_audit::{Report, Stores, Verdict};
use couponry_domain::{
    Acknowledge, CodeFormat, CouponBatch, CouponTerms, Discount,
    DiscountType::{Amount, Percent},
    EventName, Gate, IssuedCoupon, IssuedRecord, PseudonymKey, Release, UserId, Uuid, Window,
};
use couponry_kafka::{Consumer, DeadLetterProducer, KafkaSettings, Producer, TopicSettings, topics};
use couponry_postgres::{Database, NewEvent, VoidOutcome};
use couponry_redis::{ErasedUser, FencedWrite, GateSettings, RedisStore, Settlement, SettlementOutcome};
use couponry_testbed::{Database as TestDatabase, shared, unique_name};

const ISSUED: usize = 60;
const COUPONS: u64 = 100;

/// Sends a command to the shared Redis.
fn redis(arguments: &[&str]) {
    couponry_testbed::redis::command(&shared::redis(), arguments).unwrap();
}

/// An event with 60 of its 100 coupons issued.
struct Fixture {
    event: EventName,
    uid: Uuid,
    prefix: String,
    database: TestDatabase,
    stores: Stores,
    records: Vec<IssuedRecord>,
}

impl Fixture {
    /// The issued coupons are only in Redis and its outbox.
    async fn issued() -> Self {
        let name = unique_name("audit");
        let (prefix, server) = (format!("{name}:"), TestDatabase::create().unwrap());
        let kafka = KafkaSettings { brokers: shared::kafka(), topic: name.clone(), ..KafkaSettings::default() };
        let redis_store = RedisStore::connect(&shared::redis(), &prefix).unwrap();
        let database = Database::connect(&server.url()).unwrap();
        let (event, uid): (EventName, Uuid) = ("summer".parse().unwrap(), Uuid::new_v4());

        let topic =
            TopicSettings { partitions: 3, replication: 1, min_insync_replicas: 1, retention: None, used_topic: None };
        topics::ensure(&kafka, &topic).await.unwrap();
        database.migrate().await.unwrap();
        let (policy_name, format) = ("Test".into(), CodeFormat::default());
        let new = NewEvent {
            uid,
            name: event.clone(),
            policy_name,
            format,
            terms: CouponTerms::default(),
            release: Release::default(),
            generation: 1,
        };
        let registered = database.register(&new).await.unwrap();
        let discount = |kind, value| Discount { kind, value };
        let batch =
            CouponBatch { first_ordinal: 0, counts: vec![(discount(Percent, 10), 70), (discount(Amount, 10), 30)] };
        database.generate_coupons(&registered, &batch, |_| ()).await.unwrap();
        database.schedule_opening(&registered, 0, None, true).await.unwrap();
        redis_store.prepare(&event, uid, 0).await.unwrap();
        let observed = redis_store.observe(&event).await.unwrap().unwrap();
        redis_store.mark_verified(&event, &observed, None).await.unwrap();
        let coupons = database.coupons(uid, 0, 1000).await.unwrap();
        redis_store.load(&event, uid, 0, &coupons).await.unwrap();
        let (gate, window) = (Gate::Open, Window::default());
        let acknowledge = Acknowledge::Redis;
        let settings = GateSettings {
            gate,
            window,
            acknowledge,
            validity: None,
            release: Release::default(),
            admission_key: None,
            generation: 1,
            stock_epoch: 0,
            total: COUPONS,
        };
        redis_store.set_gate(&event, uid, &settings).await.unwrap();

        let users: Vec<UserId> = (0..ISSUED).map(|number| format!("u{number}").parse().unwrap()).collect();
        let records = redis_store.issue(&event, &users).await.unwrap().unwrap().outbox.unwrap().records;
        let stores = Stores { redis_store, database, kafka, group: name };
        Self { event, uid, prefix, database: server, stores, records }
    }

    /// The issued coupons are recorded.
    async fn recorded() -> Self {
        let fixture = Self::issued().await;
        fixture.send(&fixture.records).await;
        fixture.empty_outbox().await;
        fixture.stores.database.record(&fixture.records).await.unwrap();
        fixture.settle(&fixture.records, &SettlementOutcome::Completed).await;
        fixture.consume().await;
        fixture
    }

    async fn send(&self, records: &[IssuedRecord]) {
        let producer = Producer::new(&self.stores.kafka).unwrap();
        for record in records {
            producer.send(record).unwrap().await.unwrap();
        }
    }

    async fn empty_outbox(&self) {
        let left = self.stores.redis_store.list_unconfirmed(&self.event, Duration::ZERO, None, 10).await.unwrap();
        let ids: Vec<_> = left.entries.into_iter().map(|entry| entry.id).collect();
        self.stores.redis_store.delete_confirmed(&self.event, &ids).await.unwrap();
    }

    async fn settle(&self, records: &[IssuedRecord], outcome: &SettlementOutcome) {
        let settlement = |record: &IssuedRecord| Settlement {
            user: record.issued.user_id.clone(),
            coupon: record.issued.coupon.clone(),
            outcome: outcome.clone(),
        };
        let settlements: Vec<_> = records.iter().map(settlement).collect();
        self.stores.redis_store.settle(&self.event, self.uid, &settlements).await.unwrap();
    }

    /// Commits all messages of the topic.
    async fn consume(&self) {
        let (kafka, group) = (&self.stores.kafka, &self.stores.consumer_group().await.unwrap());
        let mut consumer = Consumer::new(kafka, group).unwrap();
        let lag = couponry_kafka::LagClient::new(kafka, group).unwrap();
        while lag.measure(Duration::from_secs(30)).await.unwrap() > 0 {
            let batch = consumer.next_batch(1000, Duration::from_millis(50)).await.unwrap();
            consumer.commit(&batch).await.unwrap();
        }
        consumer.close(Duration::from_secs(10)).await;
    }

    fn key(&self, kind: &str) -> String {
        format!("{}coupon{kind}:{{summer}}", self.prefix)
    }

    async fn audit(&self) -> Report {
        self.stores.audit(&self.event, self.uid, Duration::from_secs(1)).await.unwrap()
    }

    /// The kinds of the discrepancies, and their messages.
    async fn discrepancies(&self) -> (Vec<&'static str>, String) {
        let report = self.audit().await;
        assert_eq!(report.verdict, Verdict::Differs, "{report:#?}");
        let messages: Vec<String> = report.discrepancies.examples.iter().map(ToString::to_string).collect();
        (report.discrepancies.counts.keys().copied().collect(), messages.join("\n"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn audit_of_consistent_stores_is_ok() {
    let fixture = Fixture::recorded().await;
    fixture.send(&fixture.records[..2]).await;
    fixture.consume().await;
    let report = fixture.audit().await;
    assert_eq!(report.verdict, Verdict::Ok, "{report:#?}");
    let counts = &report.counts;
    assert_eq!((counts.generated, counts.recorded, counts.available, counts.issued), (100, 60, 40, 60));
    assert_eq!((counts.sent, counts.resent, counts.dead_letters, counts.lag), (60, 2, 0, 0));
    assert!(counts.not_in_kafka == 0 && report.notes.is_empty(), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn audit_of_coupons_in_flight_is_ok() {
    let fixture = Fixture::issued().await;
    let in_outbox = fixture.audit().await;
    assert_eq!((in_outbox.verdict, in_outbox.in_flight.coupons), (Verdict::Ok, 60), "{in_outbox:#?}");
    assert!(in_outbox.in_flight.oldest.is_some());
    fixture.send(&fixture.records).await;
    fixture.empty_outbox().await;
    let in_kafka = fixture.audit().await;
    assert_eq!((in_kafka.verdict, in_kafka.in_flight.coupons), (Verdict::Ok, 60), "{in_kafka:#?}");
    assert_eq!(in_kafka.counts.lag, 60);
    fixture.stores.database.record(&fixture.records).await.unwrap();
    let in_postgres = fixture.audit().await;
    assert_eq!((in_postgres.verdict, in_postgres.in_flight.coupons), (Verdict::Ok, 60), "{in_postgres:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn audit_of_coupon_in_flight_for_more_than_a_minute_is_delayed() {
    let fixture = Fixture::issued().await;
    let oldest = &fixture.records[0].issued;
    let entry = format!("{}:{}:{}:PENDING", oldest.coupon, oldest.discount, oldest.issued_at - 61_000);
    redis(&["HSET", &fixture.key("Issued"), oldest.user_id.as_str(), &entry]);
    let report = fixture.audit().await;
    assert_eq!((report.verdict, report.in_flight.coupons), (Verdict::Delayed, 60), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn audit_waits_until_coupons_in_flight_are_recorded() {
    let fixture = Fixture::issued().await;
    fixture.send(&fixture.records).await;
    fixture.empty_outbox().await;
    let recorded_meanwhile = async {
        // The query of the first check. The sessions of the pool are idle after it.
        let checked = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
                                      AND query LIKE '%issuance%UNION%' AND pid <> pg_backend_pid())";
        while fixture.database.sql(checked).unwrap() != "t" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        fixture.stores.database.record(&fixture.records).await.unwrap();
        fixture.settle(&fixture.records, &SettlementOutcome::Completed).await;
        fixture.consume().await;
    };
    let audited = fixture.stores.audit(&fixture.event, fixture.uid, Duration::from_mins(1));
    let (report, ()) = tokio::join!(audited, recorded_meanwhile);
    let report = report.unwrap();
    assert_eq!((report.verdict, report.in_flight.coupons, report.counts.lag), (Verdict::Ok, 0, 0), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn audit_after_loss_of_topic_is_ok_with_note() {
    let fixture = Fixture::issued().await;
    fixture.empty_outbox().await;
    fixture.stores.database.record(&fixture.records).await.unwrap();
    fixture.settle(&fixture.records, &SettlementOutcome::Completed).await;
    let report = fixture.audit().await;
    assert_eq!((report.verdict, report.counts.not_in_kafka), (Verdict::Ok, 60), "{report:#?}");
    assert!(report.notes[0].starts_with("60 recorded issuances have no record in Kafka"), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn audit_without_backlog_reports_lost_coupons() {
    let fixture = Fixture::issued().await;
    fixture.send(&fixture.records[1..]).await;
    fixture.empty_outbox().await;
    fixture.stores.database.record(&fixture.records[2..]).await.unwrap();
    fixture.settle(&fixture.records[3..], &SettlementOutcome::Completed).await;
    fixture.consume().await;
    let (kinds, messages) = fixture.discrepancies().await;
    assert_eq!(kinds, ["notRecorded", "onlyInKafka", "stillPending"]);
    let [first, second, third] = [0, 1, 2].map(|at| &fixture.records[at].issued);
    for part in [
        format!("coupon {} is issued to {} in Redis, but it is neither recorded", first.coupon, first.user_id),
        format!("coupon {} is issued to {} in Redis, but it is neither recorded", second.coupon, second.user_id),
        format!("coupon {} is issued to {} in Kafka, but it is neither recorded", second.coupon, second.user_id),
        format!("coupon {} is issued to {} in Postgres, but it is still PENDING", third.coupon, third.user_id),
    ] {
        assert!(messages.contains(&part), "{part:?} is missing in\n{messages}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn audit_reports_both_holders_of_coupon() {
    let fixture = Fixture::recorded().await;
    let (record, key) = (&fixture.records[0].issued, fixture.key("Issued"));
    let (user, coupon) = (&record.user_id, &record.coupon);
    let entry = format!("{coupon}:{}:{}:COMPLETED", record.discount, record.issued_at);
    redis(&["HSET", &key, "other", &entry]);
    let (kinds, messages) = fixture.discrepancies().await;
    assert_eq!(kinds, ["issuedTwice", "twoHolders"]);
    assert!(
        messages.contains(&format!("coupon {coupon} is issued to other in Redis, but to {user} in Postgres")),
        "{messages}"
    );

    redis(&["HDEL", &key, user.as_str()]);
    let (kinds, messages) = fixture.discrepancies().await;
    assert_eq!(kinds, ["twoHolders"], "{messages}");
}

#[tokio::test(flavor = "multi_thread")]
async fn audit_reports_user_with_two_coupons_and_user_without_coupon() {
    let fixture = Fixture::recorded().await;
    let key = fixture.key("Issued");
    let [one, two, three] = [0, 1, 2].map(|at| &fixture.records[at].issued);
    // The two users have each other's coupons.
    for (user, other) in [(&one.user_id, two), (&two.user_id, one)] {
        let entry = format!("{}:{}:{}:COMPLETED", other.coupon, other.discount, other.issued_at);
        redis(&["HSET", &key, user.as_str(), &entry]);
    }
    redis(&["HDEL", &key, three.user_id.as_str()]);
    let (kinds, messages) = fixture.discrepancies().await;
    assert_eq!(kinds, ["missing", "notInRedis", "twoCoupons"], "{messages}");
    let part = format!("{} has coupon {} in Redis, but {} in Postgres", one.user_id, two.coupon, one.coupon);
    assert!(messages.contains(&part), "{part:?} is missing in\n{messages}");
    let part = format!("coupon {} is issued to {} in Postgres, but Redis has no", three.coupon, three.user_id);
    assert!(messages.contains(&part), "{part:?} is missing in\n{messages}");
}

#[tokio::test(flavor = "multi_thread")]
async fn audit_reports_changed_queue() {
    let fixture = Fixture::recorded().await;
    let queue = fixture.key("Queue");
    let record = &fixture.records[0].issued;
    redis(&["LPOP", &queue]);
    redis(&["RPUSH", &queue, "FORGED:PERCENT:10", &format!("{}:{}", record.coupon, record.discount)]);
    let last = fixture.stores.database.coupons(fixture.uid, COUPONS - 1, 1).await.unwrap().remove(0);
    redis(&["RPUSH", &queue, &format!("{}:{}", last.code, last.discount)]);
    let (kinds, messages) = fixture.discrepancies().await;
    assert_eq!(kinds, ["availableAndIssued", "availableTwice", "missing", "notGenerated"], "{messages}");
    assert!(messages.contains("coupon FORGED is in the Redis queue, but was never generated"), "{messages}");
}

#[tokio::test(flavor = "multi_thread")]
async fn audit_reports_rows_deleted_from_postgres() {
    let fixture = Fixture::recorded().await;
    let [one, two] = [0, 1].map(|at| &fixture.records[at].issued);
    fixture.database.sql(&format!("DELETE FROM issuance WHERE user_id = '{}'", one.user_id)).unwrap();
    let table = format!("coupon_{}", fixture.uid.simple());
    fixture.database.sql(&format!("DELETE FROM {table} WHERE code = '{}'", two.coupon)).unwrap();
    let (kinds, messages) = fixture.discrepancies().await;
    assert_eq!(kinds, ["notGenerated", "notRecorded", "onlyInKafka", "stockSize"], "{messages}");
    assert!(messages.contains("in Redis and marked as recorded, but it is neither recorded in Postgres"), "{messages}");
    assert!(
        messages.contains("Postgres has 99 coupons of the event, but the counts of its discounts add up to 100"),
        "{messages}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn audit_reports_invalid_history_of_coupon() {
    let fixture = Fixture::recorded().await;
    let (uid, coupon) = (fixture.uid, &fixture.records[0].issued.coupon);
    let insert = |seq: u32, order: &str| {
        let values = format!("('{uid}', '{coupon}', {seq}, 'RESERVED', '{order}', now() + interval '1 h', now())");
        let columns = "event_uid, code, seq, kind, order_ref, until, at";
        fixture.database.sql(&format!("INSERT INTO coupon_use ({columns}) VALUES {values}")).unwrap();
    };
    insert(1, "A");
    insert(2, "A");
    let report = fixture.audit().await;
    assert_eq!(report.verdict, Verdict::Ok, "{report:?}");
    assert!(report.notes.contains(&"0 coupons were redeemed, 1 are reserved, 0 were voided".to_owned()), "{report:?}");
    insert(3, "B");
    let (kinds, messages) = fixture.discrepancies().await;
    assert_eq!(kinds, ["invalidUse"], "{messages}");
    assert_eq!(messages, format!("entry 3 of the history of coupon {coupon} cannot follow the entries before it"));
}

#[tokio::test(flavor = "multi_thread")]
async fn audit_reports_event_missing_in_redis() {
    let fixture = Fixture::recorded().await;
    redis(&["DEL", &fixture.key("Meta"), &fixture.key("Queue"), &fixture.key("Issued")]);
    let (kinds, messages) = fixture.discrepancies().await;
    assert_eq!(kinds, ["eventMismatch"], "{messages}");
    assert_eq!(messages, "the event has a scheduled opening in Postgres, but Redis does not have it");
}

#[tokio::test(flavor = "multi_thread")]
async fn audit_of_rejected_record_is_ok_with_note() {
    let fixture = Fixture::issued().await;
    let (rejected, good) = fixture.records.split_first().unwrap();
    fixture.send(&fixture.records).await;
    fixture.empty_outbox().await;
    fixture.stores.database.record(good).await.unwrap();
    fixture.settle(good, &SettlementOutcome::Completed).await;
    fixture.settle(std::slice::from_ref(rejected), &SettlementOutcome::Cancelled { requeue: true }).await;
    let messages = couponry_kafka::read_all(&fixture.stores.kafka).await.unwrap();
    let is_rejected = |message: &&couponry_kafka::Message| {
        IssuedRecord::decode(message.version(), &message.payload).is_ok_and(|record| record == *rejected)
    };
    let message = messages.iter().find(is_rejected).unwrap();
    let letters = DeadLetterProducer::new(&fixture.stores.kafka).unwrap();
    letters.send(message, "unknown_coupon", "for the test").await.unwrap();
    fixture.consume().await;
    let report = fixture.audit().await;
    assert_eq!(report.verdict, Verdict::Ok, "{report:#?}");
    let counts = &report.counts;
    assert_eq!((counts.dead_letters, counts.cancelled, counts.withheld, counts.available), (1, 1, 0, 41));
    let note =
        format!("dead letter (unknown_coupon): user {}, coupon {}", rejected.issued.user_id, rejected.issued.coupon);
    assert!(report.notes.contains(&note), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn withheld_count_is_that_of_the_operator() {
    let fixture = Fixture::issued().await;
    let Stores { redis_store, database, .. } = &fixture.stores;
    let (returned, rest) = fixture.records.split_first().unwrap();
    let (withheld, good) = rest.split_first().unwrap();
    fixture.send(&fixture.records).await;
    fixture.empty_outbox().await;
    database.record(good).await.unwrap();
    fixture.settle(good, &SettlementOutcome::Completed).await;
    let cancel = async |record, requeue| {
        fixture.settle(std::slice::from_ref(record), &SettlementOutcome::Cancelled { requeue }).await;
        let observed = redis_store.observe(&fixture.event).await.unwrap().unwrap();
        let counts = fixture.audit().await.counts;
        assert_eq!(counts.withheld, observed.withheld_count());
        (counts.cancelled, counts.withheld, counts.available)
    };
    assert_eq!(cancel(returned, true).await, (1, 0, 41));
    assert_eq!(cancel(withheld, false).await, (2, 1, 41));

    // The next coupon replaces the cancelled entry, which was the only one with the withheld coupon.
    redis_store.issue(&fixture.event, std::slice::from_ref(&withheld.issued.user_id)).await.unwrap().unwrap();
    let report = fixture.audit().await;
    let counts = &report.counts;
    assert_eq!((counts.cancelled, counts.withheld, counts.available), (1, 1, 40));
    assert_eq!(report.discrepancies.counts.get("missing"), None, "{report:#?}");
    redis(&["LPOP", &fixture.key("Queue")]);
    let (kinds, messages) = fixture.discrepancies().await;
    assert!(kinds.contains(&"missing"), "{messages}");
}

#[tokio::test(flavor = "multi_thread")]
async fn audit_of_unknown_event_returns_error_with_other_uids() {
    let fixture = Fixture::issued().await;
    let error = fixture.stores.audit(&fixture.event, Uuid::nil(), Duration::ZERO).await.unwrap_err().to_string();
    assert!(error.contains(&format!("other events with this name: {}", fixture.uid)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn audit_reports_undecodable_values_and_everything_else() {
    let fixture = Fixture::recorded().await;
    let [one, two] = [0, 1].map(|at| &fixture.records[at].issued);
    redis(&["HSET", &fixture.key("Issued"), one.user_id.as_str(), "what"]);
    redis(&["HDEL", &fixture.key("Issued"), two.user_id.as_str()]);
    redis(&["LSET", &fixture.key("Queue"), "5", "\u{1b}who"]);
    let (kinds, messages) = fixture.discrepancies().await;
    assert_eq!(kinds, ["missing", "notInRedis", "undecodable"], "{messages}");
    for part in [
        format!("the entry of {:?} in couponIssued in Redis cannot be decoded: \"what\"", one.user_id.as_str()),
        r#"a value of couponQueue in Redis cannot be decoded: "\u{1b}who""#.to_owned(),
        format!("coupon {} is issued to {} in Postgres, but Redis has no", two.coupon, two.user_id),
    ] {
        assert!(messages.contains(&part), "{part:?} is missing in\n{messages}");
    }
    let report = fixture.audit().await;
    assert_eq!(report.discrepancies.counts["undecodable"], 2, "{messages}");
    assert_eq!(report.discrepancies.counts["notInRedis"], 1, "{messages}");
}

#[tokio::test]
async fn coupon_voided_in_one_store_is_reported() {
    let fixture = Fixture::recorded().await;
    let [both, redis, postgres] = [0, 1, 2].map(|i| &fixture.records[i]);
    for record in [both, postgres] {
        let voided =
            fixture.stores.database.void_coupon(fixture.uid, &record.issued.coupon, "admin", "test").await.unwrap();
        assert_eq!(voided, VoidOutcome::Voided);
    }
    fixture.settle(&[both.clone(), redis.clone()], &SettlementOutcome::Voided).await;
    let report = fixture.audit().await;
    assert_eq!(report.verdict, Verdict::Differs);
    let note = "0 coupons were redeemed, 0 are reserved, 2 were voided".to_owned();
    assert!(report.notes.contains(&note), "{report:?}");
    let mut messages: Vec<_> = report.discrepancies.examples.iter().map(ToString::to_string).collect();
    messages.sort();
    let message = |record: &IssuedRecord, voided, other| {
        let IssuedCoupon { coupon, user_id, .. } = &record.issued;
        format!("coupon {coupon} of {user_id} is voided in {voided}, but not in {other}")
    };
    let mut expected = [message(redis, "Redis", "Postgres"), message(postgres, "Postgres", "Redis")];
    expected.sort();
    assert_eq!(messages, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn record_of_erased_user_in_kafka_is_not_a_discrepancy() {
    let fixture = Fixture::recorded().await;
    let Stores { database, redis_store, .. } = &fixture.stores;
    let event = database.event(fixture.uid).await.unwrap().unwrap();
    let (key, user) = (PseudonymKey::of(&event.seed), &fixture.records[0].issued.user_id);
    assert!(database.erase_user(fixture.uid, user, &key.pseudonym(user)).await.unwrap());
    let half_way = fixture.audit().await;
    assert_eq!(half_way.verdict, Verdict::Differs, "Redis still has the user");
    let erased = redis_store.erase_user(&fixture.event, fixture.uid, user, &key).await.unwrap();
    assert_eq!(erased, FencedWrite::Applied(ErasedUser::Replaced));
    let report = fixture.audit().await;
    assert_eq!(report.verdict, Verdict::Ok, "{report:#?}");
    assert_eq!((report.counts.sent, report.counts.not_in_kafka), (60, 0));
}
