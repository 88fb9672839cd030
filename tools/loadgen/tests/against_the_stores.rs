//! The program's `check` on real stores that were filled by hand: green when all is well, and each store's loss is found.

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use couponry_domain::DiscountType::{Amount, Percent};
use couponry_domain::{CodeFormat, Discount, EventName, Gate, IssuedRecord, Lot, UserId, Uuid, Window};
use couponry_kafka::{DeadLetters, KafkaSettings, Message, Producer, TopicSettings, topics};
use couponry_loadgen::history::{self, Answer, End, Entry, Invocation, Outcome, Problem};
use couponry_postgres::{Database, NewEvent, Recording};
use couponry_redis::{Acknowledge, Opening, Settlement, SettlementOutcome, Stock};
use couponry_testbed::{Database, shared, unique_name};

/// What is left out, so that the check has something to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    None,
    NotRecorded,
    NotInKafka,
    NotSettled,
    LeftInOutbox,
    DeadLetter,
}

struct Setting {
    event: EventName,
    uid: Uuid,
    prefix: String,
    database: Database,
    kafka: KafkaSettings,
    history: PathBuf,
}

impl Setting {
    fn new(name: &str) -> Self {
        let name = unique_name(&format!("stores-{name}"));
        Self {
            event: "summer".parse().unwrap(),
            uid: Uuid::new_v4(),
            prefix: format!("{name}:"),
            database: Database::create().unwrap(),
            history: std::env::temp_dir().join(format!("loadgen-{name}.jsonl")),
            kafka: KafkaSettings::at(shared::kafka(), name),
        }
    }

    /// Gives 60 of 100 coupons to users, and brings each through all the stores.
    async fn fill(&self, flaw: Flaw) {
        let stock = Stock::connect(&shared::redis(), &self.prefix).unwrap();
        let database = Database::connect(&self.database.url()).unwrap();
        self.make_stock(&stock, &database).await;

        let users: Vec<UserId> = (0..60).map(|number| format!("u{number}").parse().unwrap()).collect();
        let issued = stock.issue(&self.event, &users).await.unwrap().unwrap();
        let outbox = issued.outbox.unwrap();
        let mut records = outbox.records.clone();
        self.write_history(&records);

        if flaw == Flaw::NotInKafka {
            self.send(&records[1..]).await;
        } else {
            self.send(&records).await;
        }
        if flaw != Flaw::LeftInOutbox {
            stock.confirm(&self.event, &[outbox.id]).await.unwrap();
        }
        if flaw == Flaw::NotRecorded {
            records.pop();
        }
        let recordings = database.record(&records).await.unwrap();
        assert!(recordings.iter().all(|recording| *recording == Recording::Recorded));
        if flaw == Flaw::NotSettled {
            records.pop();
        }
        let completed = |record: &IssuedRecord| Settlement {
            user: record.user_id.clone(),
            coupon: record.coupon.clone(),
            outcome: SettlementOutcome::Completed,
        };
        let settlements: Vec<_> = records.iter().map(completed).collect();
        stock.settle(&self.event, self.uid, &settlements).await.unwrap();
        if flaw == Flaw::DeadLetter {
            let messages: Vec<Message> = couponry_kafka::read_all(&self.kafka).await.unwrap();
            let dead = DeadLetters::new(&self.kafka).unwrap();
            dead.send(&messages[0], "unknown_coupon", "for the test").await.unwrap();
        }
    }

    async fn make_stock(&self, stock: &Stock, database: &Database) {
        let topic = TopicSettings { partitions: 3, replication: 1, min_insync_replicas: 1, retention: None };
        topics::ensure(&self.kafka, &topic).await.unwrap();
        database.migrate().await.unwrap();
        let (uid, name) = (self.uid, self.event.clone());
        let (policy_name, format) = ("Test".into(), CodeFormat::default());
        let new = NewEvent { uid, name, policy_name, format, generation: 1 };
        let stored = database.register(&new).await.unwrap();
        let discount = |kind, value| Discount { kind, value };
        let lot = Lot { first_ordinal: 0, counts: vec![(discount(Percent, 10), 70), (discount(Amount, 10), 30)] };
        database.preload(&stored, &lot, |_| ()).await.unwrap();
        stock.prepare(&self.event, uid, 0).await.unwrap();
        let seen = stock.observe(&self.event).await.unwrap().unwrap();
        stock.adopt(&self.event, &seen, None).await.unwrap();
        let coupons = database.coupons(uid, 0, 1000).await.unwrap();
        stock.load(&self.event, uid, 0, &coupons).await.unwrap();
        let (gate, window) = (Gate::Open, Window::default());
        let opening = Opening { gate, window, acknowledge: Acknowledge::Redis, generation: 1, stock_epoch: 0, total: 100 };
        stock.set_gate(&self.event, uid, &opening).await.unwrap();
    }

    async fn send(&self, records: &[IssuedRecord]) {
        let producer = Producer::new(&self.kafka).unwrap();
        for record in records {
            producer.send(record).unwrap().await.unwrap();
        }
    }

    /// Everybody was told, but for the last one, who does not know.
    fn write_history(&self, records: &[IssuedRecord]) {
        let file = File::create(&self.history).unwrap();
        for (at, record) in records.iter().enumerate() {
            let told = Outcome::Ok(Answer {
                success: true,
                reason: None,
                coupon_key: Some(record.coupon.to_string()),
                message: None,
                discount_type: Some(record.discount.kind),
                discount_amount: Some(record.discount.value),
            });
            let unknown = Outcome::Unknown(Problem { why: "busy".into(), status: Some(503) });
            let (id, target) = (at as u64, "http://127.0.0.1:1".into());
            let user = record.user_id.clone();
            let invocation = Invocation { id, invoked: 0, user, ask: 1, attempt: 1, target };
            history::write(&file, &Entry::Invoked(invocation)).unwrap();
            let outcome = if at == records.len() - 1 { unknown } else { told };
            history::write(&file, &Entry::Ended(End { id, finished: 1, outcome })).unwrap();
        }
    }

    /// Runs `loadgen check` and gives its exit code and what it printed.
    fn check(&self, expected: &[&str]) -> (Option<i32>, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_loadgen"))
            .args(["check", "--event", self.event.as_str(), "--total", "100", "--wait", "1", "--history"])
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

impl Drop for Setting {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.history);
    }
}

async fn filled(name: &str, flaw: Flaw) -> Setting {
    let setting = Setting::new(name);
    tokio::time::timeout(Duration::from_mins(2), setting.fill(flaw)).await.expect("the stores are filled in time");
    setting
}

#[tokio::test]
async fn stores_that_agree_pass() {
    let setting = filled("good", Flaw::None).await;
    let (code, text) = setting.check(&["PERCENT:10=70", "AMOUNT:10=30"]);
    assert_eq!(code, Some(0), "{text}");
    for part in [
        "the consumers have caught up: 60 issued, 60 recorded",
        "40 available + 60 issued = 100",
        "60 sent (0 of them again), 60 recorded",
        "1 unknown: 0 users heard when asking again, 1 have a coupon unheard",
        "All 18 promises held.",
    ] {
        assert!(text.contains(part), "{part:?} is missing in\n{text}");
    }

    let (code, text) = setting.check(&["PERCENT:10=100"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("AMOUNT:10: 30 instead of 0"), "{text}");
}

#[tokio::test]
async fn what_one_store_lacks_is_found() {
    for (name, flaw, found) in [
        ("unrecorded", Flaw::NotRecorded, "BROKEN  agreement   Redis and Postgres agree on every user"),
        ("unsent", Flaw::NotInKafka, "BROKEN  agreement   Kafka and Postgres agree on every user"),
        ("unsettled", Flaw::NotSettled, "BROKEN  agreement   Redis knows that everything is recorded"),
        ("outbox", Flaw::LeftInOutbox, "✗ 1 batches of issued coupons are not yet in Kafka"),
        ("dead", Flaw::DeadLetter, "✗ dead letter: partition 0 offset 0 (unknown_coupon): {"),
    ] {
        let (code, text) = filled(name, flaw).await.check(&[]);
        assert_eq!(code, Some(1), "{name}:\n{text}");
        assert!(text.contains(found), "{name}: {found:?} is missing in\n{text}");
        assert_eq!(text.contains("did NOT catch up"), !matches!(flaw, Flaw::NotInKafka | Flaw::DeadLetter), "{text}");
    }
}

#[tokio::test]
async fn an_event_that_nobody_knows_is_said() {
    let mut setting = filled("unknown", Flaw::None).await;
    setting.prefix = "elsewhere:".into();
    let (code, text) = setting.check(&[]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("Redis knows no event summer"), "{text}");
}
