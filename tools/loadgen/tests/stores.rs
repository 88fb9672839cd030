//! Runs `loadgen check` on real stores with consistent data, and with data missing in one store.

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use couponry_domain::DiscountType::{Amount, Percent};
use couponry_domain::{
    Acknowledge, CodeFormat, CouponBatch, CouponTerms, Discount, EventName, Gate, IssuedRecord, Release, UserId, Uuid,
    Window,
};
use couponry_kafka::{DeadLetterProducer, KafkaSettings, Message, Producer, TopicSettings, topics};
use couponry_loadgen::history::{self, Completion, Entry, Invocation};
use couponry_loadgen::outcome::{Failure, IssueResponse, Outcome};
use couponry_postgres::{Database, NewEvent, RecordOutcome};
use couponry_redis::{GateSettings, RedisStore, Settlement, SettlementOutcome};
use couponry_testbed::{shared, unique_name};

/// A step of the pipeline which is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    None,
    NotRecorded,
    NotInKafka,
    NotSettled,
    LeftInOutbox,
    DeadLetter,
}

struct Fixture {
    event: EventName,
    uid: Uuid,
    prefix: String,
    database: couponry_testbed::Database,
    kafka: KafkaSettings,
    history: PathBuf,
}

impl Fixture {
    fn new(name: &str) -> Self {
        let name = unique_name(&format!("stores-{name}"));
        Self {
            event: "summer".parse().unwrap(),
            uid: Uuid::new_v4(),
            prefix: format!("{name}:"),
            database: couponry_testbed::Database::create().unwrap(),
            history: std::env::temp_dir().join(format!("loadgen-{name}.jsonl")),
            kafka: KafkaSettings::at(shared::kafka(), name),
        }
    }

    /// Issues 60 of 100 coupons and records them.
    async fn fill(&self, flaw: Flaw) {
        let redis_store = RedisStore::connect(&shared::redis(), &self.prefix).unwrap();
        let database = Database::connect(&self.database.url()).unwrap();
        self.load_coupons(&redis_store, &database).await;

        let users: Vec<UserId> = (0..60).map(|number| format!("u{number}").parse().unwrap()).collect();
        let issued = redis_store.issue(&self.event, &users).await.unwrap().unwrap();
        let outbox = issued.outbox.unwrap();
        let mut records = outbox.records.clone();
        self.write_history(&records);

        if flaw == Flaw::NotInKafka {
            self.send(&records[1..]).await;
        } else {
            self.send(&records).await;
        }
        if flaw != Flaw::LeftInOutbox {
            redis_store.delete_confirmed(&self.event, &[outbox.id]).await.unwrap();
        }
        if flaw == Flaw::NotRecorded {
            records.pop();
        }
        let outcomes = database.record(&records).await.unwrap();
        assert!(outcomes.iter().all(|outcome| *outcome == RecordOutcome::Recorded));
        if flaw == Flaw::NotSettled {
            records.pop();
        }
        let completed = |record: &IssuedRecord| Settlement {
            user: record.issued.user_id.clone(),
            coupon: record.issued.coupon.clone(),
            outcome: SettlementOutcome::Completed,
        };
        let settlements: Vec<_> = records.iter().map(completed).collect();
        redis_store.settle(&self.event, self.uid, &settlements).await.unwrap();
        if flaw == Flaw::DeadLetter {
            let messages: Vec<Message> = couponry_kafka::read_all(&self.kafka).await.unwrap();
            let dead_letters = DeadLetterProducer::new(&self.kafka).unwrap();
            dead_letters.send(&messages[0], "unknown_coupon", "test").await.unwrap();
        }
    }

    async fn load_coupons(&self, redis_store: &RedisStore, database: &Database) {
        let topic =
            TopicSettings { partitions: 3, replication: 1, min_insync_replicas: 1, retention: None, used_topic: None };
        topics::ensure(&self.kafka, &topic).await.unwrap();
        database.migrate().await.unwrap();
        let (uid, name) = (self.uid, self.event.clone());
        let (policy_name, format) = ("Test".into(), CodeFormat::default());
        let new = NewEvent {
            uid,
            name,
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
        redis_store.prepare(&self.event, uid, 0).await.unwrap();
        let observed = redis_store.observe(&self.event).await.unwrap().unwrap();
        redis_store.mark_verified(&self.event, &observed, None).await.unwrap();
        let coupons = database.coupons(uid, 0, 1000).await.unwrap();
        redis_store.load(&self.event, uid, 0, &coupons).await.unwrap();
        let (gate, window) = (Gate::Open, Window::default());
        let settings = GateSettings {
            gate,
            window,
            acknowledge: Acknowledge::Redis,
            validity: None,
            release: Release::default(),
            admission_key: None,
            generation: 1,
            stock_epoch: 0,
            total: 100,
        };
        redis_store.set_gate(&self.event, uid, &settings).await.unwrap();
    }

    async fn send(&self, records: &[IssuedRecord]) {
        let producer = Producer::new(&self.kafka).unwrap();
        for record in records {
            producer.send(record).unwrap().await.unwrap();
        }
    }

    /// Every user received a response, except for the last one.
    fn write_history(&self, records: &[IssuedRecord]) {
        let file = File::create(&self.history).unwrap();
        for (index, record) in records.iter().enumerate() {
            let answered = Outcome::Answered(IssueResponse {
                success: true,
                reason: None,
                coupon_key: Some(record.issued.coupon.to_string()),
                message: None,
                discount_type: Some(record.issued.discount.kind),
                discount_amount: Some(record.issued.discount.value),
                admitted_at: None,
                next_drop_at: None,
                valid_until: None,
            });
            let unknown = Outcome::Unknown(Failure { message: "busy".into(), status: Some(503) });
            let (id, target) = (index as u64, "http://127.0.0.1:1".into());
            let user = record.issued.user_id.clone();
            let invocation = Invocation { id, invoked: 0, user, request: 1, attempt: 1, target };
            history::write(&file, &Entry::Invoked(invocation)).unwrap();
            let outcome = if index == records.len() - 1 { unknown } else { answered };
            history::write(&file, &Entry::Completed(Completion { id, finished: 1, outcome })).unwrap();
        }
    }

    /// Runs `loadgen check` and returns its exit code and output.
    fn check(&self, expected: &[&str]) -> (Option<i32>, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_loadgen"))
            .args(["check", "--event", self.event.as_str(), "--total", "100", "--wait-seconds", "1", "--history"])
            .arg(&self.history)
            .args(["--redis-url", &shared::redis(), "--redis-key-prefix", &self.prefix])
            .args(["--postgres-url", &self.database.url()])
            .args(["--kafka-brokers", &self.kafka.brokers, "--kafka-topic", &self.kafka.topic])
            .args(expected.iter().flat_map(|expected| ["--expect", expected]))
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), String::from_utf8(output.stdout).unwrap() + &error)
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.history);
    }
}

async fn filled(name: &str, flaw: Flaw) -> Fixture {
    let fixture = Fixture::new(name);
    tokio::time::timeout(Duration::from_mins(2), fixture.fill(flaw)).await.expect("timeout");
    fixture
}

#[tokio::test]
async fn check_of_consistent_stores_passes() {
    let fixture = filled("consistent", Flaw::None).await;
    let (code, text) = fixture.check(&["PERCENT:10=70", "AMOUNT:10=30"]);
    assert_eq!(code, Some(0), "{text}");
    for part in [
        "all issuances are recorded: 60 issued, 60 recorded",
        "40 available + 60 issued = 100, 0 missing",
        "60 sent, 0 sent again, 60 recorded",
        "1 unknown: 0 users received their coupon later, 1 received none although one is recorded for them",
        "All 25 checks passed.",
    ] {
        assert!(text.contains(part), "{part:?} is missing in\n{text}");
    }

    let (code, text) = fixture.check(&["PERCENT:10=100"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("30 coupons of AMOUNT:10 instead of 0"), "{text}");
}

#[tokio::test]
async fn check_of_store_with_missing_data_fails() {
    for (name, flaw, expected) in [
        ("unrecorded", Flaw::NotRecorded, "FAILED  consistency      Redis and Postgres agree on every issuance"),
        ("unsent", Flaw::NotInKafka, "FAILED  consistency      Kafka and Postgres agree on every issuance"),
        ("unsettled", Flaw::NotSettled, "FAILED  consistency      Redis has marked every issuance as recorded"),
        ("outbox", Flaw::LeftInOutbox, "✗ 1 outbox entries are not in Kafka"),
        ("dead", Flaw::DeadLetter, "✗ dead-lettered record: partition 0 offset 0 (unknown_coupon): {"),
    ] {
        let (code, text) = filled(name, flaw).await.check(&[]);
        assert_eq!(code, Some(1), "{name}:\n{text}");
        assert!(text.contains(expected), "{name}: {expected:?} is missing in\n{text}");
        assert_eq!(
            text.contains("NOT all issuances are recorded"),
            !matches!(flaw, Flaw::NotInKafka | Flaw::DeadLetter),
            "{text}"
        );
    }
}

#[tokio::test]
async fn check_of_unknown_event_exits_2() {
    let mut fixture = filled("unknown", Flaw::None).await;
    fixture.prefix = "elsewhere:".into();
    let (code, text) = fixture.check(&[]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("Redis does not have the event summer"), "{text}");
}
