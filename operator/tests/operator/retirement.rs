//! Finished events, whose coupons are removed from Redis after `ttlSecondsAfterFinished`.

use anyhow::{Context as _, Result, ensure};
use couponry_domain::Gate;
use couponry_testbed::Redis;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::support::{World, is_true, message, reason};

fn spec(total: u32, fields: &str) -> String {
    format!("{{policyName: p, totalCount: {total}, discounts: [{{type: Amount, value: 1, count: {total}}}], {fields}}}")
}

impl World {
    /// The number of keys of the event in Redis.
    fn key_count(&self, name: &str) -> Result<String> {
        let keys = ["couponMeta", "couponQueue", "couponIssued", "couponOutbox"].map(|kind| self.key(kind, name));
        let reply = self.redis(&["EXISTS", &keys[0], &keys[1], &keys[2], &keys[3]])?;
        Ok(reply.trim().trim_start_matches(':').to_owned())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn finished_event_after_ttl_keeps_only_counts_in_redis() -> Result<()> {
    let world = World::shared().await?;
    let operator = world.start_operator()?;
    let end = Timestamp::from_second((Timestamp::now() + SignedDuration::from_secs(20)).as_second())?;
    world.apply("ended", &spec(10, &format!("ttlSecondsAfterFinished: 1, endTime: '{end}'")))?;
    world.apply("sold-out", &spec(4, "ttlSecondsAfterFinished: 0"))?;
    world.apply("closed", &spec(10, "ttlSecondsAfterFinished: 0"))?;
    world.apply("stays", &spec(4, "issuance: Auto"))?;
    let all = [("ended", "Ended", 6), ("sold-out", "SoldOut", 0), ("closed", "Closed", 6), ("stays", "SoldOut", 0)];
    for (name, ..) in all {
        world.wait(name, "open", |status| is_true(status, "Open")).await?;
        assert_eq!(world.issue(name, 0..4).await?, 4);
    }
    world.apply("closed", &spec(10, "ttlSecondsAfterFinished: 0, issuance: Closed"))?;
    for (name, state, _) in all {
        let over = world.wait(name, "over", |status| reason(status, "Open") == state).await?;
        ensure!(over.finished_at.is_none(), "finished before the coupons are recorded: {over:?}");
        world.record_all(name).await?;
        // The operator is killed at an arbitrary step.
        operator.kill9()?;
        operator.restart()?;
    }
    for (name, state, available) in &all[..3] {
        let status = world.wait(name, "retired", |status| reason(status, "Ready") == "Retired").await?;
        ensure!(
            is_true(&status, "Ready") && is_true(&status, "Balanced") && !is_true(&status, "Stalled"),
            "{status:#?}"
        );
        assert_eq!(reason(&status, "Open"), *state, "{name}: the reason of the end is kept");
        assert_eq!((status.issued, status.recorded, status.available), (Some(4), Some(4), Some(*available)));
        let finished = status.finished_at.context("not finished")?.0;
        ensure!(*name != "ended" || Timestamp::now() > end && finished >= end, "{finished}");
        assert_eq!(world.key_count(name)?, "1", "couponMeta stays");
        let observed = world.redis_store.observe(&name.parse()?).await?.context("couponMeta is gone")?;
        assert_eq!(observed.gate, Gate::Closed);
        assert_eq!(world.issue(name, 3..6).await?, 0);
        let reasons = world.kube_event_reasons(name).await?;
        // The Kubernetes Event is missing if the operator was killed right after it wrote the status.
        ensure!(reasons.iter().filter(|reason| *reason == "Retired").count() <= 1, "{reasons:?}");
        ensure!(!reasons.contains(&"DriftFound".to_owned()), "{reasons:?}");
    }
    world.wait("stays", "finished", |status| status.finished_at.is_some()).await?;
    assert_eq!(world.key_count("stays")?, "3", "without a TTL the keys stay, except for the empty queue");

    let audited = world.run_command(&["audit", "ended"], &[])?;
    let audited = String::from_utf8_lossy(&audited.stdout);
    ensure!(audited.contains("Redis      6 available, 4 issued (before they were removed)\n"), "{audited}");

    // A retired event cannot be topped up.
    world.apply("sold-out", &spec(9, "ttlSecondsAfterFinished: 0"))?;
    let stalled = world.wait("sold-out", "stalled", |status| is_true(status, "Stalled")).await?;
    assert_eq!(reason(&stalled, "Stalled"), "ChangeNotPossible");
    ensure!(message(&stalled, "Stalled").contains("Create another event"), "{stalled:?}");
    world.apply("sold-out", &spec(9, "ttlSecondsAfterFinished: 0, issuance: Closed"))?;
    world.wait_ready("sold-out").await?;

    // The name can be used again.
    world.delete("closed")?;
    world.wait_gone("closed").await?;
    assert_eq!(world.key_count("closed")?, "0");
    world.apply("closed", &spec(10, "issuance: Auto"))?;
    world.wait("closed", "open as a new event", |status| is_true(status, "Open")).await?;
    world.check_generated_stock("closed", &[("AMOUNT:1", 10)]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn ttl_is_measured_by_the_clock_of_redis() -> Result<()> {
    const HOUR: i64 = 3_600_000;
    const HALF: SignedDuration = SignedDuration::from_mins(30);
    let (redis, clock) = Redis::start_with_clock()?;
    let world = World::with_redis(&redis.url()).await?;
    let _operator = world.start_operator()?;
    let sell_out = async |name: &str, fields: &str| {
        world.apply_open(name, &spec(2, fields)).await?;
        assert_eq!(world.issue(name, 0..2).await?, 2);
        world.record_all(name).await?;
        let finished = world.wait(name, "finished", |status| status.finished_at.is_some()).await?.finished_at;
        anyhow::Ok(finished.context("not finished")?.0)
    };

    clock.set(-HOUR)?;
    let finished = sell_out("slow", "ttlSecondsAfterFinished: 1").await?;
    ensure!(finished < Timestamp::now() - HALF, "{finished}");
    world.wait("slow", "retired", |status| reason(status, "Ready") == "Retired").await?;

    clock.set(HOUR)?;
    let finished = sell_out("fast", "ttlSecondsAfterFinished: 600").await?;
    ensure!(finished > Timestamp::now() + HALF, "{finished}");
    let observed = world.redis_store.observe(&"fast".parse()?).await?.context("not in Redis")?;
    ensure!(observed.retired.is_none(), "retired before the TTL has passed");
    Ok(())
}
