//! An event in Redis, a topic in Kafka, issuers and an HTTP client.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::{Duration, Instant},
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, Method, Request, StatusCode, header},
};
use couponry_domain::{
    Acknowledge, CodeFormat, CouponBatch, Discount, DiscountType, EventName, Gate, IssuedRecord, Release, Seed, Uuid,
    Validity, Window,
};
use couponry_kafka::{KafkaSettings, TopicSettings, topics};
use couponry_redis::{FencedWrite, GateSettings, RedisSettings, RedisStore};
use couponry_testbed::{ports, program::Running};
use futures::future;
use http_body_util::BodyExt;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time,
};

/// An event with its servers.
pub(crate) struct World {
    pub(crate) redis: String,
    pub(crate) prefix: String,
    pub(crate) kafka: KafkaSettings,
    pub(crate) redis_store: RedisStore,
    pub(crate) event: EventName,
    pub(crate) uid: Uuid,
}

impl World {
    /// On the shared servers, with unique names.
    pub(crate) async fn shared() -> Self {
        Self::on(couponry_testbed::shared::redis(), couponry_testbed::shared::kafka()).await
    }

    pub(crate) async fn on(redis: String, brokers: String) -> Self {
        let uid = Uuid::new_v4();
        // Without a prefix, the key names determine the nodes.
        let (cluster, prefix) = (redis.contains(','), format!("test-{uid}-"));
        let prefix = if cluster { String::new() } else { prefix };
        let kafka = KafkaSettings::at(brokers, format!("test-{uid}"));
        let wanted =
            TopicSettings { partitions: 3, replication: 1, min_insync_replicas: 1, retention: None, used_topic: None };
        topics::ensure(&kafka, &wanted).await.unwrap();
        // The id of the installation is that of the event.
        let settings = RedisSettings { cluster, ..RedisSettings::at(&redis, &prefix) };
        let redis_store = RedisStore::open(&settings).unwrap().of_installation(uid);
        Self { redis, prefix, kafka, redis_store, event: "summer".parse().unwrap(), uid }
    }

    /// Creates and opens the event with `count` coupons.
    pub(crate) async fn open(self, count: u64) -> Self {
        self.open_with(Discount { kind: DiscountType::Percent, value: 10 }, count).await
    }

    /// Creates and opens the event with `count` coupons of a discount.
    pub(crate) async fn open_with(self, discount: Discount, count: u64) -> Self {
        let coupons: Vec<_> = CouponBatch { first_ordinal: 0, counts: vec![(discount, count)] }
            .coupons(Seed::generate(), CodeFormat::default())
            .collect();
        assert_eq!(self.redis_store.prepare(&self.event, self.uid, 0).await.unwrap(), FencedWrite::Applied(()));
        self.mark_verified().await;
        for chunk in coupons.chunks(5000) {
            self.redis_store.load(&self.event, self.uid, 0, chunk).await.unwrap();
        }
        self.gate(Gate::Open, Window::default(), Acknowledge::Redis).await;
        // As the operator does.
        self.redis_store.verify_event_list([self.event.as_str()]).await.unwrap();
        self
    }

    /// Marks Redis as verified, as the operator does after a check.
    pub(crate) async fn mark_verified(&self) {
        until("Redis is verified", async || {
            let Ok(Some(observed)) = self.redis_store.observe(&self.event).await else { return false };
            self.redis_store
                .mark_verified(&self.event, &observed, None)
                .await
                .is_ok_and(|result| result == FencedWrite::Applied(()))
        })
        .await;
    }

    pub(crate) async fn gate(&self, gate: Gate, window: Window, acknowledge: Acknowledge) {
        self.gate_with_validity(gate, window, acknowledge, None).await;
    }

    pub(crate) async fn gate_with_validity(
        &self,
        gate: Gate,
        window: Window,
        acknowledge: Acknowledge,
        validity: Option<Validity>,
    ) {
        let total = self.redis_store.observe(&self.event).await.unwrap().unwrap().loaded;
        let opening = GateSettings {
            gate,
            window,
            acknowledge,
            validity,
            release: Release::default(),
            admission_key: None,
            generation: 1,
            stock_epoch: 0,
            total,
        };
        self.redis_store.set_gate(&self.event, self.uid, &opening).await.unwrap();
    }

    /// Starts an issuer; it may not be ready yet.
    pub(crate) fn issuer(&self, flags: &[&str]) -> Issuer {
        let (listen, monitor) = (ports::free().unwrap(), ports::free().unwrap());
        let running = couponry_testbed::program("couponry-issuer")
            .args(["--redis-url", &self.redis, "--redis-key-prefix", &self.prefix])
            .args(["--kafka-brokers", &self.kafka.brokers, "--kafka-topic", &self.kafka.topic])
            .args(["--listen", &format!("127.0.0.1:{listen}"), "--monitor-listen", &format!("127.0.0.1:{monitor}")])
            .args(self.redis.contains(',').then_some("--redis-cluster"))
            // Only the tests of draining set it.
            .env("DRAIN_SECONDS", "0")
            .args(flags.iter().copied())
            .start()
            .unwrap();
        Issuer { running, listen, monitor, client: Client::builder(TokioExecutor::new()).build_http() }
    }

    /// Starts an issuer and waits until it is ready.
    pub(crate) async fn ready_issuer(&self, flags: &[&str]) -> Issuer {
        let issuer = self.issuer(flags);
        until("the issuer is ready", async || issuer.readiness().await.0 == 200).await;
        issuer
    }

    /// The users on the topic, after waiting for at least `count` of them. Each record must be decodable.
    pub(crate) async fn users_in_kafka(&self, count: usize) -> HashSet<String> {
        self.records_in_kafka(count).await.into_keys().collect()
    }

    /// The records of [`World::users_in_kafka`].
    pub(crate) async fn records_in_kafka(&self, count: usize) -> HashMap<String, IssuedRecord> {
        let mut users = HashMap::new();
        until("the records are in Kafka", async || {
            let messages = couponry_kafka::read_all(&self.kafka).await.unwrap();
            users = messages
                .iter()
                .map(|message| {
                    let record = IssuedRecord::decode(message.version(), &message.payload).unwrap();
                    assert_eq!((&record.event_id, record.event_uid), (&self.event, self.uid));
                    assert_eq!(message.installation(), Some(self.uid.to_string().as_bytes()));
                    assert_eq!(message.key.as_deref(), Some(record.issued.user_id.as_str().as_bytes()));
                    (record.issued.user_id.to_string(), record)
                })
                .collect();
            users.len() >= count
        })
        .await;
        users
    }

    pub(crate) async fn wait_until_outbox_is_empty(&self) {
        until("the outbox is empty", async || {
            self.redis_store.observe(&self.event).await.is_ok_and(|observed| observed.unwrap().outbox == 0)
        })
        .await;
    }
}

pub(crate) struct Issuer {
    pub(crate) running: Running,
    pub(crate) listen: u16,
    monitor: u16,
    client: Client<hyper_util::client::legacy::connect::HttpConnector, Body>,
}

pub(crate) struct Response {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) json: Value,
}

impl Issuer {
    pub(crate) async fn send(
        &self,
        request: axum::http::request::Builder,
        path: &str,
        body: impl Into<Body>,
    ) -> Response {
        let url = format!("http://127.0.0.1:{}{path}", self.listen);
        let response = self.client.request(request.uri(url).body(body.into()).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes: Bytes = body.collect().await.unwrap().to_bytes();
        // A 304 has no body.
        let body = if bytes.is_empty() { b"null" } else { bytes.as_ref() };
        let json = serde_json::from_slice(body).unwrap_or_else(|_| panic!("not JSON: {bytes:?}"));
        Response { status: parts.status, headers: parts.headers, json }
    }

    pub(crate) async fn post(&self, body: impl Into<Body>) -> Response {
        let request = Request::builder().method(Method::POST).header(header::CONTENT_TYPE, "application/json");
        self.send(request, "/coupons/issue", body).await
    }

    /// The status and the headers of a response whose body is not JSON.
    pub(crate) async fn head(&self, path: &str) -> (StatusCode, HeaderMap) {
        let url = format!("http://127.0.0.1:{}{path}", self.listen).parse().unwrap();
        let (parts, _) = self.client.get(url).await.unwrap().into_parts();
        (parts.status, parts.headers)
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.send(Request::builder(), path, Body::empty()).await
    }

    pub(crate) async fn issue(&self, user: &str) -> Response {
        self.post(serde_json::json!({ "userId": user, "eventId": "summer" }).to_string()).await
    }

    /// Concurrent requests of all users.
    pub(crate) async fn issue_all(&self, users: std::ops::Range<u32>) -> Vec<Response> {
        future::join_all(users.map(|i| async move { self.issue(&format!("user-{i}")).await })).await
    }

    /// Status and text of /readyz; 0 if the port is closed.
    pub(crate) async fn readiness(&self) -> (u16, String) {
        let url = format!("http://127.0.0.1:{}/readyz", self.monitor).parse().unwrap();
        let Ok(response) = self.client.get(url).await else { return (0, String::new()) };
        let status = response.status().as_u16();
        (status, String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
    }

    /// How many issue requests received 503, by reason. The alerts count them by their status code.
    pub(crate) async fn unavailable_responses(&self) -> BTreeMap<String, u64> {
        let metrics = self.metrics().await;
        let series = |prefix: &'static str| metrics.lines().filter_map(move |line| line.strip_prefix(prefix));
        let by_reason: BTreeMap<String, u64> = series("couponry_issuer_unavailable_responses_total{reason=\"")
            .filter_map(|series| series.split_once("\"} "))
            .map(|(reason, count)| (reason.to_owned(), count.parse().unwrap()))
            .filter(|(_, count)| *count > 0)
            .collect();
        let code = "couponry_issuer_issue_responses_total{code=\"503\"} ";
        let total: u64 = series(code).next().unwrap().parse().unwrap();
        assert_eq!(by_reason.values().sum::<u64>(), total, "each 503 has a reason: {by_reason:?}");
        by_reason
    }

    pub(crate) async fn metrics(&self) -> String {
        let url = format!("http://127.0.0.1:{}/metrics", self.monitor).parse().unwrap();
        let response = self.client.get(url).await.unwrap();
        String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }
}

impl Response {
    pub(crate) fn coupon(&self) -> &str {
        self.json["couponKey"].as_str().unwrap_or_else(|| panic!("no coupon: {}", self.json))
    }

    pub(crate) fn succeeded(&self) -> bool {
        self.json["success"] == true
    }

    pub(crate) fn reason(&self) -> &str {
        self.json["reason"].as_str().unwrap_or_default()
    }
}

/// Sends these bytes and reads everything until the issuer closes the connection.
pub(crate) async fn exchange(port: u16, request: &str) -> String {
    let mut connection = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut response = Vec::new();
    let read = time::timeout(Duration::from_mins(2), connection.read_to_end(&mut response)).await;
    let response = String::from_utf8(response).unwrap();
    assert!(read.is_ok(), "the connection stays open after: {response}");
    response
}

/// Waits for a condition.
pub(crate) async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(2);
    while !condition().await {
        assert!(Instant::now() < deadline, "timed out waiting until {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
