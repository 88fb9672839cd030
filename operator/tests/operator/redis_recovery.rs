//! Recovery of Redis under load: restart, lost writes, failover to a lagging replica, and a wipe.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use couponry_domain::{EventName, Gate, UserId, Uuid};
use couponry_postgres::{RecordOutcome, Rejection};
use couponry_testbed::{Kafka, Redis, http, ports, redis::command};

use crate::{
    redis_installation::{Installation, Received, request_until_received, spec},
    support::{World, is_true, wait_until},
};

#[tokio::test(flavor = "multi_thread")]
async fn redis_restarted_with_all_data_is_verified_again() -> Result<()> {
    let installation = Installation::start(5000, "Redis", None).await?;
    let workload = installation.start_workload();
    workload.wait_count(200).await?;
    installation.redis.kill9()?;
    installation.redis.restart()?;
    println!("open again after {:?}", installation.wait_recovered().await?);
    let mut received = workload.stop_after(200).await?;
    installation.repeat_requests(&mut received).await?;
    installation.check(&received, 5000).await?;
    ensure!(
        !installation.operator.log().contains("restored from Postgres"),
        "nothing was lost, so nothing is restored: {}",
        installation.operator.log()
    );
    let reasons = installation.world.kube_event_reasons("event").await?;
    let count = |reason: &str| reasons.iter().filter(|published| *published == reason).count();
    assert_eq!([count("RedisUnverified"), count("Recovered"), count("Opened")], [1, 1, 1], "{reasons:?}");
    Ok(())
}

/// As after a failure of the machine with `appendfsync everysec`, or a restored disk.
#[tokio::test(flavor = "multi_thread")]
async fn redis_without_last_writes_is_restored() -> Result<()> {
    let installation = Installation::start(5000, "Kafka", None).await?;
    let workload = installation.start_workload();
    workload.wait_count(100).await?;
    let backup = installation.redis.dir().join("backup");
    installation.redis.back_up(&backup)?;
    workload.wait_count(500).await?;
    installation.redis.roll_back(&backup)?;
    println!("open again after {:?}", installation.wait_recovered().await?);
    let mut received = workload.stop_after(300).await?;
    installation.repeat_requests(&mut received).await?;
    installation.check(&received, 5000).await
}

#[tokio::test(flavor = "multi_thread")]
async fn failover_to_lagging_replica_issues_no_coupon_twice() -> Result<()> {
    let installation = Installation::start(5000, "Kafka", None).await?;
    let (master, replica) = (installation.redis.url(), Redis::start()?);
    let replicate = |url: &str, port: &str| command(url, &["REPLICAOF", "127.0.0.1", port]);
    let wait_in_sync = async |url: &str| {
        wait_until("the replica is in sync", async || {
            Ok(command(url, &["INFO", "replication"])?.contains("master_link_status:up"))
        })
        .await
    };
    replicate(&replica.url(), &installation.redis.port().to_string())?;
    wait_in_sync(&replica.url()).await?;
    installation.world.wait("event", "open", |status| is_true(status, "Open")).await?;
    let workload = installation.start_workload();
    workload.wait_count(200).await?;
    // The replica stops replicating, from an unused port. Later the master takes its data, at the same address.
    replicate(&replica.url(), "1")?;
    workload.wait_count(500).await?;
    command(&replica.url(), &["REPLICAOF", "NO", "ONE"])?;
    replicate(&master, &replica.port().to_string())?;
    wait_in_sync(&master).await?;
    command(&master, &["REPLICAOF", "NO", "ONE"])?;
    println!("open again after {:?}", installation.wait_recovered().await?);
    let mut received = workload.stop_after(300).await?;
    installation.repeat_requests(&mut received).await?;
    installation.check(&received, 5000).await
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_wiped_with_acknowledge_kafka_loses_no_issued_coupon() -> Result<()> {
    let installation = Installation::start(5000, "Kafka", None).await?;
    let workload = installation.start_workload();
    for round in 1..=2 {
        workload.wait_count(round * 300).await?;
        command(&installation.redis.url(), &["FLUSHALL"])?;
        println!("open again after {:?}", installation.wait_recovered().await?);
    }
    // A third wipe, together with the crash of an issuer which has batches in flight.
    workload.wait_count(900).await?;
    let (issuer, _) = &installation.issuers[0];
    issuer.kill9()?;
    command(&installation.redis.url(), &["FLUSHALL"])?;
    // A new issuer returns 404 while the event is not in Redis, so it restarts only after the operator has marked Redis
    // as unverified.
    installation.wait_unverified().await?;
    issuer.restart()?;
    println!("open again after {:?}", installation.wait_recovered().await?);
    let mut received = workload.stop_after(300).await?;
    installation.repeat_requests(&mut received).await?;
    installation.check(&received, 5000).await
}

/// A finished event is reconciled rarely, and FLUSHALL does not change the replication id.
#[tokio::test(flavor = "multi_thread")]
async fn finished_event_is_recovered_after_redis_was_wiped() -> Result<()> {
    let installation = Installation::start(20, "Kafka", None).await?;
    let ports = installation.ports();
    let mut received = Received::new();
    for user in 0..20 {
        received.insert(user, BTreeSet::from([request_until_received(&ports, user).await?]));
    }
    installation.world.wait("event", "finished", |status| status.finished_at.is_some()).await?;
    // The reconciliation that has written it is the last one for minutes.
    installation.wait_recorded().await?;
    command(&installation.redis.url(), &["FLUSHALL"])?;
    installation.repeat_requests(&mut received).await?;
    installation.check(&received, 20).await
}

/// A Redis whose clock was ahead is replaced by one with the right time.
#[tokio::test(flavor = "multi_thread")]
async fn record_cutoff_is_later_than_every_recorded_issuance() -> Result<()> {
    const AHEAD: i64 = 3_600_000;
    let redis = Redis::start()?;
    let world = World::with_redis(&redis.url()).await?;
    let _operator = world.operator_program(ports::free()?).args(["--redis-recovery-grace-seconds", "4"]).start()?;
    world.apply_open("event", &spec(10, "Redis")).await?;
    let (event, uid) = ("event".parse()?, world.uid("event").await?);
    let users: Vec<UserId> = ["u0", "u1"].into_iter().map(str::parse).collect::<Result<_, _>>()?;
    let issued = world.redis_store.issue(&event, &users).await?.and_then(|reply| reply.outbox).context("no coupons")?;
    let mut records = issued.records;
    records[0].issued.issued_at += AHEAD;
    records[1].issued.issued_at += AHEAD - 1;
    let late = records.split_off(1);
    assert_eq!(world.database.record(&records).await?, [RecordOutcome::Recorded]);
    command(&redis.url(), &["FLUSHALL"])?;
    wait_until("Redis is restored", async || {
        Ok(world.redis_store.observe(&event).await?.is_some_and(|redis| redis.is_verified && redis.issued == 1))
    })
    .await?;
    // The coupon may belong to another user now.
    let rejected = RecordOutcome::Rejected(Rejection::BeforeRecordCutoff);
    assert_eq!(world.database.record(&late).await?, [rejected]);
    assert_eq!(world.database.recorded_count(uid).await?, 1);
    Ok(())
}

/// `acknowledge: Redis` can lose the coupons that only Redis and a killed issuer had.
#[tokio::test(flavor = "multi_thread")]
async fn redis_wiped_with_acknowledge_redis_loses_only_unsent_coupons() -> Result<()> {
    let kafka = Kafka::start()?;
    let installation = Installation::start(1000, "Redis", Some(kafka.brokers())).await?;
    let ports = installation.ports();
    let request = async |users: std::ops::Range<u32>| {
        let mut received = Received::new();
        for user in users {
            received.insert(user, BTreeSet::from([request_until_received(&ports[..1], user).await?]));
        }
        anyhow::Ok(received)
    };
    let mut safe = request(0..100).await?;
    installation.wait_recorded().await?;
    kafka.pause()?;
    let mut unsent = request(100..150).await?;
    installation.issuers[0].0.kill9()?;
    command(&installation.redis.url(), &["FLUSHALL"])?;
    kafka.resume()?;
    installation.issuers[0].0.restart()?;
    installation.wait_recovered().await?;
    installation.repeat_requests(&mut safe).await?;
    installation.check(&safe, 1000).await?;

    let recorded = installation.wait_recorded().await?;
    let lost = unsent.keys().filter(|user| !recorded.contains_key(&format!("user-{user}"))).count();
    println!("{lost} of 50 coupons which were not sent to Kafka are lost");
    assert!(lost > 0, "no coupon was lost: the documented limit of acknowledge: Redis does not exist");
    // Their users receive other coupons: one for each user, and each for one user.
    installation.repeat_requests(&mut unsent).await?;
    let recorded = installation.wait_recorded().await?;
    for (user, coupons) in &unsent {
        let recorded = recorded.get(&format!("user-{user}")).context("no coupon")?;
        assert!(coupons.contains(recorded), "user-{user} received {coupons:?}, recorded is {recorded}");
    }
    assert_eq!(recorded.len(), 150);
    assert_eq!(recorded.values().collect::<BTreeSet<_>>().len(), 150);
    installation.check(&safe, 1000).await
}

/// Issues a coupon to each of these users, and waits until they are recorded.
async fn serve(installation: &Installation, users: std::ops::Range<u32>) -> Result<Received> {
    let mut received = Received::new();
    for user in users {
        received.insert(user, BTreeSet::from([request_until_received(&installation.ports(), user).await?]));
    }
    installation.wait_recorded().await?;
    Ok(received)
}

/// Issues a coupon to this user, after which each user must have another one, and each the same as before.
async fn check_next(installation: &Installation, mut received: Received, user: u32) -> Result<()> {
    received.entry(user).or_default().insert(request_until_received(&installation.ports(), user).await?);
    let coupons: BTreeSet<_> = received.values().flatten().collect();
    ensure!(coupons.len() == received.len(), "a coupon is in two hands: {received:?}");
    installation.repeat_requests(&mut received).await?;
    installation.check(&received, 50).await
}

/// Restarts Redis after this change. The operator cannot repair anything before it verifies Redis.
fn restart_redis_after(installation: &Installation, change: impl FnOnce() -> Result<()>) -> Result<()> {
    installation.operator.pause()?;
    change()?;
    installation.redis.kill9()?;
    installation.redis.restart()?;
    installation.operator.resume()
}

/// Redis is set back, and Postgres has lost as many issuances: those that Redis still has.
#[tokio::test(flavor = "multi_thread")]
async fn recovery_after_equal_losses_of_both_stores_issues_no_coupon_twice() -> Result<()> {
    let installation = Installation::start(50, "Redis", None).await?;
    let backup = installation.redis.dir().join("backup");
    let mut received = serve(&installation, 0..5).await?;
    installation.redis.back_up(&backup)?;
    received.extend(serve(&installation, 5..10).await?);
    restart_redis_after(&installation, || {
        installation.world.test_database.sql("DELETE FROM issuance WHERE user_id < 'user-5'")?;
        installation.redis.roll_back(&backup)
    })?;
    check_next(&installation, received, 10).await
}

#[tokio::test(flavor = "multi_thread")]
async fn recovery_with_coupon_recorded_for_another_user_leaves_it_to_that_user() -> Result<()> {
    let installation = Installation::start(50, "Redis", None).await?;
    let mut received = serve(&installation, 0..10).await?;
    restart_redis_after(&installation, || {
        let statement = "WITH lost AS (DELETE FROM issuance WHERE user_id = 'user-0' RETURNING *)
             INSERT INTO issuance (event_uid, user_id, code, type, value, issued_at)
             SELECT event_uid, 'user-10', code, type, value, issued_at FROM lost";
        installation.world.test_database.sql(statement).map(drop)
    })?;
    installation.wait_recovered().await?;
    let coupon = received.remove(&0).context("user-0")?;
    received.insert(10, coupon);
    check_next(&installation, received, 0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn recovery_with_issued_coupon_in_queue_issues_it_once() -> Result<()> {
    let installation = Installation::start(50, "Redis", None).await?;
    let (world, event): (_, EventName) = (&installation.world, "event".parse()?);
    let received = serve(&installation, 0..10).await?;
    let issued = world.redis_store.scan_issued(&event).await?.remove(&"user-0".parse()?).context("user-0")?.issued;
    let item = format!("{}:{}", issued.coupon, issued.discount);
    restart_redis_after(&installation, || {
        world.redis(&["LSET", &world.key("couponQueue", "event"), "0", &item]).map(drop)
    })?;
    check_next(&installation, received, 10).await
}

/// The consumers skip the records, because they name another installation.
#[tokio::test(flavor = "multi_thread")]
async fn recovery_records_directly_what_sending_to_kafka_does_not_record() -> Result<()> {
    let installation = Installation::start(50, "Redis", None).await?;
    let (world, event): (_, EventName) = (&installation.world, "event".parse()?);
    installation.operator.pause()?;
    world.redis(&["HSET", &world.key("couponMeta", "event"), "installation", &Uuid::new_v4().to_string()])?;
    let mut received = Received::new();
    for user in 0..10 {
        received.entry(user).or_default().insert(request_until_received(&installation.ports(), user).await?);
    }
    wait_until("the outbox is empty", async || {
        Ok(world.redis_store.observe(&event).await?.context("the event is not in Redis")?.outbox == 0)
    })
    .await?;
    assert_eq!(world.database.recorded_count(world.uid("event").await?).await?, 0);
    restart_redis_after(&installation, || Ok(()))?;
    installation.wait_recovered().await?;
    installation.repeat_requests(&mut received).await?;
    installation.check(&received, 50).await?;
    let (_, metrics) = http::get(installation.operator_port, "/metrics").context("no metrics")?;
    for metric in ["issuances_resent_total 10", "issuances_recorded_again_total 10"] {
        ensure!(metrics.contains(&format!("couponry_operator_{metric}\n")), "{metric} is not in\n{metrics}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn recovery_with_undecodable_values_ends() -> Result<()> {
    let installation = Installation::start(50, "Redis", None).await?;
    let mut received = Received::new();
    let ports = installation.ports();
    installation.consumer.pause()?;
    for user in 0..10 {
        received.entry(user).or_default().insert(request_until_received(&ports, user).await?);
    }
    let world = &installation.world;
    world.redis(&["HSET", &world.key("couponIssued", "event"), "user-3", "what"])?;
    world.redis(&["LSET", &world.key("couponQueue", "event"), "0", "what"])?;
    installation.redis.kill9()?;
    installation.redis.restart()?;
    installation.wait_unverified().await?;
    installation.consumer.resume()?;
    installation.wait_recovered().await?;
    installation.repeat_requests(&mut received).await?;
    installation.check(&received, 50).await?;
    let reasons = world.kube_event_reasons("event").await?;
    ensure!(reasons.iter().any(|reason| reason == "StrandedIssuancesRecorded"), "{reasons:?}");
    let (_, metrics) = http::get(installation.operator_port, "/metrics").context("no metrics")?;
    ensure!(metrics.contains("couponry_operator_issuances_undecodable_total 1"), "{metrics}");
    Ok(())
}

/// The rest of the stock is not a top-up, which an open event may lack.
#[tokio::test(flavor = "multi_thread")]
async fn interrupted_restore_of_redis_with_open_gate_is_not_complete() -> Result<()> {
    const TOTAL: u64 = 300_000;
    let world = World::shared().await?;
    let operator = world.operator_program(ports::free()?).args(["--redis-recovery-grace-seconds", "4"]).start()?;
    world.apply_open("event", &spec(u32::try_from(TOTAL)?, "Redis")).await?;
    // As if it had come back from a snapshot.
    operator.pause()?;
    world.redis(&["LPOP", &world.key("couponQueue", "event")])?;
    world.redis(&["HDEL", &world.key("couponMeta", "event"), "replicationId"])?;
    operator.resume()?;
    let event: EventName = "event".parse()?;
    let wait_loaded = async |loaded: u64| {
        wait_until("coupons are restored", async || {
            let redis = world.redis_store.observe(&event).await?.context("the event is not in Redis")?;
            ensure!(!redis.is_verified || redis.loaded == TOTAL, "verified with a part of the stock: {redis:?}");
            Ok(redis.loaded >= loaded && (redis.is_verified || loaded < TOTAL))
        })
        .await
    };
    wait_until("Redis is being restored", async || {
        Ok(world.redis_store.observe(&event).await?.is_some_and(|redis| redis.loaded < TOTAL))
    })
    .await?;
    wait_loaded(TOTAL / 4).await?;
    operator.kill9()?;
    let killed_with = world.redis_store.observe(&event).await?.context("the event is not in Redis")?;
    ensure!(killed_with.loaded < TOTAL, "killed too late for the test");
    operator.restart()?;
    wait_loaded(TOTAL).await?;
    world.wait("event", "open", |status| is_true(status, "Open")).await?;
    world.check_generated_stock("event", &[("AMOUNT:1", usize::try_from(TOTAL)?)]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn operator_killed_during_recovery_completes_it_after_restart() -> Result<()> {
    const TOTAL: u32 = 300_000;
    let redis = Redis::start()?;
    let world = World::with_redis(&redis.url()).await?;
    // The recovery takes longer than this grace period: an operator must not take over from another one which makes
    // progress.
    let start_operator =
        || world.operator_program(ports::free()?).args(["--redis-recovery-grace-seconds", "4"]).start();
    let operator = start_operator()?;
    world.apply_open("event", &spec(TOTAL, "Redis")).await?;
    assert_eq!(world.issue("event", 0..2000).await?, 2000);
    world.record_all("event").await?;
    let event: EventName = "event".parse()?;
    let before = world.redis_store.scan_issued(&event).await?;
    let mut queue = world.redis_store.scan_queue(&event).await?;
    command(&redis.url(), &["FLUSHALL"])?;
    let mut interrupted = 0;
    let observe = async || {
        let redis = world.redis_store.observe(&event).await?;
        let is_wrong = redis.as_ref().is_some_and(|redis| redis.is_verified && redis.gate == Gate::Loading);
        ensure!(!is_wrong, "requests for an open event return NOT_STARTED: {redis:?}");
        anyhow::Ok(redis)
    };
    for _ in 0..3 {
        let reached = u64::from(TOTAL) / 4;
        wait_until("the operator restores Redis", async || {
            Ok(observe().await?.is_some_and(|redis| redis.is_verified || redis.loaded >= reached))
        })
        .await?;
        operator.kill9()?;
        let redis_now = observe().await?.context("the event is not in Redis")?;
        println!("killed with {} coupons restored, verified: {}", redis_now.loaded, redis_now.is_verified);
        interrupted += u32::from(!redis_now.is_verified);
        operator.restart()?;
    }
    assert!(interrupted > 0, "no kill interrupted the recovery");
    // Two operators may restore Redis concurrently.
    let _second = start_operator()?;
    command(&redis.url(), &["FLUSHALL"])?;
    wait_until("Redis is verified", async || {
        Ok(observe().await?.is_some_and(|redis| redis.is_verified && redis.loaded == u64::from(TOTAL)))
    })
    .await?;
    world.wait("event", "open", |status| is_true(status, "Open")).await?;
    world.check_generated_stock("event", &[("AMOUNT:1", TOTAL as usize)]).await?;
    assert_eq!(world.redis_store.scan_issued(&event).await?, before, "issued coupons keep their users");
    let mut restored = world.redis_store.scan_queue(&event).await?;
    assert_eq!(restored[..100], queue[..100], "the queue keeps its order");
    restored.sort();
    queue.sort();
    assert!(restored == queue, "the queue has other coupons");
    assert_eq!(world.issue("event", 1990..2010).await?, 10);
    Ok(())
}
