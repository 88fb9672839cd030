//! The memory of the operator does not depend on the number of coupons and holders, except for the shuffle of a stock:
//! one byte per coupon while it is generated.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use couponry_crds::CouponEventStatus;
use couponry_domain::{EventName, IssuedCoupon, IssuedRecord};
use couponry_redis::{IssuedEntry, IssuedPage, OutboxEntry, Settlement, SettlementOutcome};
use couponry_testbed::{Redis, Running, ports};

use crate::{
    redis_installation::spec,
    support::{World, is_true, wait_until},
};

/// Half of the memory limit of the operator in the chart.
const LIMIT: u64 = 256 << 20;

fn peak_memory(operator: &Running) -> Result<u64> {
    Ok(operator.process().usage()?.peak_memory)
}

/// Fails if the operator needed more than `limit` beyond `before`.
fn check_growth(before: u64, after: u64, limit: u64) -> Result<()> {
    let growth = after - before;
    println!("peak memory: {} MiB before, {} MiB more", before >> 20, growth >> 20);
    ensure!(growth < limit, "{growth} bytes more than before, limit {limit}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn generating_coupons_needs_two_bytes_per_coupon() -> Result<()> {
    const COUPONS: u32 = 2_000_000;
    let world = World::shared().await?;
    let operator = world.start_operator()?;
    world.apply("small", &spec(1000, "Redis"))?;
    world.wait_ready("small").await?;
    let before = peak_memory(&operator)?;
    world.apply("large", &spec(COUPONS, "Redis"))?;
    let uid = world.uid("large").await?;
    wait_until("the coupons are generated", async || {
        Ok(world.database.event(uid).await?.is_some_and(|stored| stored.generated() == u64::from(COUPONS)))
    })
    .await?;
    // 16 MiB for buffers. A set of the codes would need 36 MiB more.
    check_growth(before, peak_memory(&operator)?, (16 << 20) + 2 * u64::from(COUPONS))
}

#[tokio::test(flavor = "multi_thread")]
async fn recovery_needs_no_memory_per_holder() -> Result<()> {
    let (before, after) = recover(200_000).await?;
    // For pages. A map of all holders would need 50 MiB more.
    check_growth(before, after, 40 << 20)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes half an hour and 20 GB; run it after a change of the preload"]
async fn four_preloads_of_ten_million_coupons_need_less_than_256_mib() -> Result<()> {
    let redis = Redis::start()?;
    let world = World::with_redis(&redis.url()).await?;
    let operator = world.start_operator()?;
    let names = ["a", "b", "c", "d"];
    for name in names {
        world.apply(name, &spec(10_000_000, "Redis"))?;
    }
    for name in names {
        until_status(&world, name, |status| is_true(status, "Ready")).await?;
    }
    check_growth(0, peak_memory(&operator)?, LIMIT)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes half an hour and 20 GB; run it after a change of the recovery"]
async fn recovery_of_ten_million_holders_needs_less_than_256_mib() -> Result<()> {
    let (_, after) = recover(10_000_000).await?;
    check_growth(0, after, LIMIT)
}

/// Returns the peak memory of an operator before and after the recovery of an event with so many holders.
async fn recover(holders: u32) -> Result<(u64, u64)> {
    const CHUNK: u32 = 2000;
    let redis = Redis::start()?;
    let world = World::with_redis(&redis.url()).await?;
    let operator = world.operator_program(ports::free()?).args(["--redis-recovery-grace-seconds", "4"]).start()?;
    world.apply("event", &spec(holders, "Redis"))?;
    until_status(&world, "event", |status| is_true(status, "Open")).await?;
    operator.kill9()?;
    let (event, uid): (EventName, _) = ("event".parse()?, world.uid("event").await?);
    for from in (0..holders).step_by(CHUNK as usize) {
        assert_eq!(world.issue("event", from..from + CHUNK).await?, CHUNK as usize);
    }
    let record = async |records: Vec<IssuedRecord>| {
        world.database.record(&records).await?;
        let completed = |IssuedRecord { issued, .. }| {
            let IssuedCoupon { user_id: user, coupon, .. } = issued;
            Settlement { user, coupon, outcome: SettlementOutcome::Completed }
        };
        let settlements: Vec<_> = records.into_iter().map(completed).collect();
        anyhow::Ok(world.redis_store.settle(&event, uid, &settlements).await?)
    };
    let unrecorded = format!("user-{}", holders - 1);
    let mut cursor = Some(0);
    while let Some(at) = cursor {
        let IssuedPage { entries: mut page, next, .. } = world.redis_store.issued_page(&event, at).await?;
        cursor = next;
        page.retain(|entry| entry.issued.user_id.as_str() != unrecorded);
        let to_record = |IssuedEntry { issued, .. }| IssuedRecord {
            event_id: event.clone(),
            event_uid: uid,
            issued,
            valid_until: None,
        };
        record(page.into_iter().map(to_record).collect()).await?;
    }
    let outbox =
        async || anyhow::Ok(world.redis_store.list_unconfirmed(&event, Duration::ZERO, None, 1000).await?.entries);
    let sent = async || anyhow::Ok(outbox().await?.into_iter().map(|entry| entry.id).collect::<Vec<_>>());
    let mut ids = sent().await?;
    while !ids.is_empty() {
        world.redis_store.delete_confirmed(&event, &ids).await?;
        ids = sent().await?;
    }
    // The preload, too, needs memory.
    operator.restart()?;
    until_status(&world, "event", |status| status.issued == Some(holders.into())).await?;
    let before = peak_memory(&operator)?;
    redis.kill9()?;
    redis.restart()?;
    let started = Instant::now();
    let mut is_verified = false;
    while !is_verified {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let Ok(unconfirmed) = outbox().await else { continue };
        // The unrecorded issuance is sent again.
        for OutboxEntry { id, records, .. } in unconfirmed {
            record(records).await?;
            world.redis_store.delete_confirmed(&event, &[id]).await?;
        }
        is_verified = world.redis_store.observe(&event).await?.is_some_and(|redis| redis.is_verified);
    }
    println!("recovered {holders} holders in {:?}", started.elapsed());
    Ok((before, peak_memory(&operator)?))
}

/// Waits without a limit: the number of coupons decides how long it takes.
async fn until_status(world: &World, name: &str, condition: impl Fn(&CouponEventStatus) -> bool) -> Result<()> {
    while !world.events.get(name).await?.status.is_some_and(|status| condition(&status)) {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}
