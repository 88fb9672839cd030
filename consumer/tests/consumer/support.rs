//! An event with its stock in Postgres and Redis, a topic in Kafka, and consumers between them.

use std::{
    collections::HashMap,
    io::{Read as _, Write as _},
    net::TcpStream,
    ops::Range,
    time::{Duration, Instant},
};

use couponry_domain::{
    CodeFormat, Coupon, Discount, DiscountType, EventName, Gate, IssuedRecord, Lot, UserId, Uuid, Window,
};
use couponry_kafka::{KafkaSettings, Lag, Message, Producer, TopicSettings, read_all, topics};
use couponry_postgres::{Database, NewEvent};
use couponry_redis::{Acknowledge, Holding, Opening, Stock};
use couponry_testbed::{Database, ports, program::Running, shared, unique_name};
use futures::{TryStreamExt as _, future::try_join_all};

pub(crate) const TEN_PERCENT: Discount = Discount { kind: DiscountType::Percent, value: 10 };

/// Where an event and its consumers live.
pub(crate) struct World {
    pub(crate) kafka: KafkaSettings,
    pub(crate) group: String,
    pub(crate) postgres: String,
    pub(crate) redis: String,
    pub(crate) prefix: String,
    pub(crate) database: Database,
    pub(crate) stock: Stock,
    pub(crate) event: EventName,
    pub(crate) uid: Uuid,
    /// All coupons of the event, in their order.
    pub(crate) coupons: Vec<Coupon>,
    /// Present on the shared server.
    pub(crate) database: Option<Database>,
}

impl World {
    /// On the shared servers, with an open event of `count` coupons.
    pub(crate) async fn open(count: u64) -> Self {
        let database = Database::create().unwrap();
        let mut world = Self::at(&shared::kafka(), &database.url(), &shared::redis());
        world.database = Some(database);
        world.make_topics().await;
        world.database.migrate().await.unwrap();
        world.make_event(count).await;
        world
    }

    /// Names for everything, and nothing made yet.
    pub(crate) fn at(brokers: &str, postgres: &str, redis: &str) -> Self {
        let name = unique_name("consumer");
        let prefix = format!("{name}:");
        Self {
            kafka: KafkaSettings::at(brokers, name.clone()),
            group: name,
            postgres: postgres.to_owned(),
            redis: redis.to_owned(),
            database: Database::connect(postgres).unwrap(),
            stock: Stock::connect(redis, &prefix).unwrap(),
            prefix,
            event: "summer".parse().unwrap(),
            uid: Uuid::new_v4(),
            coupons: Vec::new(),
            database: None,
        }
    }

    pub(crate) async fn make_topics(&self) {
        let wanted = TopicSettings { partitions: 4, replication: 1, min_insync_replicas: 1, retention: None };
        topics::ensure(&self.kafka, &wanted).await.unwrap();
    }

    pub(crate) async fn make_event(&mut self, count: u64) {
        let lot = Lot { first_ordinal: 0, counts: vec![(TEN_PERCENT, count)] };
        let event = NewEvent {
            uid: self.uid,
            name: self.event.clone(),
            policy_name: "Summer sale".into(),
            format: CodeFormat { prefix: Some("SUMMER".into()), length: 12 },
            generation: 1,
        };
        let event = self.database.register(&event).await.unwrap();
        self.database.preload(&event, &lot, |_| {}).await.unwrap();
        self.coupons = lot.coupons(event.seed, event.format).collect();
        self.stock.prepare(&self.event, self.uid, 0).await.unwrap();
        let seen = self.stock.observe(&self.event).await.unwrap().unwrap();
        self.stock.adopt(&self.event, &seen, None).await.unwrap();
        for chunk in self.coupons.chunks(5000) {
            self.stock.load(&self.event, self.uid, 0, chunk).await.unwrap();
        }
        let opening = Opening {
            gate: Gate::Open,
            window: Window::default(),
            acknowledge: Acknowledge::Redis,
            generation: 1,
            stock_epoch: 0,
            total: count,
        };
        self.stock.set_gate(&self.event, self.uid, &opening).await.unwrap();
    }

    /// Gives coupons to these users in Redis, as an issuer does, and returns what it would send to Kafka.
    pub(crate) async fn issue(&self, users: Range<usize>) -> Vec<IssuedRecord> {
        let users: Vec<UserId> = users.map(user).collect();
        let mut records = Vec::new();
        for batch in users.chunks(1000) {
            let reply = self.stock.issue(&self.event, batch).await.unwrap().unwrap();
            records.extend(reply.outbox.unwrap().records);
        }
        assert_eq!(records.len(), users.len());
        records
    }

    /// A record that nothing in Redis belongs to.
    pub(crate) fn record(&self, name: &str, coupon: &Coupon) -> IssuedRecord {
        IssuedRecord {
            event_id: self.event.clone(),
            event_uid: self.uid,
            user_id: name.parse().unwrap(),
            coupon: coupon.code.parse().unwrap(),
            discount: coupon.discount,
            issued_at: 1_796_083_200_000,
        }
    }

    /// Writes records to the topic, and waits until Kafka has them.
    pub(crate) async fn write(&self, records: &[IssuedRecord]) {
        let producer = Producer::new(&self.kafka).unwrap();
        try_join_all(records.iter().map(|record| producer.send(record).unwrap())).await.unwrap();
    }

    /// Writes a message to the topic as it is.
    pub(crate) async fn write_raw(&self, version: Option<&str>, payload: &[u8]) {
        let headers = version.map(|v| ("schema-version".to_owned(), Some(v.as_bytes().to_vec())));
        let headers = headers.into_iter().collect();
        let message = Message { partition: 0, offset: 0, key: None, payload: payload.to_vec(), headers };
        Producer::new(&self.kafka).unwrap().send_message(&message).unwrap().await.unwrap();
    }

    /// Starts a consumer; it may not be ready yet.
    pub(crate) fn consumer(&self, flags: &[&str]) -> Consumer {
        let monitor = ports::free().unwrap();
        let running = couponry_testbed::program("couponry-consumer")
            .args(["--kafka-brokers", &self.kafka.brokers, "--kafka-topic", &self.kafka.topic])
            .args(["--kafka-group", &self.group, "--postgres-url", &self.postgres])
            .args(["--redis-url", &self.redis, "--redis-key-prefix", &self.prefix])
            .args(["--monitor-listen", &format!("127.0.0.1:{monitor}")])
            .args(flags.iter().copied())
            .start()
            .unwrap();
        Consumer { running, monitor }
    }

    pub(crate) async fn recorded(&self) -> usize {
        usize::try_from(self.database.issued_count(self.uid).await.unwrap()).unwrap()
    }

    pub(crate) async fn recorded_reaches(&self, count: usize) {
        until(&format!("{count} issuances are recorded"), async || self.recorded().await >= count).await;
    }

    /// Waits until the group has committed everything.
    pub(crate) async fn all_is_committed(&self) {
        let lag = Lag::new(&self.kafka, &self.group).unwrap();
        // While the group's first member joins, the brokers may not know yet who keeps its offsets.
        let behind = async || lag.measure(Duration::from_secs(10)).await;
        until("everything is committed", async || behind().await.is_ok_and(|behind| behind == 0)).await;
    }

    /// Who has which coupon in Postgres.
    pub(crate) async fn holders(&self) -> HashMap<String, String> {
        let all: Vec<_> = self.database.issuances(self.uid).try_collect().await.unwrap();
        let holders: HashMap<_, _> =
            all.iter().map(|issuance| (issuance.user_id.to_string(), issuance.coupon.to_string())).collect();
        assert_eq!(holders.len(), all.len());
        holders
    }

    /// What Redis has for a user.
    pub(crate) async fn holding(&self, user: &UserId) -> Holding {
        self.stock.lookup(&self.event, user).await.unwrap().unwrap().holding.unwrap()
    }

    /// The dead letters: reason, detail and value of each.
    pub(crate) async fn dead_letters(&self) -> Vec<(String, String, Vec<u8>)> {
        let topic = KafkaSettings { topic: self.kafka.dead_letter_topic(), ..self.kafka.clone() };
        let text = |message: &Message, name| String::from_utf8(message.header(name).unwrap().to_vec()).unwrap();
        let all = read_all(&topic).await.unwrap();
        all.into_iter().map(|m| (text(&m, "reason"), text(&m, "detail"), m.payload)).collect()
    }

    /// Everything that was issued is in Postgres once and completed in Redis, and nothing else is.
    pub(crate) async fn assert_exactly_once(&self, records: &[IssuedRecord]) {
        let expected: HashMap<_, _> =
            records.iter().map(|record| (record.user_id.to_string(), record.coupon.to_string())).collect();
        assert_eq!(expected.len(), records.len());
        assert!(self.holders().await == expected, "Postgres does not have what was issued");
        let observed = self.stock.observe(&self.event).await.unwrap().unwrap();
        let count = records.len() as u64;
        assert_eq!((observed.issued, observed.completed, observed.cancelled), (count, count, 0));
        assert_eq!(self.dead_letters().await, []);
    }
}

pub(crate) fn user(n: usize) -> UserId {
    format!("user-{n}").parse().unwrap()
}

/// Polls until it is so.
pub(crate) async fn until(what: &str, so: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(3);
    while !so().await {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A started consumer.
pub(crate) struct Consumer {
    pub(crate) running: Running,
    monitor: u16,
}

impl Consumer {
    /// The status and body of a page of the monitor; None while it does not listen.
    pub(crate) fn page(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.monitor)).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: consumer\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let status = answer.split(' ').nth(1)?.parse().ok()?;
        Some((status, answer.split_once("\r\n\r\n")?.1.to_owned()))
    }

    pub(crate) async fn ready(&self) {
        let ready = async || matches!(self.page("/readyz"), Some((200, _)));
        until(&format!("it is ready; its log:\n{}", self.running.log()), ready).await;
    }

    /// Waits until it says that it is not ready because of `what`.
    pub(crate) async fn not_ready_because(&self, what: &str) {
        let said = async || matches!(self.page("/readyz"), Some((503, body)) if body.contains(what));
        until(&format!("it is not ready because of {what}"), said).await;
        assert_eq!(self.page("/livez").unwrap().0, 200);
    }

    /// The value of a metric, 0 when it is not shown (yet).
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let (_, metrics) = self.page("/metrics").unwrap();
        let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0, |value| value.parse().unwrap())
    }
}
