//! The clock of Redis does not decide whether coupons may have been issued.

use std::{collections::BTreeSet, ops::Range};

use anyhow::{Result, ensure};
use couponry_testbed::{Clock, Redis, redis::command};

use crate::{
    redis_installation::{Installation, Received, request_until_received},
    support::{World, is_true, reason},
};

const HOUR: i64 = 3_600_000;
const CENTURY: i64 = 100 * 365 * 24 * HOUR;
const SPEC: &str = "{policyName: p, totalCount: 50, discounts: [{type: Amount, value: 1, count: 50}]}";

async fn serve(installation: &Installation, users: Range<u32>, received: &mut Received) -> Result<()> {
    for user in users {
        let coupon = request_until_received(&installation.ports(), user).await?;
        received.entry(user).or_default().insert(coupon);
    }
    Ok(())
}

/// Serves users while nothing is recorded, sets the clock and wipes Redis.
async fn wipe(
    installation: &Installation,
    clock: (&Clock, i64),
    users: Range<u32>,
    received: &mut Received,
) -> Result<()> {
    installation.consumer.pause()?;
    serve(installation, users, received).await?;
    clock.0.set(clock.1)?;
    command(&installation.redis.url(), &["FLUSHALL"])?;
    installation.wait_unverified().await?;
    installation.consumer.resume()?;
    installation
        .world
        .wait("event", "open again", |status| is_true(status, "Open") && reason(status, "Stalled") == "NotStalled")
        .await?;
    let holders = installation.world.redis_store.scan_issued(&"event".parse()?).await?;
    ensure!(holders.len() == received.len(), "{} users have a coupon after the recovery", holders.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_with_shifted_clock_issues_no_coupon_twice() -> Result<()> {
    let (redis, clock) = Redis::start_with_clock()?;
    clock.set(HOUR)?;
    let installation = Installation::start_on(redis, SPEC, None).await?;
    let mut received = Received::new();
    wipe(&installation, (&clock, HOUR), 0..21, &mut received).await?;

    clock.set(0)?;
    serve(&installation, 21..30, &mut received).await?;
    wipe(&installation, (&clock, -HOUR), 30..40, &mut received).await?;

    // Set back, without a loss of data.
    clock.set(-24 * HOUR)?;
    serve(&installation, 40..50, &mut received).await?;
    let recorded = installation.wait_recorded().await?;
    assert_eq!(recorded.len(), 50);
    installation.repeat_requests(&mut received).await?;
    let coupons: BTreeSet<_> = received.values().flatten().collect();
    assert_eq!(coupons.len(), 50, "every user has one coupon, and every coupon one user");
    installation.check(&received, 50).await?;
    let reasons = installation.world.kube_event_reasons("event").await?;
    ensure!(!reasons.iter().any(|reason| reason == "DriftFound"), "{reasons:?}");
    Ok(())
}

/// An opening in the future does not prove either that no coupon was issued: the clock may have been ahead.
#[tokio::test(flavor = "multi_thread")]
async fn redis_wiped_before_the_start_by_its_new_clock_issues_no_coupon_twice() -> Result<()> {
    let (redis, clock) = Redis::start_with_clock()?;
    let spec = format!("{}, startTime: '2100-01-01T00:00:00Z'}}", &SPEC[..SPEC.len() - 1]);
    let installation = Installation::start_on(redis, &spec, None).await?;
    let mut received = Received::new();
    clock.set(CENTURY)?;
    installation.consumer.pause()?;
    serve(&installation, 0..21, &mut received).await?;
    clock.set(0)?;
    command(&installation.redis.url(), &["FLUSHALL"])?;
    installation.wait_unverified().await?;
    installation.consumer.resume()?;
    installation.world.wait("event", "verified", |status| reason(status, "Stalled") == "NotStalled").await?;
    assert_eq!(installation.wait_recorded().await?.len(), 21);
    installation.repeat_requests(&mut received).await?;
    clock.set(CENTURY)?;
    serve(&installation, 21..50, &mut received).await?;
    installation.repeat_requests(&mut received).await?;
    installation.check(&received, 50).await
}

/// An event that starts much later is reconciled rarely.
#[tokio::test(flavor = "multi_thread")]
async fn distant_event_is_open_when_the_clock_of_redis_was_set() -> Result<()> {
    let (redis, clock) = Redis::start_with_clock()?;
    let world = World::with_redis(&redis.url()).await?;
    let _operator = world.start_operator()?;
    world.apply("event", &SPEC.replacen('{', "{startTime: '2100-01-01T00:00:00Z', ", 1))?;
    world.wait("event", "scheduled", |status| reason(status, "Open") == "Scheduled").await?;
    clock.set(CENTURY)?;
    world.wait("event", "open", |status| is_true(status, "Open")).await?;
    Ok(())
}
