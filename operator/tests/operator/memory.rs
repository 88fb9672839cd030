//! The memory of the operator does not depend on the number of coupons and holders, except for the shuffle of a stock:
//! one byte per coupon while it is generated.

use std::time::Duration;

use anyhow::{Result, ensure};
use couponry_domain::{EventName, IssuedCoupon, IssuedRecord};
use couponry_redis::{IssuedEntry, IssuedPage, OutboxEntry, Settlement, SettlementOutcome};
use couponry_testbed::{Redis, Running, ports};

use crate::{
    redis_installation::spec,
    support::{World, wait_until},
};

fn peak_memory(operator: &Running) -> Result<u64> {
    Ok(operator.process().usage()?.peak_memory)
}

/// Fails if the operator needed more than this beyond `before`.
fn check_growth(operator: &Running, before: u64, limit: u64) -> Result<()> {
    let growth = peak_memory(operator)? - before;
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
    check_growth(&operator, before, (16 << 20) + 2 * u64::from(COUPONS))
}

#[tokio::test(flavor = "multi_thread")]
async fn recovery_needs_no_memory_per_holder() -> Result<()> {
    const HOLDERS: u32 = 200_000;
    const CHUNK: u32 = 2000;
    let redis = Redis::start()?;
    let world = World::with_redis(&redis.url()).await?;
    let operator = world.operator_program(ports::free()?).args(["--redis-recovery-grace-seconds", "4"]).start()?;
    world.apply_open("event", &spec(HOLDERS, "Redis")).await?;
    operator.kill9()?;
    let (event, uid): (EventName, _) = ("event".parse()?, world.uid("event").await?);
    for from in (0..HOLDERS).step_by(CHUNK as usize) {
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
    let unrecorded = format!("user-{}", HOLDERS - 1);
    let mut cursor = Some(0);
    while let Some(at) = cursor {
        let IssuedPage { entries: mut page, next, .. } = world.redis_store.issued_page(&event, at).await?;
        cursor = next;
        page.retain(|entry| entry.issued.user_id.as_str() != unrecorded);
        let to_record = |IssuedEntry { issued, .. }| IssuedRecord { event_id: event.clone(), event_uid: uid, issued };
        record(page.into_iter().map(to_record).collect()).await?;
    }
    let outbox =
        async || anyhow::Ok(world.redis_store.list_unconfirmed(&event, Duration::ZERO, None, 1000).await?.entries);
    let ids: Vec<_> = outbox().await?.into_iter().map(|entry| entry.id).collect();
    world.redis_store.delete_confirmed(&event, &ids).await?;
    // The preload, too, needs memory.
    operator.restart()?;
    world.wait("event", "observed", |status| status.issued == Some(HOLDERS.into())).await?;
    let before = peak_memory(&operator)?;
    redis.kill9()?;
    redis.restart()?;
    wait_until("the unrecorded issuance is sent again, and Redis is verified", async || {
        let Ok(unconfirmed) = outbox().await else { return Ok(false) };
        for OutboxEntry { id, records, .. } in unconfirmed {
            record(records).await?;
            world.redis_store.delete_confirmed(&event, &[id]).await?;
        }
        Ok(world.redis_store.observe(&event).await?.is_some_and(|redis| redis.is_verified))
    })
    .await?;
    // For pages. A map of all holders would need 50 MiB more.
    check_growth(&operator, before, 40 << 20)
}
