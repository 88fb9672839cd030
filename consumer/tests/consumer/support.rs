//! An event with its coupons in Postgres and Redis, a topic in Kafka, and consumers.

use std::{
    collections::HashMap,
    ops::Range,
    time::{Duration, Instant},
};

use couponry_domain::{
    Acknowledge, CodeFormat, Coupon, CouponBatch, CouponTerms, Discount, DiscountType, EventName, Gate, IssuedCoupon,
    IssuedRecord, Release, UserId, Uuid, Window,
};
use couponry_kafka::{
    KafkaError, KafkaSettings, LagClient, Message, Producer, TopicSettings, consumer_group, read_all, topics,
};
use couponry_postgres::{Database, NewEvent};
use couponry_redis::{GateSettings, IssuedEntry, RedisSettings, RedisStore};
use couponry_testbed::{Database as TestDatabase, http, ports, program::Running, shared, unique_name};
use futures::TryStreamExt as _;
use tokio::sync::OnceCell;

pub(crate) const TEN_PERCENT: Discount = Discount { kind: DiscountType::Percent, value: 10 };

/// An event with its servers.
pub(crate) struct World {
    pub(crate) kafka: KafkaSettings,
    /// Without the id of the installation.
    pub(crate) group: String,
    pub(crate) postgres: String,
    pub(crate) redis: String,
    pub(crate) prefix: String,
    pub(crate) database: Database,
    pub(crate) redis_store: RedisStore,
    pub(crate) event: EventName,
    pub(crate) uid: Uuid,
    /// All coupons of the event in their order.
    pub(crate) coupons: Vec<Coupon>,
    /// The database on the shared server, if it is used.
    pub(crate) test_database: Option<TestDatabase>,
    installation: OnceCell<Uuid>,
}

impl World {
    /// On the shared servers, with an open event of `count` coupons.
    pub(crate) async fn open(count: u64) -> Self {
        let database = TestDatabase::create().unwrap();
        let mut world = Self::at(&shared::kafka(), &database.url(), &shared::redis());
        world.test_database = Some(database);
        world.create_topics().await;
        world.database.migrate().await.unwrap();
        world.create_event(count).await;
        world
    }

    /// Unique names on these servers. Nothing is created yet.
    pub(crate) fn at(brokers: &str, postgres: &str, redis: &str) -> Self {
        let name = unique_name("consumer");
        // Without a prefix, the key names determine the nodes of a cluster.
        let cluster = redis.contains(',');
        let prefix = if cluster { String::new() } else { format!("{name}:") };
        Self {
            kafka: KafkaSettings::at(brokers, name.clone()),
            group: name,
            postgres: postgres.to_owned(),
            redis: redis.to_owned(),
            database: Database::connect(postgres).unwrap(),
            redis_store: RedisStore::open(&RedisSettings { cluster, ..RedisSettings::at(redis, &prefix) }).unwrap(),
            prefix,
            event: "summer".parse().unwrap(),
            uid: Uuid::new_v4(),
            coupons: Vec::new(),
            test_database: None,
            installation: OnceCell::new(),
        }
    }

    /// The id of the installation. It is read once, so that it is known during an outage of Postgres.
    async fn installation(&self) -> Uuid {
        *self.installation.get_or_init(async || self.database.installation().await.unwrap().id).await
    }

    pub(crate) async fn create_topics(&self) {
        self.try_create_topics().await.unwrap();
    }

    pub(crate) async fn try_create_topics(&self) -> Result<(), KafkaError> {
        let wanted =
            TopicSettings { partitions: 4, replication: 1, min_insync_replicas: 1, retention: None, used_topic: None };
        topics::ensure(&self.kafka, &wanted).await.map(drop)
    }

    pub(crate) async fn create_event(&mut self, count: u64) {
        let lot = CouponBatch { first_ordinal: 0, counts: vec![(TEN_PERCENT, count)] };
        let event = NewEvent {
            uid: self.uid,
            name: self.event.clone(),
            policy_name: "Summer sale".into(),
            format: CodeFormat { prefix: Some("SUMMER".into()), length: 12 },
            terms: CouponTerms::default(),
            release: Release::default(),
            generation: 1,
        };
        let event = self.database.register(&event).await.unwrap();
        self.database.generate_coupons(&event, &lot, |_| {}).await.unwrap();
        self.coupons = lot.coupons(event.seed, event.format).collect();
        self.redis_store.prepare(&self.event, self.uid, 0).await.unwrap();
        let observed = self.redis_store.observe(&self.event).await.unwrap().unwrap();
        self.redis_store.mark_verified(&self.event, &observed, None).await.unwrap();
        for chunk in self.coupons.chunks(5000) {
            self.redis_store.load(&self.event, self.uid, 0, chunk).await.unwrap();
        }
        let opening = GateSettings {
            gate: Gate::Open,
            window: Window::default(),
            acknowledge: Acknowledge::Redis,
            validity: None,
            release: Release::default(),
            admission_key: None,
            generation: 1,
            stock_epoch: 0,
            total: count,
        };
        self.redis_store.set_gate(&self.event, self.uid, &opening).await.unwrap();
    }

    /// Issues coupons to these users in Redis, as an issuer does, and returns the records for Kafka.
    pub(crate) async fn issue(&self, users: Range<usize>) -> Vec<IssuedRecord> {
        let users: Vec<UserId> = users.map(user).collect();
        let mut records = Vec::new();
        for batch in users.chunks(1000) {
            let reply = self.redis_store.issue(&self.event, batch).await.unwrap().unwrap();
            records.extend(reply.outbox.unwrap().records);
        }
        assert_eq!(records.len(), users.len());
        records
    }

    /// A record without an entry in Redis.
    pub(crate) fn record(&self, name: &str, coupon: &Coupon) -> IssuedRecord {
        IssuedRecord {
            event_id: self.event.clone(),
            event_uid: self.uid,
            issued: IssuedCoupon {
                user_id: name.parse().unwrap(),
                coupon: coupon.code.clone(),
                discount: coupon.discount,
                issued_at: 1_796_083_200_000,
            },
            valid_until: None,
        }
    }

    /// Publishes records and waits for the confirmations.
    pub(crate) async fn publish(&self, records: &[IssuedRecord]) {
        let producer = Producer::new(&self.kafka).unwrap();
        let installation = self.installation().await;
        producer.send_batch(records, Some(installation)).unwrap().await.unwrap();
    }

    /// Publishes a message unchanged.
    pub(crate) async fn publish_raw(&self, version: Option<&str>, payload: &[u8]) {
        let headers = version.map(|v| ("schema-version".to_owned(), Some(v.as_bytes().to_vec())));
        let headers = headers.into_iter().collect();
        let message = Message { partition: 0, offset: 0, key: None, payload: payload.to_vec(), headers };
        Producer::new(&self.kafka).unwrap().send_messages(&[message]).unwrap().await.unwrap();
    }

    /// Starts a consumer, which may not be ready yet.
    pub(crate) fn consumer(&self, flags: &[&str]) -> Consumer {
        let monitor = ports::free().unwrap();
        let running = couponry_testbed::program("couponry-consumer")
            .args(["--kafka-brokers", &self.kafka.brokers, "--kafka-topic", &self.kafka.topic])
            .args(["--kafka-group", &self.group, "--postgres-url", &self.postgres])
            .args(["--redis-url", &self.redis, "--redis-key-prefix", &self.prefix])
            .args(["--monitor-listen", &format!("127.0.0.1:{monitor}")])
            .args(self.redis.contains(',').then_some("--redis-cluster"))
            .args(flags.iter().copied())
            .start()
            .unwrap();
        Consumer { running, monitor }
    }

    pub(crate) async fn recorded(&self) -> usize {
        usize::try_from(self.database.recorded_count(self.uid).await.unwrap()).unwrap()
    }

    pub(crate) async fn wait_until_recorded(&self, count: usize) {
        until(&format!("{count} issuances are recorded"), async || self.recorded().await >= count).await;
    }

    pub(crate) async fn lag(&self) -> LagClient {
        let installation = self.installation().await;
        LagClient::new(&self.kafka, &consumer_group(&self.group, installation)).unwrap()
    }

    /// Waits until the group has committed all messages.
    pub(crate) async fn wait_until_committed(&self) {
        let lag = self.lag().await;
        // The lag is unavailable until the group has a coordinator.
        let measure = async || lag.measure(Duration::from_secs(10)).await;
        until("all messages are committed", async || measure().await.is_ok_and(|lag| lag == 0)).await;
    }

    /// The coupon of each holder in Postgres.
    pub(crate) async fn holders(&self) -> HashMap<String, String> {
        let all: Vec<_> = self.database.stream_issuances(self.uid).try_collect().await.unwrap();
        let holders: HashMap<_, _> =
            all.iter().map(|one| (one.issued.user_id.to_string(), one.issued.coupon.to_string())).collect();
        assert_eq!(holders.len(), all.len());
        holders
    }

    /// The entry of a user in Redis.
    pub(crate) async fn entry(&self, user: &UserId) -> IssuedEntry {
        self.redis_store.lookup(&self.event, user).await.unwrap().unwrap().entry.unwrap()
    }

    /// The reason, detail and value of each dead letter.
    pub(crate) async fn dead_letters(&self) -> Vec<(String, String, Vec<u8>)> {
        let topic = KafkaSettings { topic: self.kafka.dead_letter_topic(), ..self.kafka.clone() };
        let text = |message: &Message, name| String::from_utf8(message.header(name).unwrap().to_vec()).unwrap();
        let all = read_all(&topic).await.unwrap();
        all.into_iter().map(|m| (text(&m, "reason"), text(&m, "detail"), m.payload)).collect()
    }

    /// Every issued coupon is recorded once in Postgres and completed in Redis, and nothing else.
    pub(crate) async fn assert_exactly_once(&self, records: &[IssuedRecord]) {
        let expected: HashMap<_, _> = records
            .iter()
            .map(|record| (record.issued.user_id.to_string(), record.issued.coupon.to_string()))
            .collect();
        assert_eq!(expected.len(), records.len());
        assert!(self.holders().await == expected, "the records in Postgres differ from the issued coupons");
        let observed = self.redis_store.observe(&self.event).await.unwrap().unwrap();
        let count = records.len() as u64;
        assert_eq!((observed.issued, observed.marked_recorded, observed.cancelled), (count, count, 0));
        assert_eq!(self.dead_letters().await, []);
    }
}

pub(crate) fn user(n: usize) -> UserId {
    format!("user-{n}").parse().unwrap()
}

/// Polls until the condition is true.
pub(crate) async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(3);
    while !condition().await {
        assert!(Instant::now() < deadline, "timed out waiting until {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A started consumer.
pub(crate) struct Consumer {
    pub(crate) running: Running,
    monitor: u16,
}

impl Consumer {
    /// The status and body of a page of the monitoring endpoint, or None if the port is closed.
    pub(crate) fn page(&self, path: &str) -> Option<(u16, String)> {
        http::get(self.monitor, path)
    }

    pub(crate) async fn wait_until_ready(&self) {
        let ready = async || matches!(self.page("/readyz"), Some((200, _)));
        until(&format!("the consumer is ready; its log:\n{}", self.running.log()), ready).await;
    }

    /// Waits until the consumer reports this outage, while it is ready.
    pub(crate) async fn wait_until_degraded(&self, reason: &str) {
        let degraded = async || matches!(self.page("/readyz"), Some((200, body)) if body.contains(reason));
        until(&format!("the consumer reports: {reason}"), degraded).await;
    }

    /// Waits until the consumer is not ready for this reason.
    pub(crate) async fn wait_until_not_ready(&self, reason: &str) {
        let unready = async || matches!(self.page("/readyz"), Some((503, body)) if body.contains(reason));
        until(&format!("the consumer is not ready: {reason}"), unready).await;
        assert_eq!(self.page("/livez").unwrap().0, 200);
    }

    /// The value of a metric, or 0 if it does not exist yet.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let (_, metrics) = self.page("/metrics").unwrap();
        let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0, |value| value.parse().unwrap())
    }
}
