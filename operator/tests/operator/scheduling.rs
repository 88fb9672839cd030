//! Many and large events: nothing delays a pause, failures keep their delay, and idle events cost little.

use anyhow::{Context as _, Result, ensure};
use couponry_crds::{CouponEvent, CouponEventStatus};
use couponry_domain::Gate;
use couponry_testbed::{Redis, http, ports, redis::command, shared};
use futures::TryStreamExt as _;
use kube::{
    ResourceExt as _,
    api::ListParams,
    runtime::{WatchStreamExt as _, watcher},
};

use crate::support::{World, is_true, message, reason, wait_reconciled, wait_until};

const SMALL: &str = "{policyName: p, totalCount: 10, discounts: [{type: Amount, value: 1, count: 10}]}";

fn spec(count: u32, more: &str) -> String {
    let discounts = "[{type: Amount, value: 1, allocationPercentage: 100}]";
    format!("{{policyName: p, totalCount: {count}, discounts: {discounts}{more}}}")
}

async fn gate(world: &World, name: &str) -> Result<Gate> {
    Ok(world.redis_store.observe(&name.parse()?).await?.context("the event is not in Redis")?.gate)
}

#[tokio::test(flavor = "multi_thread")]
async fn pause_takes_effect_while_large_preloads_are_in_progress() -> Result<()> {
    let world = World::shared().await?;
    let _operator = world.start_operator()?;
    world.apply_open("open", SMALL).await?;
    let large: Vec<String> = (0..5).map(|n| format!("large-{n}")).collect();
    for name in &large {
        world.apply(name, &spec(2_000_000, ""))?;
    }
    for name in &large {
        world.wait(name, "preloading", |status| reason(status, "Preloaded") == "Preloading").await?;
    }
    world.apply("open", &SMALL.replacen('{', "{issuance: Paused, ", 1))?;
    wait_until("the event is paused", async || Ok(gate(&world, "open").await? == Gate::Paused)).await?;
    for name in &large {
        let stored = world.database.event(world.uid(name).await?).await?;
        assert_eq!(stored.map_or(0, |stored| stored.generated()), 0, "the preload of {name} is still in progress");
    }
    let waiting = "Waiting until other large preloads have finished.";
    world.wait(&large[4], "waiting", |status| message(status, "Ready") == waiting).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pause_takes_effect_while_the_same_event_is_topped_up() -> Result<()> {
    let world = World::shared().await?;
    let _operator = world.start_operator()?;
    world.apply_open("event", &spec(10, "")).await?;
    let uid = world.uid("event").await?;
    world.apply("event", &spec(2_000_000, ""))?;
    world.wait("event", "being topped up", |status| reason(status, "Preloaded") == "ToppingUp").await?;
    world.apply("event", &spec(2_000_000, ", issuance: Paused"))?;
    wait_until("the event is paused", async || Ok(gate(&world, "event").await? == Gate::Paused)).await?;
    let stored = world.database.event(uid).await?.context("the event is not in Postgres")?;
    assert_eq!(stored.generated(), 10, "the top-up is still in progress");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pause_takes_effect_while_postgres_is_locked() -> Result<()> {
    let world = World::shared().await?;
    let _operator = world.start_operator()?;
    world.apply_open("event", SMALL).await?;
    let lock = world.test_database.hold("LOCK TABLE issuance")?;
    world.apply("event", &SMALL.replacen('{', "{issuance: Paused, ", 1))?;
    wait_until("the event is paused", async || Ok(gate(&world, "event").await? == Gate::Paused)).await?;
    // Reported although nothing is known about Postgres.
    let is_reported = |status: &CouponEventStatus| {
        let reasons = ["Open", "Stalled", "Recorded"].map(|type_| reason(status, type_));
        let is_unknown = status.condition("Recorded").is_some_and(|recorded| recorded.status == "Unknown");
        is_unknown && reasons == ["Paused", "BackendUnavailable", "BackendUnavailable"]
    };
    wait_until("the pause is reported", async || {
        Ok(world.get("event").await?.status.is_some_and(|status| is_reported(&status)))
    })
    .await?;
    drop(lock);
    let paused = world.wait("event", "not stalled", |status| !is_true(status, "Stalled")).await?;
    assert_eq!(
        ["Open", "Recorded", "Balanced"].map(|type_| reason(&paused, type_)),
        ["Paused", "NothingIssued", "CountsMatch"]
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn recovery_of_open_event_ends_while_large_preloads_are_in_progress() -> Result<()> {
    let redis = Redis::start()?;
    let world = World::with_redis(&redis.url()).await?;
    let _operator = world.operator_program(ports::free()?).args(["--redis-recovery-grace-seconds", "4"]).start()?;
    world.apply_open("open", SMALL).await?;
    assert_eq!(world.issue("open", 0..4).await?, 4);
    world.record_all("open").await?;
    let large: Vec<String> = (0..4).map(|n| format!("large-{n}")).collect();
    for name in &large {
        world.apply(name, &spec(5_000_000, ""))?;
    }
    for name in &large {
        world.wait(name, "preloading", |status| reason(status, "Preloaded") == "Preloading").await?;
    }
    command(&redis.url(), &["FLUSHALL"])?;
    wait_until("the open event is recovered", async || {
        let in_redis = world.redis_store.observe(&"open".parse()?).await?;
        Ok(in_redis.is_some_and(|in_redis| in_redis.is_verified && in_redis.gate == Gate::Open))
    })
    .await?;
    for name in &large {
        let stored = world.database.event(world.uid(name).await?).await?;
        assert_eq!(stored.map_or(0, |stored| stored.generated()), 0, "the preload of {name} is still in progress");
    }
    world.check_generated_stock("open", &[("AMOUNT:1", 10)]).await?;
    assert_eq!(world.issue("open", 0..10).await?, 6, "the holders have kept their coupons");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_preload_keeps_its_delay_and_its_condition() -> Result<()> {
    let world = World::shared().await?;
    let port = ports::free()?;
    let operator = world.operator_program(port).start()?;
    world.apply("first", SMALL)?;
    world.wait_ready("first").await?;
    // It starts one attempt before its delay has passed.
    wait_until("the first observation of Redis", async || Ok(operator.log().contains("reconciling all events")))
        .await?;
    world.test_database.sql(
        "CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'out of space'; END $$;
         CREATE EVENT TRIGGER refuse ON ddl_command_start WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION refuse()",
    )?;
    world.apply("event", SMALL)?;
    world.wait("event", "stalled", |status| is_true(status, "Stalled")).await?;

    let failures = |log: &str| log.matches("retry_in").count();
    let before = failures(&operator.log());
    let mut changes = std::pin::pin!(watcher(world.events.clone(), watcher::Config::default()).applied_objects());
    let mut flickers = Vec::new();
    let watched = async {
        while let Some(event) = changes.try_next().await? {
            let status = event.status.clone().unwrap_or_default();
            if event.name_any() == "event" && !is_true(&status, "Stalled") {
                flickers.push(status);
            }
        }
        anyhow::Ok(())
    };
    let more = wait_until("more attempts have failed", async || Ok(failures(&operator.log()) >= before + 3));
    tokio::select! {
        watched = watched => watched?,
        waited = more => waited?,
    }
    ensure!(flickers.is_empty(), "not stalled between two attempts: {flickers:#?}");
    // The n-th attempt takes place only after the delays of those before it.
    let delays: Vec<f64> = operator.log().lines().filter(|line| line.contains("retry_in")).map(delay).collect();
    assert!(delays.windows(2).all(|pair| pair[1] >= pair[0] * 1.9), "each delay is twice the previous one: {delays:?}");
    let times: Vec<jiff::Timestamp> =
        operator.log().lines().filter(|line| line.contains("retry_in")).filter_map(time).collect();
    for ((pair, delay), n) in times.windows(2).zip(&delays).zip(1..) {
        let passed = pair[1].duration_since(pair[0]).as_secs_f64();
        assert!(passed >= delay * 0.9, "attempt {n} took place after {passed} s instead of {delay} s");
    }
    world.test_database.sql("DROP EVENT TRIGGER refuse")?;
    world.wait_ready("event").await?;
    ensure!(http::get(port, "/metrics").is_some(), "no metrics");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_open_events_cost_one_call_of_redis_per_reconciliation() -> Result<()> {
    const EVENTS: u64 = 50;
    let redis = Redis::start()?;
    let world = World::with_redis(&redis.url()).await?;
    let port = ports::free()?;
    let _operator = world.operator_program(port).start()?;
    let manifest = |n| {
        let metadata = format!("{{name: event-{n}, namespace: {}}}", world.namespace());
        format!("{{apiVersion: couponry.dev/v1alpha1, kind: CouponEvent, metadata: {metadata}, spec: {SMALL}}}")
    };
    let manifests: Vec<String> = (0..EVENTS).map(manifest).collect();
    shared::kubectl_with(&["create", "-f", "-"], &manifests.join("\n---\n"))?;
    wait_until("all events are open", async || {
        let events = world.events.list(&ListParams::default()).await?.items;
        let open = |event: &&CouponEvent| event.status.as_ref().is_some_and(|status| is_true(status, "Open"));
        Ok(events.iter().filter(open).count() as u64 == EVENTS)
    })
    .await?;
    let calls = |statistics: &str, command: &str| -> Result<u64> {
        let prefix = format!("cmdstat_{command}:calls=");
        let calls = statistics.lines().find_map(|line| line.strip_prefix(&prefix)?.split(',').next());
        Ok(calls.map_or(Ok(0), str::parse)?)
    };
    // The status of the first seconds may still change.
    let first = wait_reconciled(port, 5 * EVENTS).await?;
    let before = command(&redis.url(), &["INFO", "commandstats"])?;
    let reconciled = wait_reconciled(port, 20 * EVENTS).await? - first;
    let after = command(&redis.url(), &["INFO", "commandstats"])?;
    let count = |command| Ok::<_, anyhow::Error>(calls(&after, command)? - calls(&before, command)?);
    // A complete observation makes three calls, one of which adds the event to the event list. Reading the state of the
    // list is a call with two lookups. Some reconciliations were in progress when the calls were counted.
    let (called, complete, list_reads) = (count("evalsha")?, count("sadd")?, count("sismember")? / 2);
    let max = reconciled + 2 * complete + list_reads + EVENTS;
    println!("{called} of at most {max} calls of Redis for {reconciled} reconciliations, {complete} of them complete");
    ensure!(called <= max, "{called} calls of Redis for {reconciled} reconciliations, {complete} of them complete");
    ensure!(complete < reconciled / 2, "{complete} of {reconciled} reconciliations of idle events are complete");
    Ok(())
}

/// The delay in a line of the log, in seconds.
fn delay(line: &str) -> f64 {
    let value = line.split("retry_in").nth(1).unwrap_or_default();
    let value = value.trim_start_matches(|c: char| !c.is_ascii_digit());
    let end = value.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(value.len());
    let number: f64 = value[..end].parse().unwrap_or_default();
    if value[end..].starts_with("ms") { number / 1000.0 } else { number }
}

/// The time of a line of the log.
fn time(line: &str) -> Option<jiff::Timestamp> {
    let start = line.find("20")?;
    line[start..].split(['"', ' ']).next()?.parse().ok()
}
