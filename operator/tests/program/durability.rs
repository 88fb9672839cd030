//! What the operator says about the settings of Redis.

use anyhow::{Result, ensure};
use couponry_testbed::{Database, Redis, redis::command};

use crate::stage::{Stage, holds, message};

const SPEC: &str = "{policyName: p, totalCount: 100, discounts: [{type: Amount, value: 1, count: 100}]}";

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_of_redis_can_lose_is_said_and_looked_at_again() -> Result<()> {
    let redis = Redis::start()?;
    let database = Database::create()?;
    let postgres = database.url();
    let stage = Stage::on(database, &redis.url(), &postgres).await?;
    let _operator = stage.operator()?;
    stage.apply("event", SPEC)?;
    let durable = stage.wait("event", "durable", |status| holds(status, "Durable") && holds(status, "Open")).await?;
    assert_eq!(message(&durable, "Durable"), "With appendfsync always, Redis writes every issued coupon to its disk before it is returned.");

    for (setting, value, words) in [
        ("appendfsync", "everysec", "loses the coupons issued in up to one second"),
        ("maxmemory-policy", "allkeys-lru", "With maxmemory-policy allkeys-lru, Redis evicts coupons"),
        ("appendonly", "no", "a restart of Redis loses the coupons issued since its last snapshot"),
    ] {
        command(&redis.url(), &["CONFIG", "SET", setting, value])?;
        let status = stage.wait("event", words, |status| message(status, "Durable").contains(words)).await?;
        let condition = status.condition("Durable").expect("just seen");
        assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("False", "WritesMayBeLost"));
        ensure!(holds(&status, "Ready"), "it is said, and no obstacle");
    }
    for (setting, value) in [("appendfsync", "always"), ("maxmemory-policy", "noeviction"), ("appendonly", "yes")] {
        command(&redis.url(), &["CONFIG", "SET", setting, value])?;
    }
    stage.wait("event", "durable again", |status| holds(status, "Durable")).await?;

    command(&redis.url(), &["ACL", "SETUSER", "default", "-config"])?;
    let hidden = |status: &couponry_crds::CouponEventStatus| {
        status.condition("Durable").is_some_and(|found| found.status == "Unknown" && found.reason == "SettingsUnavailable")
    };
    stage.wait("event", "not told any more", hidden).await?;
    assert_eq!(stage.ask("event", 0..10).await?, 10);
    Ok(())
}
