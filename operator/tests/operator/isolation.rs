//! A pause takes effect, and other events are served, whatever is wrong with one node, one key or one object.

use anyhow::{Context as _, Result};
use couponry_domain::Gate;
use couponry_testbed::{Redis, RedisCluster, ports, redis::command};

use crate::support::{World, is_true, reason, wait_operator_ready, wait_until};

const SPEC: &str = "{policyName: p, totalCount: 10, discounts: [{type: Amount, value: 1, count: 10}]}";

fn with_issuance(issuance: &str) -> String {
    SPEC.replacen('{', &format!("{{issuance: {issuance}, "), 1)
}

async fn wait_gate(world: &World, name: &str, gate: Gate) -> Result<()> {
    wait_until(&format!("the gate of {name} is {gate:?}"), async || {
        Ok(world.redis_store.observe(&name.parse()?).await?.context("the event is not in Redis")?.gate == gate)
    })
    .await
}

/// Whichever keys of the installation the node has; also with an operator that is started while the node is down.
#[tokio::test(flavor = "multi_thread")]
async fn events_on_other_nodes_continue_while_a_cluster_node_is_down() -> Result<()> {
    // The names of events on these nodes: the first has `couponEvents`, the second `couponInstallation`.
    for (node, lost) in [(1, "summer"), (2, "open")] {
        let cluster = RedisCluster::start(3, &["--cluster-require-full-coverage", "no"])?;
        let world = World::with_redis(&cluster.url()).await?;
        let operator = world.start_operator()?;
        for name in [lost, "broken"] {
            world.apply_open(name, SPEC).await?;
        }
        cluster.nodes()[node].kill9()?;
        world.apply("broken", &with_issuance("Paused"))?;
        wait_gate(&world, "broken", Gate::Paused).await?;
        world.wait(lost, "stalled", |status| is_true(status, "Stalled")).await?;

        drop(operator);
        let monitor = ports::free()?;
        let _operator = world.operator_program(monitor).start()?;
        wait_operator_ready(monitor).await?;
        world.apply_open("broken", SPEC).await?;
        // Another name on the first node.
        world.apply_open("b", SPEC).await?;
        world.apply("b", &with_issuance("Closed"))?;
        wait_gate(&world, "b", Gate::Closed).await?;

        cluster.nodes()[node].restart()?;
        cluster.wait()?;
        world.wait(lost, "open", |status| is_true(status, "Open") && !is_true(status, "Stalled")).await?;
        wait_until("all events are listed", async || Ok(world.redis_store.events().await?.len() == 3)).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pause_takes_effect_in_a_full_redis() -> Result<()> {
    let redis = Redis::start()?;
    let world = World::with_redis(&redis.url()).await?;
    let _operator = world.start_operator()?;
    world.apply_open("event", SPEC).await?;
    command(&redis.url(), &["CONFIG", "SET", "maxmemory", "1"])?;
    world.apply("event", &with_issuance("Paused"))?;
    wait_gate(&world, "event", Gate::Paused).await?;
    world.wait("event", "paused", |status| reason(status, "Open") == "Paused").await?;
    world.apply("event", &with_issuance("Closed"))?;
    wait_gate(&world, "event", Gate::Closed).await
}

/// As after a restore of the API server from a snapshot that is older than the last changes of the manifest.
#[tokio::test(flavor = "multi_thread")]
async fn pause_takes_effect_with_an_older_generation_than_in_the_stores() -> Result<()> {
    let world = World::shared().await?;
    let _operator = world.start_operator()?;
    for (name, issuance, gate) in [("paused", "Paused", Gate::Paused), ("closed", "Closed", Gate::Closed)] {
        world.apply_open(name, SPEC).await?;
        let uid = world.uid(name).await?;
        world.test_database.sql(&format!("UPDATE coupon_event SET generation = 9 WHERE uid = '{uid}'"))?;
        world.redis(&["HSET", &world.key("couponMeta", name), "generation", "9"])?;
        world.apply(name, &with_issuance(issuance))?;
        wait_gate(&world, name, gate).await?;
        let restricted = world.redis_store.observe(&name.parse()?).await?.context("the event is not in Redis")?;
        assert_eq!(restricted.generation, 9, "a delayed call for an older manifest stays without effect");
    }
    Ok(())
}

/// Otherwise its outbox would not be swept.
#[tokio::test(flavor = "multi_thread")]
async fn event_that_is_lost_from_the_event_list_is_added_again() -> Result<()> {
    let redis = Redis::start()?;
    let world = World::with_redis(&redis.url()).await?;
    let _operator = world.start_operator()?;
    world.apply_open("event", SPEC).await?;
    // The verification of the list adds all events.
    wait_until("the list is verified", async || Ok(world.redis_store.is_event_list_verified().await?)).await?;
    let is_listed = async || Ok(world.redis_store.events().await?.contains(&"event".parse()?));
    assert!(is_listed().await?);
    command(&redis.url(), &["SREM", &format!("{}-couponEvents", world.namespace()), "event"])?;
    assert!(!is_listed().await?);
    wait_until("the event is listed again", is_listed).await
}

/// While none or only some of the lost events are restored, the others are not unknown to the issuers.
#[tokio::test(flavor = "multi_thread")]
async fn list_of_a_wiped_redis_is_verified_with_all_events() -> Result<()> {
    const EVENTS: [&str; 4] = ["event-0", "event-1", "event-2", "event-3"];
    let redis = Redis::start()?;
    let world = World::with_redis(&redis.url()).await?;
    let _operator = world.start_operator()?;
    let is_verified = async || Ok(world.redis_store.is_event_list_verified().await?);
    wait_until("the list without events is verified", is_verified).await?;
    for name in EVENTS {
        world.apply_open(name, SPEC).await?;
    }
    // No event can be restored before, which would add it to the list.
    let lock = world.test_database.hold("LOCK TABLE issuance")?;
    command(&redis.url(), &["FLUSHALL"])?;
    wait_until("the list is verified again", async || {
        for name in EVENTS {
            assert!(world.redis_store.may_exist(&name.parse()?).await?, "{name} is unknown");
        }
        is_verified().await
    })
    .await?;
    for name in EVENTS {
        assert!(world.redis_store.may_exist(&name.parse()?).await?, "{name} is unknown");
    }
    assert!(!world.redis_store.may_exist(&"unknown".parse()?).await?);
    drop(lock);
    for name in EVENTS {
        world.wait(name, "open", |status| is_true(status, "Open")).await?;
    }
    Ok(())
}
