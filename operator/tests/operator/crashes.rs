//! Operators killed with SIGKILL during the preload, and two active operators.

use std::time::Duration;

use anyhow::Result;
use couponry_domain::{EventName, Gate};
use couponry_redis::RedisEvent;
use tokio::time::sleep;

use crate::support::{World, reason, wait_until};

const TOTAL: u64 = 300_000;
const SPEC: &str = "{policyName: p, totalCount: 300000, discounts: [\
     {type: Percent, value: 10, allocationPercentage: 70}, {type: Amount, value: 5000, allocationPercentage: 30}]}";
const SPLIT: [(&str, usize); 2] = [("PERCENT:10", 210_000), ("AMOUNT:5000", 90_000)];

/// The step of the preload in which the operator is killed.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The event is in Postgres.
    Registered,
    /// At least this many coupons are sent to Postgres, and not committed.
    Copying(u64),
    /// Postgres builds the indexes of the coupons, which are not committed.
    Indexing,
    /// All coupons are generated.
    Generated,
    /// At least this many coupons are loaded.
    Loaded(u64),
}

const STEPS: [Step; 8] = [
    Step::Registered,
    Step::Copying(1),
    Step::Copying(200_000),
    Step::Indexing,
    Step::Generated,
    Step::Loaded(1),
    Step::Loaded(150_000),
    Step::Loaded(TOTAL - 5_000),
];

impl Step {
    async fn is_reached(self, world: &World, event: &EventName) -> Result<bool> {
        let query = |query: &str| Ok::<_, anyhow::Error>(world.test_database.sql(query)? == "t");
        let loaded =
            async || Ok::<_, anyhow::Error>(world.redis_store.observe(event).await?.map_or(0, |redis| redis.loaded));
        let generated = || query("SELECT EXISTS (SELECT FROM discount_policy)");
        match self {
            Self::Registered => query("SELECT EXISTS (SELECT FROM coupon_event)"),
            Self::Copying(tuples) => Ok(generated()?
                || query(&format!(
                    "SELECT EXISTS (SELECT FROM pg_stat_progress_copy WHERE datname = current_database() AND \
                     tuples_processed >= {tuples})"
                ))?),
            Self::Indexing => Ok(generated()?
                || query(
                    "SELECT EXISTS (SELECT FROM pg_stat_progress_create_index WHERE datname = current_database())",
                )?),
            Self::Generated => generated(),
            Self::Loaded(count) => Ok(loaded().await? >= count),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn operator_killed_at_any_preload_step_generates_exact_stock() -> Result<()> {
    let world = World::shared().await?;
    world.database.migrate().await?;
    let operator = world.start_operator()?;
    world.apply("event", SPEC)?;
    let event: EventName = "event".parse()?;
    let mut interrupted = 0;
    for step in STEPS {
        wait_until(&format!("{step:?} is reached"), async || step.is_reached(&world, &event).await).await?;
        operator.kill9()?;
        let uid = world.uid("event").await?;
        let generated = world.database.event(uid).await?.map_or(0, |event| event.generated());
        let redis = world.redis_store.observe(&event).await?;
        let (loaded, gate) =
            redis.as_ref().map_or((0, Gate::Loading), |RedisEvent { loaded, gate, .. }| (*loaded, *gate));
        println!("killed at {step:?}: {generated} coupons in Postgres, {loaded} in Redis, gate {}", gate.as_str());
        assert!(generated == 0 || generated == TOTAL, "Postgres has a part of the coupons: {generated}");
        assert!(loaded <= generated, "Redis has {loaded} of {generated}");
        assert!(gate == Gate::Loading || loaded == TOTAL, "the gate is {gate:?} with {loaded} coupons");
        interrupted += u32::from(gate == Gate::Loading);
        operator.restart()?;
    }
    assert!(interrupted >= 5, "only {interrupted} kills interrupted the preload");
    world.wait_ready("event").await?;
    world.check_generated_stock("event", &SPLIT).await
}

#[tokio::test(flavor = "multi_thread")]
async fn operator_killed_at_random_times_generates_exact_stock() -> Result<()> {
    let world = World::shared().await?;
    let operator = world.start_operator()?;
    world.apply("event", &SPEC.replace("300000", "60000"))?;
    for _ in 0..12 {
        let pause = Duration::from_millis(200 + u64::from(rand::random::<u16>() % 1800));
        sleep(pause).await;
        operator.kill9()?;
        let redis = world.redis_store.observe(&"event".parse()?).await?;
        println!("killed after {pause:?}: {} coupons in Redis", redis.map_or(0, |redis| redis.loaded));
        operator.restart()?;
    }
    world.wait_ready("event").await?;
    world.check_generated_stock("event", &[("PERCENT:10", 42_000), ("AMOUNT:5000", 18_000)]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_operators_generate_one_stock() -> Result<()> {
    let world = World::shared().await?;
    let operators = [world.start_operator()?, world.start_operator()?];
    world.apply("event", SPEC)?;
    world.wait_ready("event").await?;
    world.check_generated_stock("event", &SPLIT).await?;
    let top_up = SPEC.replace("300000", "300100");
    world.apply("event", &top_up)?;
    world.wait_ready("event").await?;
    world.check_stores_agree("event", &[("PERCENT:10", 210_070), ("AMOUNT:5000", 90_030)]).await?;
    world.wait_kube_events("event", &["Opened", "PreloadCompleted", "PreloadStarted", "ToppedUp"]).await?;
    operators[0].kill9()?;
    world.apply("event", &top_up.replace("policyName: p", "policyName: p, issuance: Paused"))?;
    world.wait("event", "paused by the other operator", |status| reason(status, "Open") == "Paused").await?;
    Ok(())
}
