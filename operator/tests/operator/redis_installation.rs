//! An operator, two issuers and a consumer on a Redis of the test, with users who request coupons continuously.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use couponry_domain::EventName;
use couponry_testbed::{Redis, ports, program::Running};
use futures::{StreamExt as _, TryStreamExt as _, future};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::support::{DEADLINE, World, is_true, reason, wait_until};

/// With a start time, which Redis loses as well.
pub(crate) fn spec(total: u32, acknowledge: &str) -> String {
    format!(
        "{{policyName: p, totalCount: {total}, startTime: '2026-01-01T00:00:00Z', acknowledge: {acknowledge}, \
         discounts: [{{type: Amount, value: 1, count: {total}}}]}}"
    )
}

/// An installation on a Redis of its own.
pub(crate) struct Installation {
    pub(crate) world: World,
    pub(crate) redis: Redis,
    pub(crate) operator: Running,
    /// The port of its metrics.
    pub(crate) operator_port: u16,
    pub(crate) issuers: Vec<(Running, u16)>,
    pub(crate) consumer: Running,
}

/// All coupons that each user received.
pub(crate) type Received = BTreeMap<u32, BTreeSet<String>>;

impl Installation {
    /// Starts it and opens an event.
    pub(crate) async fn start(total: u32, acknowledge: &str, brokers: Option<String>) -> Result<Self> {
        let installation = Self::start_on(Redis::start()?, &spec(total, acknowledge), brokers).await?;
        installation.world.wait("event", "open", |status| is_true(status, "Open")).await?;
        Ok(installation)
    }

    /// Starts it on this Redis, with an event of this spec, which is ready.
    pub(crate) async fn start_on(redis: Redis, spec: &str, brokers: Option<String>) -> Result<Self> {
        let mut world = World::with_redis(&redis.url()).await?;
        if let Some(brokers) = brokers {
            world.brokers = brokers;
        }
        let operator_port = ports::free()?;
        let operator = world.operator_program(operator_port).start()?;
        let mut issuers = Vec::new();
        for _ in 0..2 {
            let port = ports::free()?;
            let issuer = world.program("couponry-issuer")?;
            let issuer = issuer.args(["--listen", &format!("127.0.0.1:{port}"), "--outbox-takeover-seconds", "1"]);
            issuers.push((issuer.start()?, port));
        }
        let consumer = world.program("couponry-consumer")?.args(["--postgres-url", &world.test_database.url()]);
        let consumer = consumer.args(["--kafka-group", world.namespace()]).start()?;
        world.apply("event", spec)?;
        world.wait("event", "ready", |status| is_true(status, "Ready")).await?;
        let installation = Self { world, redis, operator, operator_port, issuers, consumer };
        wait_until("the issuers respond", async || {
            let requests = installation.issuers.iter().map(|(_, port)| request_coupon(*port, 0, "unknown-event"));
            Ok(future::join_all(requests).await.iter().all(Option::is_some))
        })
        .await?;
        Ok(installation)
    }

    pub(crate) fn ports(&self) -> Vec<u16> {
        self.issuers.iter().map(|(_, port)| *port).collect()
    }

    /// Starts the requests of new users, 16 at a time. Each user retries until a coupon is received.
    pub(crate) fn start_workload(&self) -> Workload {
        let (ports, count, stop) = (self.ports(), Arc::<AtomicU32>::default(), Arc::<AtomicBool>::default());
        let (served, is_stopped) = (count.clone(), stop.clone());
        let received = tokio::spawn(async move {
            let users = futures::stream::iter(0..)
                .take_while(|_| future::ready(!is_stopped.load(Ordering::Relaxed)))
                .map(|user| {
                    let (ports, served) = (ports.clone(), served.clone());
                    async move {
                        let coupon = request_until_received(&ports, user).await?;
                        served.fetch_add(1, Ordering::Relaxed);
                        anyhow::Ok((user, BTreeSet::from([coupon])))
                    }
                })
                .buffer_unordered(16);
            users.try_collect::<Received>().await.inspect_err(|error| eprintln!("the workload failed: {error}"))
        });
        Workload { received, count, stop }
    }

    /// Repeats the requests of all users and adds the coupons that they receive.
    pub(crate) async fn repeat_requests(&self, received: &mut Received) -> Result<()> {
        let ports = self.ports();
        let users: Vec<u32> = received.keys().copied().collect();
        let mut repeated = futures::stream::iter(users)
            .map(|user| {
                let ports = &ports;
                async move { anyhow::Ok((user, request_until_received(ports, user).await?)) }
            })
            .buffer_unordered(16);
        while let Some((user, coupon)) = repeated.try_next().await? {
            received.entry(user).or_default().insert(coupon);
        }
        Ok(())
    }

    /// The coupon of each user in Postgres, once everything is recorded.
    pub(crate) async fn wait_recorded(&self) -> Result<BTreeMap<String, String>> {
        let event: EventName = "event".parse()?;
        let uid = self.world.uid("event").await?;
        wait_until("everything is recorded", async || {
            let Some(redis) = self.world.redis_store.observe(&event).await? else { return Ok(false) };
            let recorded = self.world.database.recorded_count(uid).await?;
            Ok(redis.is_verified
                && redis.outbox == 0
                && redis.marked_recorded == redis.issued
                && redis.issued == recorded)
        })
        .await?;
        let issuances: Vec<_> = self.world.database.stream_issuances(uid).try_collect().await?;
        let coupons = issuances.into_iter().map(|row| (row.issued.user_id.to_string(), row.issued.coupon.to_string()));
        Ok(coupons.collect())
    }

    /// Waits until the operator has reported that Redis is unverified.
    pub(crate) async fn wait_unverified(&self) -> Result<()> {
        self.world.wait("event", "stalled", |status| reason(status, "Stalled") == "RedisUnverified").await.map(drop)
    }

    /// Waits until Redis is reported as unverified, then until the event is open again. Returns how long this took.
    pub(crate) async fn wait_recovered(&self) -> Result<Duration> {
        let started = Instant::now();
        self.wait_unverified().await?;
        self.world
            .wait("event", "open again", |status| is_true(status, "Open") && reason(status, "Stalled") == "NotStalled")
            .await?;
        Ok(started.elapsed())
    }

    /// Fails unless each user received one coupon, which is the recorded one, and both stores have the same coupons.
    pub(crate) async fn check(&self, received: &Received, total: usize) -> Result<()> {
        let recorded = self.wait_recorded().await?;
        for (user, coupons) in received {
            let recorded = recorded.get(&format!("user-{user}"));
            ensure!(
                coupons.len() == 1 && coupons.first() == recorded,
                "user-{user} received {coupons:?}, recorded is {recorded:?}"
            );
        }
        self.world.check_generated_stock("event", &[("AMOUNT:1", total)]).await
    }
}

/// Running requests of users.
pub(crate) struct Workload {
    received: JoinHandle<Result<Received>>,
    count: Arc<AtomicU32>,
    stop: Arc<AtomicBool>,
}

impl Workload {
    /// Waits until this many users have received a coupon.
    pub(crate) async fn wait_count(&self, count: u32) -> Result<()> {
        wait_until("users receive coupons", async || {
            ensure!(!self.received.is_finished(), "a request returned an unexpected response");
            Ok(self.count.load(Ordering::Relaxed) >= count)
        })
        .await
    }

    /// Stops after `more` users have received a coupon.
    pub(crate) async fn stop_after(self, more: u32) -> Result<Received> {
        self.wait_count(self.count.load(Ordering::Relaxed) + more).await?;
        self.stop.store(true, Ordering::Relaxed);
        self.received.await?
    }
}

/// Requests a coupon from the issuers in turn until one returns it. Only 503 and failed connections are retried.
pub(crate) async fn request_until_received(ports: &[u16], user: u32) -> Result<String> {
    let started = Instant::now();
    loop {
        for offset in 0..ports.len() {
            let port = ports[(user as usize + offset) % ports.len()];
            match request_coupon(port, user, "event").await {
                Some((200, json)) => {
                    let coupon = json["couponKey"].as_str();
                    return Ok(coupon.with_context(|| format!("user-{user} received {json}"))?.to_owned());
                }
                Some((503, _)) | None => {}
                Some(other) => bail!("user-{user} received {other:?}"),
            }
        }
        ensure!(started.elapsed() < DEADLINE, "user-{user} received no coupon");
        sleep(Duration::from_millis(100)).await;
    }
}

/// Status and body of an issue request, or None without a response.
async fn request_coupon(port: u16, user: u32, event: &str) -> Option<(u16, Value)> {
    let body = format!(r#"{{"userId":"user-{user}","eventId":"{event}"}}"#);
    let request = format!(
        "POST /coupons/issue HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let exchange = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut response = String::new();
        stream.read_to_string(&mut response).await.ok()?;
        let (head, body) = response.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, serde_json::from_str(body).ok()?))
    };
    timeout(Duration::from_secs(15), exchange).await.ok()?
}
