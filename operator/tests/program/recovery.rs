//! A Redis that restarts, is rolled back, fails over to a replica that lags, or is wiped, while users ask: all three programs, and
//! every answer that was given.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use couponry_domain::{EventName, Gate};
use couponry_testbed::{Database, Kafka, Redis, ports, program::Running, redis::command};
use futures::{StreamExt as _, TryStreamExt as _, future};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::stage::{Stage, eventually, holds, reason};

const PATIENCE: Duration = Duration::from_mins(2);

/// With a start: Redis forgets that too.
fn spec(total: u32, acknowledge: &str) -> String {
    format!(
        "{{policyName: p, totalCount: {total}, startTime: '2026-01-01T00:00:00Z', acknowledge: {acknowledge}, discounts: [{{type: \
         Amount, value: 1, count: {total}}}]}}"
    )
}

/// An installation on a Redis of its own.
struct Show {
    stage: Stage,
    redis: Redis,
    operator: Running,
    issuers: Vec<(Running, u16)>,
    _consumer: Running,
}

/// Every coupon that each user was told of.
type Told = BTreeMap<u32, BTreeSet<String>>;

impl Show {
    async fn open(total: u32, acknowledge: &str, brokers: Option<String>) -> Result<Self> {
        let redis = Redis::start()?;
        let database = Database::create()?;
        let url = database.url();
        let mut stage = Stage::on(database, &redis.url(), &url).await?;
        if let Some(brokers) = brokers {
            stage.brokers = brokers;
        }
        let operator = stage.operator()?;
        let mut issuers = Vec::new();
        for _ in 0..2 {
            let port = ports::free()?;
            let issuer = stage.companion("couponry-issuer")?;
            let issuer = issuer.args(["--listen", &format!("127.0.0.1:{port}"), "--outbox-takeover-seconds", "1"]);
            issuers.push((issuer.start()?, port));
        }
        let consumer = stage.companion("couponry-consumer")?.args(["--postgres-url", &url]);
        let consumer = consumer.args(["--kafka-group", stage.namespace()]).start()?;
        stage.apply("event", &spec(total, acknowledge))?;
        stage.wait("event", "open", |status| holds(status, "Open")).await?;
        let show = Self { stage, redis, operator, issuers, _consumer: consumer };
        eventually("the issuers answer", async || {
            Ok(future::join_all(show.issuers.iter().map(|(_, port)| ask(*port, u32::MAX)))
                .await
                .iter()
                .all(Option::is_some))
        })
        .await?;
        Ok(show)
    }

    fn ports(&self) -> Vec<u16> {
        self.issuers.iter().map(|(_, port)| *port).collect()
    }

    /// Users come, some at a time, until they are told to end; each asks until there is an answer.
    fn crowd(&self) -> Crowd {
        let (ports, count, end) = (self.ports(), Arc::<AtomicU32>::default(), Arc::<AtomicBool>::default());
        let (answered, ends) = (count.clone(), end.clone());
        let told = tokio::spawn(async move {
            let users = futures::stream::iter(0..)
                .take_while(|_| future::ready(!ends.load(Ordering::Relaxed)))
                .map(|user| {
                    let (ports, answered) = (ports.clone(), answered.clone());
                    async move {
                        let coupon = persist(&ports, user).await?;
                        answered.fetch_add(1, Ordering::Relaxed);
                        anyhow::Ok((user, BTreeSet::from([coupon])))
                    }
                })
                .buffer_unordered(16);
            users.try_collect::<Told>().await.inspect_err(|error| eprintln!("the crowd ended: {error}"))
        });
        Crowd { told, count, end }
    }

    /// All of them ask again.
    async fn ask_again(&self, told: &mut Told) -> Result<()> {
        let ports = self.ports();
        let users: Vec<u32> = told.keys().copied().collect();
        let mut again = futures::stream::iter(users)
            .map(|user| {
                let ports = &ports;
                async move { anyhow::Ok((user, persist(ports, user).await?)) }
            })
            .buffer_unordered(16);
        while let Some((user, coupon)) = again.try_next().await? {
            told.entry(user).or_default().insert(coupon);
        }
        Ok(())
    }

    /// What Postgres has, when everything has arrived.
    async fn recorded(&self) -> Result<BTreeMap<String, String>> {
        let event: EventName = "event".parse()?;
        let uid = self.stage.uid("event").await?;
        eventually("everything is recorded", async || {
            let Some(redis) = self.stage.stock.observe(&event).await? else { return Ok(false) };
            let recorded = self.stage.database.recorded_count(uid).await?;
            Ok(redis.is_verified && redis.outbox == 0 && redis.completed == redis.issued && redis.issued == recorded)
        })
        .await?;
        let issuances: Vec<_> = self.stage.database.stream_issuances(uid).try_collect().await?;
        Ok(issuances.into_iter().map(|one| (one.issued.user_id.to_string(), one.issued.coupon.to_string())).collect())
    }

    /// Waits until Redis was found to be another one.
    async fn noticed(&self) -> Result<()> {
        self.stage.wait("event", "stalled", |status| reason(status, "Stalled") == "RedisUnverified").await.map(drop)
    }

    /// Waits for that, then until it is whole.
    async fn recovered(&self) -> Result<Duration> {
        let begun = Instant::now();
        self.noticed().await?;
        self.stage
            .wait("event", "open again", |status| holds(status, "Open") && reason(status, "Stalled") == "NotStalled")
            .await?;
        Ok(begun.elapsed())
    }

    /// Fails unless each user was told of one coupon, and that one is recorded; and both stores hold the same.
    async fn check(&self, told: &Told, total: usize) -> Result<()> {
        let recorded = self.recorded().await?;
        for (user, coupons) in told {
            let recorded = recorded.get(&format!("user-{user}"));
            ensure!(
                coupons.len() == 1 && coupons.first() == recorded,
                "user-{user} was told of {coupons:?}, recorded is {recorded:?}"
            );
        }
        self.stage.check_whole("event", &[("AMOUNT:1", total)]).await
    }
}

/// Users who are asking.
struct Crowd {
    told: JoinHandle<Result<Told>>,
    count: Arc<AtomicU32>,
    end: Arc<AtomicBool>,
}

impl Crowd {
    async fn reaches(&self, count: u32) -> Result<()> {
        eventually("users are answered", async || {
            ensure!(!self.told.is_finished(), "somebody was told what they must not be told");
            Ok(self.count.load(Ordering::Relaxed) >= count)
        })
        .await
    }

    /// After `more` answers nobody comes any more.
    async fn end_after(self, more: u32) -> Result<Told> {
        self.reaches(self.count.load(Ordering::Relaxed) + more).await?;
        self.end.store(true, Ordering::Relaxed);
        self.told.await?
    }
}

/// Asks one after the other until one tells of a coupon. Whatever is no answer is asked again.
async fn persist(ports: &[u16], user: u32) -> Result<String> {
    let begun = Instant::now();
    loop {
        for turn in 0..ports.len() {
            let port = ports[(user as usize + turn) % ports.len()];
            match ask(port, user).await {
                Some((200, json)) => {
                    let coupon = json["couponKey"].as_str();
                    return Ok(coupon.with_context(|| format!("user-{user} was told {json}"))?.to_owned());
                }
                Some((503, _)) | None => {}
                Some(other) => anyhow::bail!("user-{user} was told {other:?}"),
            }
        }
        ensure!(begun.elapsed() < PATIENCE, "user-{user} was told nothing");
        sleep(Duration::from_millis(100)).await;
    }
}

/// Status and answer; None: nothing came back. The user with the highest number asks for another event.
async fn ask(port: u16, user: u32) -> Option<(u16, serde_json::Value)> {
    let event = if user == u32::MAX { "none" } else { "event" };
    let body = format!(r#"{{"userId":"user-{user}","eventId":"{event}"}}"#);
    let length = body.len();
    let request = format!(
        "POST /coupons/issue HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    let exchange = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, serde_json::from_str(body).ok()?))
    };
    timeout(Duration::from_secs(15), exchange).await.ok()?
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_restarts_with_all_its_data_is_believed_again() -> Result<()> {
    let show = Show::open(5000, "Redis", None).await?;
    let crowd = show.crowd();
    crowd.reaches(200).await?;
    show.redis.kill9()?;
    show.redis.restart()?;
    println!("open again after {:?}", show.recovered().await?);
    let mut told = crowd.end_after(200).await?;
    show.ask_again(&mut told).await?;
    show.check(&told, 5000).await?;
    ensure!(!show.operator.log().contains("restored from Postgres"), "nothing was lost: {}", show.operator.log());
    let story = show.stage.story("event").await?;
    let count = |told: &str| story.iter().filter(|one| *one == told).count();
    assert_eq!([count("RedisUnverified"), count("Recovered"), count("Opened")], [1, 1, 1], "{story:?}");
    Ok(())
}

/// As with `appendfsync everysec` on a machine that fails, or with a disk that is put back.
#[tokio::test(flavor = "multi_thread")]
async fn a_redis_without_its_last_writes_is_restored() -> Result<()> {
    let show = Show::open(5000, "Kafka", None).await?;
    let crowd = show.crowd();
    crowd.reaches(100).await?;
    let dir = command(&show.redis.url(), &["CONFIG", "GET", "dir"])?;
    let dir = PathBuf::from(dir.lines().last().context("no directory")?.trim()).join("appendonlydir");
    let backup = dir.with_extension("backup");
    copy(&dir, &backup)?;
    crowd.reaches(500).await?;
    show.redis.kill9()?;
    fs::remove_dir_all(&dir)?;
    fs::rename(&backup, &dir)?;
    show.redis.restart()?;
    println!("open again after {:?}", show.recovered().await?);
    let mut told = crowd.end_after(300).await?;
    show.ask_again(&mut told).await?;
    show.check(&told, 5000).await
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_to_a_replica_that_lags_gives_no_coupon_twice() -> Result<()> {
    let show = Show::open(5000, "Kafka", None).await?;
    let (master, replica) = (show.redis.url(), Redis::start()?);
    let follow = |one: &str, port: &str| command(one, &["REPLICAOF", "127.0.0.1", port]);
    let synced = async |one: &str| {
        eventually("the replica follows", async || {
            Ok(command(one, &["INFO", "replication"])?.contains("master_link_status:up"))
        })
        .await
    };
    follow(&replica.url(), &show.redis.port().to_string())?;
    synced(&replica.url()).await?;
    show.stage.wait("event", "open", |status| holds(status, "Open")).await?;
    let crowd = show.crowd();
    crowd.reaches(200).await?;
    // The replica hears no more. Then its data take the place of the master's, at the same address.
    follow(&replica.url(), "1")?;
    crowd.reaches(500).await?;
    command(&replica.url(), &["REPLICAOF", "NO", "ONE"])?;
    follow(&master, &replica.port().to_string())?;
    synced(&master).await?;
    command(&master, &["REPLICAOF", "NO", "ONE"])?;
    println!("open again after {:?}", show.recovered().await?);
    let mut told = crowd.end_after(300).await?;
    show.ask_again(&mut told).await?;
    show.check(&told, 5000).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_wiped_under_load_loses_nothing_that_was_answered_when_kafka_had_it() -> Result<()> {
    let show = Show::open(5000, "Kafka", None).await?;
    let crowd = show.crowd();
    for round in 1..=2 {
        crowd.reaches(round * 300).await?;
        command(&show.redis.url(), &["FLUSHALL"])?;
        println!("open again after {:?}", show.recovered().await?);
    }
    // Killed together with an issuer that has something under way.
    crowd.reaches(900).await?;
    let (issuer, _) = &show.issuers[0];
    issuer.kill9()?;
    command(&show.redis.url(), &["FLUSHALL"])?;
    // Before that, it would not know that there was such an event: neither it nor Redis has seen it.
    show.noticed().await?;
    issuer.restart()?;
    println!("open again after {:?}", show.recovered().await?);
    let mut told = crowd.end_after(300).await?;
    show.ask_again(&mut told).await?;
    show.check(&told, 5000).await
}

/// What `acknowledge: Redis` does not promise: the coupons that only Redis and a dead issuer knew of.
#[tokio::test(flavor = "multi_thread")]
async fn what_only_a_wiped_redis_and_a_killed_issuer_knew_is_lost_and_nothing_else() -> Result<()> {
    let kafka = Kafka::start()?;
    let show = Show::open(1000, "Redis", Some(kafka.brokers())).await?;
    let ports = show.ports();
    let tell = async |users: std::ops::Range<u32>| {
        let mut told = Told::new();
        for user in users {
            told.insert(user, BTreeSet::from([persist(&ports[..1], user).await?]));
        }
        anyhow::Ok(told)
    };
    let mut safe = tell(0..100).await?;
    show.recorded().await?;
    kafka.pause()?;
    let mut unheard = tell(100..150).await?;
    show.issuers[0].0.kill9()?;
    command(&show.redis.url(), &["FLUSHALL"])?;
    kafka.resume()?;
    show.issuers[0].0.restart()?;
    show.recovered().await?;
    show.ask_again(&mut safe).await?;
    show.check(&safe, 1000).await?;

    let recorded = show.recorded().await?;
    let lost = unheard.keys().filter(|user| !recorded.contains_key(&format!("user-{user}"))).count();
    println!("{lost} of 50 coupons that users were told of in the meantime are lost");
    assert!(lost > 0, "acknowledge: Redis promises more than it says");
    // They get others, and nobody has two or the same.
    show.ask_again(&mut unheard).await?;
    let recorded = show.recorded().await?;
    for (user, coupons) in &unheard {
        let has = recorded.get(&format!("user-{user}")).context("no coupon")?;
        assert!(coupons.contains(has), "user-{user} was told of {coupons:?}, recorded is {has}");
    }
    assert_eq!(recorded.len(), 150);
    assert_eq!(recorded.values().collect::<BTreeSet<_>>().len(), 150);
    show.check(&safe, 1000).await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_the_middle_of_restoring_another_operator_starts_over() -> Result<()> {
    const TOTAL: u32 = 300_000;
    let (redis, database) = (Redis::start()?, Database::create()?);
    let url = database.url();
    let stage = Stage::on(database, &redis.url(), &url).await?;
    // Restoring takes longer: an operator must not take over from another one that gets on.
    let impatient = || stage.program(ports::free()?).args(["--redis-recovery-grace-seconds", "1"]).start();
    let operator = impatient()?;
    stage.apply("event", &spec(TOTAL, "Redis"))?;
    stage.wait("event", "open", |status| holds(status, "Open")).await?;
    assert_eq!(stage.ask("event", 0..2000).await?, 2000);
    stage.record_all("event").await?;
    let event: EventName = "event".parse()?;
    let before = stage.stock.scan_issued(&event).await?;
    let mut queue = stage.stock.scan_queue(&event).await?;
    command(&redis.url(), &["FLUSHALL"])?;
    let mut in_the_middle = 0;
    let seen = async || {
        let redis = stage.stock.observe(&event).await?;
        let is_told_wrong = redis.as_ref().is_some_and(|redis| redis.is_verified && redis.gate == Gate::Loading);
        ensure!(!is_told_wrong, "users are told that an open event has not started: {redis:?}");
        anyhow::Ok(redis)
    };
    for _ in 0..3 {
        let reached = u64::from(TOTAL) / 4;
        eventually("it is restoring", async || {
            Ok(seen().await?.is_some_and(|redis| redis.is_verified || redis.loaded >= reached))
        })
        .await?;
        operator.kill9()?;
        let redis_now = seen().await?.context("gone")?;
        println!("killed with {} coupons restored, whole: {}", redis_now.loaded, redis_now.is_verified);
        in_the_middle += u32::from(!redis_now.is_verified);
        operator.restart()?;
    }
    assert!(in_the_middle > 0, "it was always faster than we");
    // Two at once are no more harm than one.
    let _other = impatient()?;
    command(&redis.url(), &["FLUSHALL"])?;
    eventually("it is whole", async || {
        Ok(seen().await?.is_some_and(|redis| redis.is_verified && redis.loaded == u64::from(TOTAL)))
    })
    .await?;
    stage.wait("event", "open", |status| holds(status, "Open")).await?;
    stage.check_whole("event", &[("AMOUNT:1", TOTAL as usize)]).await?;
    assert_eq!(stage.stock.scan_issued(&event).await?, before, "everyone has what they had");
    let mut restored = stage.stock.scan_queue(&event).await?;
    assert_eq!(restored[..100], queue[..100], "in the order of the stock");
    restored.sort();
    queue.sort();
    assert!(restored == queue, "the queue is another one");
    assert_eq!(stage.ask("event", 1990..2010).await?, 10);
    Ok(())
}
