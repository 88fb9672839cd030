//! An event in Postgres and Redis, redeemers and an HTTP client.

use std::time::{Duration, Instant};

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, Method, Request, StatusCode, header},
};
use couponry_domain::{
    Acknowledge, CodeFormat, CouponBatch, CouponTerms, Discount, DiscountType, EventName, Gate, IssuedRecord, Release,
    UserId, Uuid, Window, code::CouponCode,
};
use couponry_kafka::{KafkaSettings, TopicSettings, topics};
use couponry_postgres::{Database, NewEvent, RecordOutcome};
use couponry_redis::{GateSettings, RedisStore};
use couponry_testbed::{Database as TestDatabase, ports, program::Running, shared, unique_name};
use http_body_util::BodyExt;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};

pub(crate) const TEN_PERCENT: Discount = Discount { kind: DiscountType::Percent, value: 10 };

/// An event with its servers.
pub(crate) struct World {
    pub(crate) postgres: String,
    pub(crate) redis: String,
    pub(crate) prefix: String,
    /// The topic of the uses. Most tests do not need it, so it does not exist.
    pub(crate) used: KafkaSettings,
    pub(crate) database: Database,
    pub(crate) redis_store: RedisStore,
    pub(crate) event: EventName,
    pub(crate) uid: Uuid,
    test_database: Option<TestDatabase>,
}

impl World {
    /// On the shared servers, with an open event of `count` coupons.
    pub(crate) async fn open(count: u64) -> Self {
        Self::open_with(count, CouponTerms::default()).await
    }

    /// The same with these terms.
    pub(crate) async fn open_with(count: u64, terms: CouponTerms) -> Self {
        let database = TestDatabase::create().unwrap();
        let world = Self::with_terms(&database.url(), &shared::redis(), count, terms).await;
        Self { test_database: Some(database), ..world }
    }

    /// On these servers.
    pub(crate) async fn on(postgres: &str, redis: &str, count: u64) -> Self {
        Self::with_terms(postgres, redis, count, CouponTerms::default()).await
    }

    async fn with_terms(postgres: &str, redis: &str, count: u64, terms: CouponTerms) -> Self {
        let prefix = format!("{}:", unique_name("redeemer"));
        let world = Self {
            postgres: postgres.to_owned(),
            redis: redis.to_owned(),
            database: Database::connect(postgres).unwrap(),
            redis_store: RedisStore::connect(redis, &prefix).unwrap(),
            prefix,
            used: KafkaSettings::at(shared::kafka(), unique_name("used")),
            event: "summer".parse().unwrap(),
            uid: Uuid::new_v4(),
            test_database: None,
        };
        world.database.migrate().await.unwrap();
        world.create_event(count, terms).await;
        world
    }

    async fn create_event(&self, count: u64, terms: CouponTerms) {
        let validity = terms.validity.clone();
        let batch = CouponBatch { first_ordinal: 0, counts: vec![(TEN_PERCENT, count)] };
        let event = NewEvent {
            uid: self.uid,
            name: self.event.clone(),
            policy_name: "Summer sale".into(),
            format: CodeFormat { prefix: Some("SUMMER".into()), length: 12 },
            terms,
            release: Release::default(),
            generation: 1,
        };
        let event = self.database.register(&event).await.unwrap();
        self.database.generate_coupons(&event, &batch, |_| {}).await.unwrap();
        let coupons: Vec<_> = batch.coupons(event.seed, event.format).collect();
        self.redis_store.prepare(&self.event, self.uid, 0).await.unwrap();
        self.verify_redis().await;
        self.redis_store.load(&self.event, self.uid, 0, &coupons).await.unwrap();
        let opening = GateSettings {
            gate: Gate::Open,
            window: Window::default(),
            acknowledge: Acknowledge::Redis,
            validity,
            release: Release::default(),
            admission_key: None,
            generation: 1,
            stock_epoch: 0,
            total: count,
        };
        self.redis_store.set_gate(&self.event, self.uid, &opening).await.unwrap();
    }

    /// Creates the topic of the uses.
    pub(crate) async fn create_used_topic(&self) {
        let (replication, min_insync_replicas) = (1, 1);
        let issued = KafkaSettings { topic: unique_name("issued"), ..self.used.clone() };
        let used_topic = Some(self.used.topic.clone());
        let settings = TopicSettings { partitions: 3, replication, min_insync_replicas, retention: None, used_topic };
        topics::ensure(&issued, &settings).await.unwrap();
    }

    /// Marks Redis as verified, as the operator does after a check.
    pub(crate) async fn verify_redis(&self) {
        until("Redis is verified", async || {
            let Ok(Some(observed)) = self.redis_store.observe(&self.event).await else { return false };
            self.redis_store.mark_verified(&self.event, &observed, None).await.is_ok()
        })
        .await;
    }

    /// Executes SQL in the database of the test.
    pub(crate) fn sql(&self, sql: &str) {
        self.test_database.as_ref().unwrap().sql(sql).unwrap();
    }

    /// Issues a coupon to the user in Redis, as an issuer does. It is not recorded.
    pub(crate) async fn issue(&self, user: &str) -> IssuedRecord {
        let users: [UserId; 1] = [user.parse().unwrap()];
        let reply = self.redis_store.issue(&self.event, &users).await.unwrap().unwrap();
        reply.outbox.unwrap().records.remove(0)
    }

    /// Issues a coupon to the user, and records it, as a consumer does.
    pub(crate) async fn issue_and_record(&self, user: &str) -> CouponCode {
        let record = self.issue(user).await;
        let coupon = record.issued.coupon.clone();
        assert_eq!(self.database.record(&[record]).await.unwrap(), [RecordOutcome::Recorded]);
        coupon
    }

    /// Starts a redeemer that does not authenticate callers. It may not be ready yet.
    pub(crate) fn redeemer(&self, flags: &[&str]) -> Redeemer {
        self.redeemer_with(&[&["--auth", "none"], flags].concat(), &[])
    }

    /// Starts a redeemer with these environment variables. It may not be ready yet.
    pub(crate) fn redeemer_with(&self, flags: &[&str], env: &[(&str, &str)]) -> Redeemer {
        let (listen, monitor) = (ports::free().unwrap(), ports::free().unwrap());
        let mut program = couponry_testbed::program("couponry-redeemer")
            .args(["--postgres-url", &self.postgres])
            .args(["--redis-url", &self.redis, "--redis-key-prefix", &self.prefix])
            .args(["--kafka-brokers", &self.used.brokers, "--kafka-used-topic", &self.used.topic])
            .args(["--listen", &format!("127.0.0.1:{listen}"), "--monitor-listen", &format!("127.0.0.1:{monitor}")])
            .env("DRAIN_SECONDS", "0")
            .args(flags.iter().copied());
        for (key, value) in env {
            program = program.env(*key, *value);
        }
        let running = program.start().unwrap();
        Redeemer { running, listen, monitor, client: Client::builder(TokioExecutor::new()).build_http() }
    }

    /// Starts a redeemer and waits until it is ready.
    pub(crate) async fn ready_redeemer(&self) -> Redeemer {
        let redeemer = self.redeemer(&[]);
        redeemer.wait_until_ready().await;
        redeemer
    }
}

pub(crate) struct Redeemer {
    pub(crate) running: Running,
    pub(crate) listen: u16,
    monitor: u16,
    client: Client<HttpConnector, Body>,
}

#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) json: Value,
}

impl Response {
    /// The last part of the type of a problem.
    pub(crate) fn problem(&self) -> &str {
        self.json["type"].as_str().unwrap_or_default().trim_start_matches("https://couponry.dev/problems/")
    }

    pub(crate) fn state(&self) -> &str {
        self.json["state"].as_str().unwrap_or_default()
    }

    pub(crate) fn assert_unavailable(&self) {
        assert_eq!(self.status, StatusCode::SERVICE_UNAVAILABLE, "{}", self.json);
        assert!(self.json["retryAfterMs"].is_u64() && self.headers.contains_key("retry-after"), "{}", self.json);
        assert_eq!(self.headers["content-type"], "application/problem+json");
    }
}

/// The body of a request.
pub(crate) fn body(coupon: &CouponCode, user: &str, order: &str) -> Value {
    json!({"eventId": "summer", "couponKey": coupon.as_str(), "userId": user, "orderId": order})
}

impl Redeemer {
    pub(crate) async fn send(&self, request: Request<Body>) -> Result<Response, hyper_util::client::legacy::Error> {
        let response = self.client.request(request).await?;
        let (parts, body) = response.into_parts();
        let bytes: Bytes = body.collect().await.unwrap().to_bytes();
        let json = serde_json::from_slice(&bytes).unwrap_or_else(|_| panic!("not JSON: {bytes:?}"));
        Ok(Response { status: parts.status, headers: parts.headers, json })
    }

    pub(crate) fn request(&self, operation: &str, key: Option<&str>, body: &Value) -> Request<Body> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://127.0.0.1:{}/redemptions/{operation}", self.listen))
            .header(header::CONTENT_TYPE, "application/json");
        let request = if let Some(key) = key { request.header("Idempotency-Key", key) } else { request };
        request.body(Body::from(body.to_string())).unwrap()
    }

    /// Sends a request with an idempotency key.
    pub(crate) async fn post(&self, operation: &str, key: &str, body: &Value) -> Response {
        self.send(self.request(operation, Some(key), body)).await.unwrap()
    }

    pub(crate) async fn validate(&self, body: &Value) -> Response {
        self.send(self.request("validate", None, body)).await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        let url = format!("http://127.0.0.1:{}{path}", self.listen);
        self.send(Request::builder().uri(url).body(Body::empty()).unwrap()).await.unwrap()
    }

    pub(crate) async fn coupon(&self, coupon: &CouponCode) -> Response {
        self.get(&format!("/redemptions/summer/{coupon}")).await
    }

    async fn monitor(&self, path: &str) -> (u16, String) {
        let url = format!("http://127.0.0.1:{}{path}", self.monitor).parse().unwrap();
        let Ok(response) = self.client.get(url).await else { return (0, String::new()) };
        let status = response.status().as_u16();
        (status, String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
    }

    /// Status and text of /readyz; 0 if the port is closed.
    pub(crate) async fn readiness(&self) -> (u16, String) {
        self.monitor("/readyz").await
    }

    pub(crate) async fn metrics(&self) -> String {
        self.monitor("/metrics").await.1
    }

    pub(crate) async fn wait_until_ready(&self) {
        until("the redeemer is ready", async || self.readiness().await.0 == 200).await;
    }
}

/// Waits for a condition.
pub(crate) async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(2);
    while !condition().await {
        assert!(Instant::now() < deadline, "timed out waiting until {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
