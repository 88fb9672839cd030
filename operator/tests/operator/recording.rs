//! Issuances of which no record is in flight are recorded, and a recovery of Redis always ends.

use anyhow::{Context as _, Result, ensure};
use couponry_domain::EventName;
use couponry_testbed::{Database, Postgres, http, ports, shared};

use crate::{
    redis_installation::{Installation, Received, request_until_received},
    support::{World, message, reason, wait_until},
};

async fn serve(installation: &Installation, users: std::ops::Range<u32>) -> Result<Received> {
    let mut received = Received::new();
    for user in users {
        received.entry(user).or_default().insert(request_until_received(&installation.ports(), user).await?);
    }
    installation.wait_recorded().await?;
    Ok(received)
}

/// The value of a metric of the operator.
fn metric(installation: &Installation, name: &str) -> Result<u64> {
    let metrics = http::get(installation.operator_port, "/metrics").context("no response")?.1;
    let value = metrics.lines().find_map(|line| line.strip_prefix(&format!("couponry_operator_{name} ")));
    Ok(value.with_context(|| format!("the metric {name} is missing"))?.parse()?)
}

async fn wait_metric(installation: &Installation, name: &str, value: u64) -> Result<()> {
    wait_until(&format!("{name} is {value}"), async || Ok(metric(installation, name)? == value)).await
}

async fn wait_kube_event(installation: &Installation, reason: &str) -> Result<()> {
    wait_until(&format!("{reason} is published"), async || {
        Ok(installation.world.kube_event_reasons("event").await?.iter().any(|published| published == reason))
    })
    .await
}

/// As after a script that failed half-way, and after a failover of Postgres that lost its last commits.
#[tokio::test(flavor = "multi_thread")]
async fn issuances_without_record_in_flight_are_recorded() -> Result<()> {
    let installation = Installation::start(100, "Redis", None).await?;
    let (world, event): (_, EventName) = (&installation.world, "event".parse()?);
    let mut received = serve(&installation, 0..5).await?;

    let (coupon, discount) = world.redis_store.scan_queue(&event).await?.swap_remove(0);
    world.redis(&["LPOP", &world.key("couponQueue", "event")])?;
    let now = world.redis_store.observe(&event).await?.context("the event is not in Redis")?.now;
    let entry = format!("{coupon}:{discount}:{now}:PENDING");
    world.redis(&["HSET", &world.key("couponIssued", "event"), "user-5", &entry])?;
    received.entry(5).or_default().insert(coupon.to_string());
    wait_metric(&installation, "issuances_resent_total", 1).await?;
    installation.wait_recorded().await?;

    let uid = world.uid("event").await?;
    let lost = format!("DELETE FROM issuance WHERE event_uid = '{uid}' AND user_id IN ('user-1', 'user-2')");
    world.test_database.sql(&lost)?;
    wait_kube_event(&installation, "DriftFound").await?;
    wait_metric(&installation, "issuances_recorded_again_total", 2).await?;
    wait_kube_event(&installation, "StrandedIssuancesRecorded").await?;
    installation.repeat_requests(&mut received).await?;
    installation.check(&received, 100).await?;
    world.wait("event", "balanced", |status| reason(status, "Balanced") == "CountsMatch").await?;
    Ok(())
}

/// An event that is over is reconciled every five minutes.
#[tokio::test(flavor = "multi_thread")]
async fn rows_of_finished_event_lost_in_a_restart_of_postgres_are_recorded_again() -> Result<()> {
    let spec = "{policyName: p, totalCount: 10, discounts: [{type: Amount, value: 1, count: 10}]}";
    let postgres = Postgres::start()?;
    let world = World::on(Database::create_on(&postgres.url())?, &shared::redis()).await?;
    let port = ports::free()?;
    let _operator = world.operator_program(port).start()?;
    let uid = world.open_event(spec).await?;
    world.record_all("event").await?;
    world.wait("event", "finished", |status| status.finished_at.is_some()).await?;
    // Its status may still change, so it may be reconciled a few times more. The other event is, every two seconds.
    world.apply_open("other", spec).await?;
    let reconciliations = || {
        let metrics = http::get(port, "/metrics").context("no response")?.1;
        let count = "couponry_operator_reconcile_duration_seconds_count ";
        let count = metrics.lines().find_map(|line| line.strip_prefix(count)).context("no metric")?;
        anyhow::Ok(count.parse::<u64>()?)
    };
    let enough = reconciliations()? + 8;
    wait_until("the finished event is idle", async || Ok(reconciliations()? >= enough)).await?;

    world.test_database.sql(&format!("DELETE FROM issuance WHERE event_uid = '{uid}'"))?;
    postgres.kill9()?;
    postgres.restart()?;
    wait_until("the lost rows are recorded again", async || {
        Ok(world.database.recorded_count(uid).await.is_ok_and(|recorded| recorded == 10))
    })
    .await?;
    world.wait("event", "recorded", |status| status.recorded == Some(10)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn stalled_recording_is_reported() -> Result<()> {
    let installation = Installation::start(100, "Redis", None).await?;
    let world = &installation.world;
    serve(&installation, 0..1).await?;
    installation.consumer.pause()?;
    request_until_received(&installation.ports(), 1).await?;
    let stalled =
        world.wait("event", "stalled recording", |status| reason(status, "Recorded") == "RecordingStalled").await?;
    assert!(message(&stalled, "Recorded").contains("Check the consumers"), "{}", message(&stalled, "Recorded"));
    let age = metric(&installation, "oldest_unrecorded_seconds{event=\"event\"}")?;
    ensure!(age >= 30, "{age}");
    installation.consumer.resume()?;
    world.wait("event", "recorded", |status| reason(status, "Recorded") == "AllRecorded").await?;
    wait_kube_event(&installation, "RecordingStalled").await?;
    wait_kube_event(&installation, "RecordingResumed").await
}

/// Postgres loses rows from before the record cutoff, then Redis restarts. One of the coupons belongs to another user
/// meanwhile, so its record can never be written.
#[tokio::test(flavor = "multi_thread")]
async fn recovery_after_rows_lost_before_the_cutoff_ends_and_records_them_again() -> Result<()> {
    let installation = Installation::start(200, "Redis", None).await?;
    let world = &installation.world;
    let mut received = serve(&installation, 0..100).await?;
    // While Redis is away, the operator cannot record the lost rows again before the recovery.
    let restart_after = async |statement: &str| {
        installation.redis.kill9()?;
        world.test_database.sql(statement)?;
        installation.redis.restart()?;
        installation.wait_recovered().await
    };
    restart_after("SELECT").await?;
    let uid = world.uid("event").await?;
    let newest = format!("(SELECT user_id FROM issuance WHERE event_uid = '{uid}' ORDER BY issued_at DESC LIMIT 50)");
    let lose = format!("DELETE FROM issuance WHERE event_uid = '{uid}' AND user_id IN {newest}");
    println!("recovered after {:?}", restart_after(&lose).await?);
    installation.repeat_requests(&mut received).await?;
    installation.check(&received, 200).await?;

    let ghost = format!(
        "WITH lost AS (DELETE FROM issuance WHERE event_uid = '{uid}' AND user_id = 'user-7' RETURNING *)
         INSERT INTO issuance (event_uid, user_id, code, type, value, issued_at)
         SELECT event_uid, 'ghost', code, type, value, issued_at FROM lost"
    );
    // With this one, Postgres has more holders than Redis.
    let only_in_postgres = format!(
        "INSERT INTO issuance (event_uid, user_id, code, type, value, issued_at)
         SELECT event_uid, 'other', code, type, value, now() FROM coupon WHERE event_uid = '{uid}' AND ordinal = 199"
    );
    println!("recovered after {:?}", restart_after(&format!("{lose}; {ghost}; {only_in_postgres}")).await?);
    let conflicting = received.remove(&7).context("user-7")?;
    installation.repeat_requests(&mut received).await?;
    installation.check(&received, 200).await?;
    let coupon = request_until_received(&installation.ports(), 7).await?;
    ensure!(!conflicting.contains(&coupon), "Postgres has recorded {coupon} for another user");
    wait_kube_event(&installation, "StrandedIssuancesRecorded").await?;
    let log = installation.operator.log();
    ensure!(log.contains("cannot be recorded"), "{log}");
    Ok(())
}
