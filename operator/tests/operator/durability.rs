//! The condition `Durable`, which depends on the settings of Redis.

use anyhow::{Context as _, Result, ensure};
use couponry_testbed::{Redis, redis::command};

use crate::support::{World, is_true, message};

const SPEC: &str = "{policyName: p, totalCount: 100, discounts: [{type: Amount, value: 1, count: 100}]}";

#[tokio::test(flavor = "multi_thread")]
async fn durable_condition_follows_redis_settings() -> Result<()> {
    let redis = Redis::start()?;
    let world = World::with_redis(&redis.url()).await?;
    let _operator = world.start_operator()?;
    world.apply("event", SPEC)?;
    let durable =
        world.wait("event", "durable", |status| is_true(status, "Durable") && is_true(status, "Open")).await?;
    assert_eq!(
        message(&durable, "Durable"),
        "With appendfsync always, Redis writes every issued coupon to its disk before it is returned."
    );

    for (setting, value, words) in [
        ("appendfsync", "everysec", "loses the coupons issued in up to one second"),
        ("maxmemory-policy", "allkeys-lru", "With maxmemory-policy allkeys-lru, Redis evicts coupons"),
        ("appendonly", "no", "a restart of Redis loses the coupons issued since its last snapshot"),
    ] {
        command(&redis.url(), &["CONFIG", "SET", setting, value])?;
        let status = world.wait("event", words, |status| message(status, "Durable").contains(words)).await?;
        let condition = status.condition("Durable").context("no condition")?;
        assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("False", "WritesMayBeLost"));
        ensure!(is_true(&status, "Ready"), "the settings do not affect Ready");
    }
    for (setting, value) in [("appendfsync", "always"), ("maxmemory-policy", "noeviction"), ("appendonly", "yes")] {
        command(&redis.url(), &["CONFIG", "SET", setting, value])?;
    }
    world.wait("event", "durable again", |status| is_true(status, "Durable")).await?;

    let replica = redis.start_replica()?;
    let words = "With min-replicas-to-write 0";
    world.wait("event", "with a replica", |status| message(status, "Durable").contains(words)).await?;
    drop(replica);
    world.wait("event", "without the replica", |status| is_true(status, "Durable")).await?;

    command(&redis.url(), &["ACL", "SETUSER", "default", "-config"])?;
    let is_unknown = |status: &couponry_crds::CouponEventStatus| {
        status
            .condition("Durable")
            .is_some_and(|found| found.status == "Unknown" && found.reason == "SettingsUnavailable")
    };
    world.wait("event", "without settings", is_unknown).await?;
    assert_eq!(world.issue("event", 0..10).await?, 10);
    Ok(())
}
