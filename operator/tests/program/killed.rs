//! The operator killed with -9 while it preloads, and two of them at once.

use std::time::Duration;

use anyhow::Result;
use couponry_domain::{EventName, Gate};
use couponry_redis::Observed;
use tokio::time::sleep;

use crate::stage::{Stage, eventually};

const TOTAL: u64 = 300_000;
const SPEC: &str = "{policyName: p, totalCount: 300000, discounts: [{type: Percent, value: 10, allocationPercentage: 70}, \
     {type: Amount, value: 5000, allocationPercentage: 30}]}";
const SPLIT: [(&str, usize); 2] = [("PERCENT:10", 210_000), ("AMOUNT:5000", 90_000)];

/// Where in the preload the operator is killed.
#[derive(Clone, Copy, Debug)]
enum Point {
    /// Postgres knows the event.
    Registered,
    /// So many coupons are sent to Postgres, nothing is committed.
    Copying(u64),
    /// The coupons are in Postgres without an index, nothing is committed.
    Indexing,
    /// Everything is in Postgres, nothing in Redis.
    Stored,
    /// So many coupons are in Redis.
    Loaded(u64),
}

const POINTS: [Point; 8] = [
    Point::Registered,
    Point::Copying(1),
    Point::Copying(200_000),
    Point::Indexing,
    Point::Stored,
    Point::Loaded(1),
    Point::Loaded(150_000),
    Point::Loaded(TOTAL - 5_000),
];

impl Point {
    async fn is_reached(self, stage: &Stage, event: &EventName) -> Result<bool> {
        let ask = |query: &str| Ok::<_, anyhow::Error>(stage.test_database.sql(query)? == "t");
        let loaded = async || Ok::<_, anyhow::Error>(stage.stock.observe(event).await?.map_or(0, |redis| redis.loaded));
        let stored = || ask("SELECT EXISTS (SELECT FROM discount_policy)");
        match self {
            Self::Registered => ask("SELECT EXISTS (SELECT FROM coupon_event)"),
            Self::Copying(tuples) => Ok(stored()?
                || ask(&format!(
                    "SELECT EXISTS (SELECT FROM pg_stat_progress_copy WHERE datname = current_database() AND \
                     tuples_processed >= {tuples})"
                ))?),
            Self::Indexing => Ok(stored()?
                || ask(
                    "SELECT EXISTS (SELECT FROM pg_stat_progress_create_index WHERE datname = current_database())",
                )?),
            Self::Stored => stored(),
            Self::Loaded(count) => Ok(loaded().await? >= count),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_point_of_the_preload_it_goes_on_and_makes_exactly_the_coupons() -> Result<()> {
    let stage = Stage::new().await?;
    stage.database.migrate().await?;
    let operator = stage.operator()?;
    stage.apply("event", SPEC)?;
    let event: EventName = "event".parse()?;
    let mut in_the_middle = 0;
    for point in POINTS {
        eventually(&format!("{point:?} is reached"), async || point.is_reached(&stage, &event).await).await?;
        operator.kill9()?;
        let uid = stage.uid("event").await?;
        let stored = stage.database.event(uid).await?.map_or(0, |stored| stored.generated());
        let redis = stage.stock.observe(&event).await?;
        let (loaded, gate) =
            redis.as_ref().map_or((0, Gate::Loading), |Observed { loaded, gate, .. }| (*loaded, *gate));
        println!("killed at {point:?}: {stored} coupons in Postgres, {loaded} in Redis, gate {}", gate.as_str());
        assert!(stored == 0 || stored == TOTAL, "Postgres has all or nothing: {stored}");
        assert!(loaded <= stored, "Redis has {loaded} of {stored}");
        assert!(gate == Gate::Loading || loaded == TOTAL, "the gate is {gate:?} with {loaded} coupons");
        in_the_middle += u32::from(gate == Gate::Loading);
        operator.restart()?;
    }
    assert!(in_the_middle >= 5, "only {in_the_middle} kills were in the middle of the preload");
    stage.wait_ready("event").await?;
    stage.check_whole("event", &SPLIT).await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_again_and_again_at_random_it_makes_exactly_the_coupons() -> Result<()> {
    let stage = Stage::new().await?;
    let operator = stage.operator()?;
    stage.apply("event", &SPEC.replace("300000", "60000"))?;
    for _ in 0..12 {
        let pause = Duration::from_millis(200 + u64::from(rand::random::<u16>() % 1800));
        sleep(pause).await;
        operator.kill9()?;
        let redis = stage.stock.observe(&"event".parse()?).await?;
        println!("killed after {pause:?}: {} coupons in Redis", redis.map_or(0, |redis| redis.loaded));
        operator.restart()?;
    }
    stage.wait_ready("event").await?;
    stage.check_whole("event", &[("PERCENT:10", 42_000), ("AMOUNT:5000", 18_000)]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_operators_at_once_make_one_stock_and_tell_one_story() -> Result<()> {
    let stage = Stage::new().await?;
    let operators = [stage.operator()?, stage.operator()?];
    stage.apply("event", SPEC)?;
    stage.wait_ready("event").await?;
    stage.check_whole("event", &SPLIT).await?;
    let more = SPEC.replace("300000", "300100");
    stage.apply("event", &more)?;
    stage.wait_ready("event").await?;
    stage.check_stores("event", &[("PERCENT:10", 210_070), ("AMOUNT:5000", 90_030)]).await?;
    stage.wait_story("event", &["Opened", "PreloadCompleted", "PreloadStarted", "ToppedUp"]).await?;
    operators[0].kill9()?;
    stage.apply("event", &more.replace("policyName: p", "policyName: p, issuance: Paused"))?;
    stage.wait("event", "paused by the other", |status| crate::stage::reason(status, "Open") == "Paused").await?;
    Ok(())
}
