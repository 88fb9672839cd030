//! Audits of real stores that were filled by hand: silent when all is well, and each thing that is broken is named.

use std::time::Duration;

use couponry_audit::{Report, Stores, Verdict};
use couponry_domain::{
    CodeFormat, Discount,
    DiscountType::{Amount, Percent},
    EventName, Gate, IssuedRecord, Lot, UserId, Uuid, Window,
};
use couponry_kafka::{Consumer, DeadLetters, KafkaSettings, Producer, TopicSettings, topics};
use couponry_postgres::{Database, NewEvent};
use couponry_redis::{Acknowledge, Opening, Settlement, SettlementOutcome, Stock};
use couponry_testbed::{Database, shared, unique_name};

const GIVEN: usize = 60;
const COUPONS: u64 = 100;

/// Sends a command to the shared Redis.
fn redis(words: &[&str]) {
    couponry_testbed::redis::command(&shared::redis(), words).unwrap();
}

/// An event with 60 of its 100 coupons given.
struct Setting {
    event: EventName,
    uid: Uuid,
    prefix: String,
    database: Database,
    stores: Stores,
    records: Vec<IssuedRecord>,
}

impl Setting {
    /// Coupons are given; they are in the outbox and nowhere else.
    async fn given() -> Self {
        let name = unique_name("audit");
        let (prefix, database) = (format!("{name}:"), Database::create().unwrap());
        let kafka = KafkaSettings { brokers: shared::kafka(), topic: name.clone(), ..KafkaSettings::default() };
        let stock = Stock::connect(&shared::redis(), &prefix).unwrap();
        let database = Database::connect(&database.url()).unwrap();
        let (event, uid): (EventName, Uuid) = ("summer".parse().unwrap(), Uuid::new_v4());

        let topic = TopicSettings { partitions: 3, replication: 1, min_insync_replicas: 1, retention: None };
        topics::ensure(&kafka, &topic).await.unwrap();
        database.migrate().await.unwrap();
        let (policy_name, format) = ("Test".into(), CodeFormat::default());
        let new = NewEvent { uid, name: event.clone(), policy_name, format, generation: 1 };
        let registered = database.register(&new).await.unwrap();
        let discount = |kind, value| Discount { kind, value };
        let lot = Lot { first_ordinal: 0, counts: vec![(discount(Percent, 10), 70), (discount(Amount, 10), 30)] };
        database.preload(&registered, &lot, |_| ()).await.unwrap();
        database.schedule_opening(&registered, 0).await.unwrap();
        stock.prepare(&event, uid, 0).await.unwrap();
        let seen = stock.observe(&event).await.unwrap().unwrap();
        stock.adopt(&event, &seen, None).await.unwrap();
        let coupons = database.coupons(uid, 0, 1000).await.unwrap();
        stock.load(&event, uid, 0, &coupons).await.unwrap();
        let (gate, window) = (Gate::Open, Window::default());
        let acknowledge = Acknowledge::Redis;
        let opening = Opening { gate, window, acknowledge, generation: 1, stock_epoch: 0, total: COUPONS };
        stock.set_gate(&event, uid, &opening).await.unwrap();

        let users: Vec<UserId> = (0..GIVEN).map(|number| format!("u{number}").parse().unwrap()).collect();
        let records = stock.issue(&event, &users).await.unwrap().unwrap().outbox.unwrap().records;
        let stores = Stores { stock, database, kafka, group: name };
        Self { event, uid, prefix, database, stores, records }
    }

    /// Everything has arrived.
    async fn settled() -> Self {
        let setting = Self::given().await;
        setting.send(&setting.records).await;
        setting.empty_outbox().await;
        setting.stores.database.record(&setting.records).await.unwrap();
        setting.settle(&setting.records, &SettlementOutcome::Completed).await;
        setting.consume().await;
        setting
    }

    async fn send(&self, records: &[IssuedRecord]) {
        let producer = Producer::new(&self.stores.kafka).unwrap();
        for record in records {
            producer.send(record).unwrap().await.unwrap();
        }
    }

    async fn empty_outbox(&self) {
        let left = self.stores.stock.left_behind(&self.event, Duration::ZERO, None, 10).await.unwrap();
        let ids: Vec<String> = left.entries.into_iter().map(|entry| entry.id).collect();
        self.stores.stock.confirm(&self.event, &ids).await.unwrap();
    }

    async fn settle(&self, records: &[IssuedRecord], outcome: &SettlementOutcome) {
        let settlement = |record: &IssuedRecord| Settlement {
            user: record.user_id.clone(),
            coupon: record.coupon.clone(),
            outcome: outcome.clone(),
        };
        let settlements: Vec<_> = records.iter().map(settlement).collect();
        self.stores.stock.settle(&self.event, self.uid, &settlements).await.unwrap();
    }

    /// The consumers have seen everything on the topic.
    async fn consume(&self) {
        let Stores { kafka, group, .. } = &self.stores;
        let mut consumer = Consumer::new(kafka, group).unwrap();
        let lag = couponry_kafka::Lag::new(kafka, group).unwrap();
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

    /// Audits, and returns the kinds of what differs, with the words of all.
    async fn differs(&self) -> (Vec<&'static str>, String) {
        let report = self.audit().await;
        assert_eq!(report.verdict, Verdict::Differs, "{report:#?}");
        let words: Vec<String> = report.differences.examples.iter().map(ToString::to_string).collect();
        (report.differences.counts.keys().copied().collect(), words.join("\n"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_that_tell_one_story_are_ok() {
    let setting = Setting::settled().await;
    setting.send(&setting.records[..2]).await;
    setting.consume().await;
    let report = setting.audit().await;
    assert_eq!(report.verdict, Verdict::Ok, "{report:#?}");
    let counts = &report.counts;
    assert_eq!((counts.stocked, counts.recorded, counts.available, counts.held), (100, 60, 40, 60));
    assert_eq!((counts.sent, counts.sent_again, counts.dead_letters, counts.lag), (60, 2, 0, 0));
    assert!(counts.topic_is_whole && report.notes.is_empty(), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_on_its_way_is_no_difference() {
    let setting = Setting::given().await;
    let in_outbox = setting.audit().await;
    assert_eq!((in_outbox.verdict, in_outbox.in_flight.coupons), (Verdict::Ok, 60), "{in_outbox:#?}");
    assert!(in_outbox.in_flight.oldest.is_some());
    setting.send(&setting.records).await;
    setting.empty_outbox().await;
    let in_kafka = setting.audit().await;
    assert_eq!((in_kafka.verdict, in_kafka.in_flight.coupons), (Verdict::Ok, 60), "{in_kafka:#?}");
    assert_eq!(in_kafka.counts.lag, 60);
    setting.stores.database.record(&setting.records).await.unwrap();
    let in_postgres = setting.audit().await;
    assert_eq!((in_postgres.verdict, in_postgres.in_flight.coupons), (Verdict::Ok, 60), "{in_postgres:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_lost_on_the_way_is_named_once_nothing_is_on_it() {
    let setting = Setting::given().await;
    setting.send(&setting.records[1..]).await;
    setting.empty_outbox().await;
    setting.stores.database.record(&setting.records[2..]).await.unwrap();
    setting.settle(&setting.records[3..], &SettlementOutcome::Completed).await;
    setting.consume().await;
    let (kinds, words) = setting.differs().await;
    assert_eq!(kinds, ["notRecorded", "notSettled", "onlyInKafka"]);
    let [first, second, third] = [0, 1, 2].map(|at| &setting.records[at]);
    for part in [
        format!("{} holds coupon {} in Redis; Postgres has no record of it", first.user_id, first.coupon),
        format!("{} holds coupon {} in Redis; Postgres has no record of it", second.user_id, second.coupon),
        format!("{} holds coupon {} in Kafka; Postgres has no record of it", second.user_id, second.coupon),
        format!("{} holds coupon {} in Postgres; Redis still has it as PENDING", third.user_id, third.coupon),
    ] {
        assert!(words.contains(&part), "{part:?} is not in\n{words}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coupon_with_two_holders_is_named_with_both() {
    let setting = Setting::settled().await;
    let (record, key) = (&setting.records[0], setting.key("Issued"));
    let (user, coupon) = (&record.user_id, &record.coupon);
    let entry = format!("{coupon}:{}:{}:COMPLETED", record.discount, record.issued_at);
    redis(&["HSET", &key, "thief", &entry]);
    let (kinds, words) = setting.differs().await;
    assert_eq!(kinds, ["heldTwice", "twoHolders"]);
    assert!(words.contains(&format!("coupon {coupon} is held by thief in Redis and by {user} in Postgres")), "{words}");

    redis(&["HDEL", &key, user.as_str()]);
    let (kinds, words) = setting.differs().await;
    assert_eq!(kinds, ["twoHolders"], "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_with_two_coupons_and_one_without_are_named() {
    let setting = Setting::settled().await;
    let key = setting.key("Issued");
    let [one, two, three] = [0, 1, 2].map(|at| &setting.records[at]);
    // Whoever wrote these swapped them.
    for (user, other) in [(&one.user_id, two), (&two.user_id, one)] {
        let entry = format!("{}:{}:{}:COMPLETED", other.coupon, other.discount, other.issued_at);
        redis(&["HSET", &key, user.as_str(), &entry]);
    }
    redis(&["HDEL", &key, three.user_id.as_str()]);
    let (kinds, words) = setting.differs().await;
    assert_eq!(kinds, ["missing", "notInRedis", "twoCoupons"], "{words}");
    let part = format!("{} holds coupon {} in Redis and {} in Postgres", one.user_id, two.coupon, one.coupon);
    assert!(words.contains(&part), "{part:?} is not in\n{words}");
    let part = format!("{} holds coupon {} in Postgres, and nothing in Redis", three.user_id, three.coupon);
    assert!(words.contains(&part), "{part:?} is not in\n{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stock_that_is_not_the_one_that_was_made_is_named() {
    let setting = Setting::settled().await;
    let queue = setting.key("Queue");
    let record = &setting.records[0];
    redis(&["LPOP", &queue]);
    redis(&["RPUSH", &queue, "FORGED:PERCENT:10", &format!("{}:{}", record.coupon, record.discount)]);
    let last = setting.stores.database.coupons(setting.uid, COUPONS - 1, 1).await.unwrap().remove(0);
    redis(&["RPUSH", &queue, &format!("{}:{}", last.code, last.discount)]);
    let (kinds, words) = setting.differs().await;
    assert_eq!(kinds, ["missing", "notStocked", "queuedAndHeld", "queuedTwice"], "{words}");
    assert!(words.contains("coupon FORGED is in the queue in Redis, and was never made"), "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_left_postgres_are_named() {
    let setting = Setting::settled().await;
    let [one, two] = [0, 1].map(|at| &setting.records[at]);
    setting.database.sql(&format!("DELETE FROM issuance WHERE user_id = '{}'", one.user_id)).unwrap();
    setting.database.sql(&format!("DELETE FROM coupon WHERE code = '{}'", two.coupon)).unwrap();
    let (kinds, words) = setting.differs().await;
    assert_eq!(kinds, ["notRecorded", "notStocked", "onlyInKafka", "stockSize"], "{words}");
    assert!(words.contains("which Redis takes for recorded; Postgres has no record of it"), "{words}");
    assert!(words.contains("Postgres has 99 coupons of the event, its discounts add up to 100"), "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_lost_the_event_is_named() {
    let setting = Setting::settled().await;
    redis(&["DEL", &setting.key("Meta"), &setting.key("Queue"), &setting.key("Issued")]);
    let (kinds, words) = setting.differs().await;
    assert_eq!(kinds, ["otherEvent"], "{words}");
    assert_eq!(words, "Postgres has the event, Redis knows nothing of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_refused_is_told_and_is_no_difference() {
    let setting = Setting::given().await;
    let (refused, good) = setting.records.split_first().unwrap();
    setting.send(&setting.records).await;
    setting.empty_outbox().await;
    setting.stores.database.record(good).await.unwrap();
    setting.settle(good, &SettlementOutcome::Completed).await;
    setting.settle(std::slice::from_ref(refused), &SettlementOutcome::Cancelled { return_to_stock: true }).await;
    let messages = couponry_kafka::read_all(&setting.stores.kafka).await.unwrap();
    let is_refused = |message: &&couponry_kafka::Message| {
        IssuedRecord::decode(message.version(), &message.payload).is_ok_and(|record| record == *refused)
    };
    let message = messages.iter().find(is_refused).unwrap();
    let letters = DeadLetters::new(&setting.stores.kafka).unwrap();
    letters.send(message, "unknown_coupon", "for the test").await.unwrap();
    setting.consume().await;
    let report = setting.audit().await;
    assert_eq!(report.verdict, Verdict::Ok, "{report:#?}");
    assert_eq!((report.counts.dead_letters, report.counts.voided, report.counts.available), (1, 1, 41));
    let note = format!("dead letter (unknown_coupon): {} and coupon {}", refused.user_id, refused.coupon);
    assert!(report.notes.contains(&note), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_nobody_knows_is_an_error_that_names_the_others() {
    let setting = Setting::given().await;
    let error = setting.stores.audit(&setting.event, Uuid::nil(), Duration::ZERO).await.unwrap_err().to_string();
    assert!(error.contains(&format!("of this name it has {}", setting.uid)), "{error}");
}
