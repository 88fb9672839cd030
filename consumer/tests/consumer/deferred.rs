//! Records whose event Postgres or Redis cannot process yet. Other events do not wait.

use couponry_postgres::{Database, RecordOutcome};
use couponry_redis::IssuedStatus;
use couponry_testbed::{Database as TestDatabase, RedisCluster, redis::command, shared};

use crate::support::{World, until, user};

const EVENT_RECORDS: usize = 50;

/// Another event on the same servers, topic and group.
async fn another_event(world: &World, name: &str) -> World {
    let mut other = World::at(&world.kafka.brokers, &world.postgres, &world.redis);
    other.kafka = world.kafka.clone();
    other.group.clone_from(&world.group);
    other.prefix.clone_from(&world.prefix);
    other.redis_store = world.redis_store.clone();
    other.event = name.parse().unwrap();
    other.create_event(EVENT_RECORDS as u64).await;
    other
}

/// No user loses a coupon because it was not found, other events do not wait, and nothing is committed before.
#[tokio::test(flavor = "multi_thread")]
async fn records_of_an_incomplete_stock_wait_and_other_events_are_recorded() {
    let world = World::open(EVENT_RECORDS as u64).await;
    let (broken, open) = (another_event(&world, "broken").await, another_event(&world, "open").await);
    let database = world.test_database.as_ref().unwrap();
    let (missing, incomplete) = (world.uid.simple(), broken.uid.simple());
    database.sql(&format!("ALTER TABLE coupon_{missing} RENAME TO hidden")).unwrap();
    database
        .sql(&format!(
            "CREATE TABLE kept AS SELECT * FROM coupon_{incomplete} WHERE ordinal = 7;
             DELETE FROM coupon_{incomplete} WHERE ordinal = 7"
        ))
        .unwrap();

    let first = world.issue(0..EVENT_RECORDS).await;
    let second = broken.issue(0..EVENT_RECORDS).await;
    let third = open.issue(0..EVENT_RECORDS).await;
    let consumer = world.consumer(&["--max-batch", "20"]);
    for ((first, second), third) in first.chunks(5).zip(second.chunks(5)).zip(third.chunks(5)) {
        world.publish(&[first, second, third].concat()).await;
    }
    open.wait_until_recorded(EVENT_RECORDS).await;
    broken.wait_until_recorded(EVENT_RECORDS - 1).await;
    let deferred = EVENT_RECORDS as u64 + 1;
    until("the records are deferred", async || consumer.metric("couponry_consumer_deferred_records") == deferred).await;
    let reason = format!("event {}: 50 records, the table with the coupons of the event does not exist", world.uid);
    consumer.wait_until_degraded(&reason).await;
    let reason =
        format!("event {}: 1 records, the event has no such coupon, but its stock is not complete", broken.uid);
    consumer.wait_until_degraded(&reason).await;
    assert_eq!(world.recorded().await, 0);
    assert_eq!(world.entry(&user(3)).await.status, IssuedStatus::Pending);
    assert_eq!(open.entry(&user(3)).await.status, IssuedStatus::Completed);
    assert_eq!(world.dead_letters().await, []);

    // Nothing was committed, so another consumer receives the deferred records.
    drop(consumer);
    let consumer = world.consumer(&["--max-batch", "20"]);
    until("the records are deferred again", async || {
        consumer.page("/metrics").is_some() && consumer.metric("couponry_consumer_deferred_records") == deferred
    })
    .await;

    database.sql(&format!("ALTER TABLE hidden RENAME TO coupon_{missing}")).unwrap();
    database.sql(&format!("INSERT INTO coupon_{incomplete} SELECT * FROM kept")).unwrap();
    world.wait_until_committed().await;
    consumer.wait_until_ready().await;
    assert_eq!(consumer.metric("couponry_consumer_deferred_records"), 0);
    for (world, records) in [(&world, &first), (&broken, &second), (&open, &third)] {
        world.assert_exactly_once(records).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lock_on_one_event_defers_only_its_own_records() {
    let world = World::open(EVENT_RECORDS as u64).await;
    let open = another_event(&world, "open").await;
    let database = world.test_database.as_ref().unwrap();
    let lock = database.hold(&format!("LOCK TABLE coupon_{}", world.uid.simple())).unwrap();
    let first = world.issue(0..EVENT_RECORDS).await;
    let second = open.issue(0..EVENT_RECORDS).await;
    let consumer = world.consumer(&["--max-batch", "20"]);
    // Most batches have records of both events.
    for (first, second) in first.chunks(5).zip(second.chunks(5)) {
        world.publish(&[first, second].concat()).await;
    }
    open.wait_until_recorded(EVENT_RECORDS).await;
    wait_until_settled(&open).await;
    let reason =
        format!("event {}: 50 records, another session locks the coupons or the issuances of the event", world.uid);
    consumer.wait_until_degraded(&reason).await;
    assert_eq!(world.recorded().await, 0);

    drop(lock);
    world.wait_until_committed().await;
    consumer.wait_until_ready().await;
    for (world, records) in [(&world, &first), (&open, &second)] {
        world.assert_exactly_once(records).await;
    }
}

/// Redeemers record the issuances of coupons that are used before. A batch is first recorded on the assumption that all
/// its issuances are new.
#[tokio::test(flavor = "multi_thread")]
async fn batch_with_issuances_that_redeemers_recorded_is_recorded_without_dead_letters() {
    let world = World::open(EVENT_RECORDS as u64).await;
    let database = Database::connect(&world.postgres).unwrap();
    let records = world.issue(0..EVENT_RECORDS).await;
    let recorded: Vec<_> = records.iter().step_by(7).cloned().collect();
    for record in &recorded {
        assert_eq!(database.record_concurrently(record.clone()).await.unwrap(), RecordOutcome::Recorded);
    }
    // The other redeemers record while the consumer does.
    world.publish(&records).await;
    let consumer = world.consumer(&["--max-batch", "20"]);
    for record in records.iter().skip(3).step_by(7) {
        let outcome = database.record_concurrently(record.clone()).await.unwrap();
        assert!(matches!(outcome, RecordOutcome::Recorded | RecordOutcome::AlreadyRecorded), "{outcome:?}");
    }
    world.wait_until_committed().await;
    consumer.wait_until_ready().await;
    assert_eq!(consumer.metric("couponry_consumer_deferred_records"), 0);
    assert_eq!(world.dead_letters().await, []);
    world.assert_exactly_once(&records).await;
}

/// Waits until all coupons of the event are marked as recorded in Redis.
async fn wait_until_settled(world: &World) {
    until("the coupons are settled", async || {
        let observed = world.redis_store.observe(&world.event).await.unwrap().unwrap();
        observed.marked_recorded == EVENT_RECORDS as u64
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn key_of_wrong_type_defers_only_its_own_event() {
    let world = World::open(EVENT_RECORDS as u64).await;
    let open = another_event(&world, "open").await;
    let first = world.issue(0..EVENT_RECORDS).await;
    let second = open.issue(0..EVENT_RECORDS).await;
    let issued = format!("{}couponIssued:{{summer}}", world.prefix);
    let kept = format!("{issued}-kept");
    command(&world.redis, &["RENAME", &issued, &kept]).unwrap();
    command(&world.redis, &["SET", &issued, "wrong"]).unwrap();

    let consumer = world.consumer(&["--max-batch", "20"]);
    for (first, second) in first.chunks(5).zip(second.chunks(5)) {
        world.publish(&[first, second].concat()).await;
    }
    wait_until_settled(&open).await;
    world.wait_until_recorded(EVENT_RECORDS).await;
    until("the records are deferred", async || consumer.metric("couponry_consumer_deferred_records") == 50).await;
    consumer.wait_until_degraded(&format!("event {}: 50 records, cannot settle issued coupons", world.uid)).await;
    assert!(consumer.page("/readyz").unwrap().1.contains("WRONGTYPE"));

    // Nothing was committed, so another consumer receives the records again.
    drop(consumer);
    let consumer = world.consumer(&["--max-batch", "20"]);
    consumer.wait_until_degraded("cannot settle issued coupons").await;
    // In one step: without the key, the consumer would find no issued coupons that it could settle.
    command(&world.redis, &["RENAME", &kept, &issued]).unwrap();
    world.wait_until_committed().await;
    for (world, records) in [(&world, &first), (&open, &second)] {
        world.assert_exactly_once(records).await;
    }
}

/// Each retry would send it again.
#[tokio::test(flavor = "multi_thread")]
async fn dead_letter_of_a_deferred_record_is_sent_after_its_settlement() {
    let world = World::open(EVENT_RECORDS as u64).await;
    let mut records = world.issue(0..1).await;
    records[0].issued.coupon = "SUMMER-AAAAAAAAAAAA".parse().unwrap();
    let issued = format!("{}couponIssued:{{summer}}", world.prefix);
    let kept = format!("{issued}-kept");
    command(&world.redis, &["RENAME", &issued, &kept]).unwrap();
    command(&world.redis, &["SET", &issued, "wrong"]).unwrap();

    let consumer = world.consumer(&[]);
    world.publish(&records).await;
    until("the record is deferred", async || {
        consumer.page("/metrics").is_some() && consumer.metric("couponry_consumer_deferred_records") == 1
    })
    .await;
    assert_eq!(world.dead_letters().await, []);
    command(&world.redis, &["RENAME", &kept, &issued]).unwrap();
    world.wait_until_committed().await;
    let letters = world.dead_letters().await;
    assert!(matches!(&letters[..], [(reason, ..)] if reason == "unknown_coupon"), "{letters:?}");
}

/// Also with a consumer that is started while the node is down.
#[tokio::test(flavor = "multi_thread")]
async fn unavailable_cluster_node_defers_only_its_own_events() {
    // The names of events on these nodes: the first has `couponEvents`, the second `couponInstallation`.
    for (node, lost) in [(1, "summer"), (2, "open")] {
        let cluster = RedisCluster::start(3, &["--cluster-require-full-coverage", "no"]).unwrap();
        let database = TestDatabase::create().unwrap();
        let mut world = World::at(&shared::kafka(), &database.url(), &cluster.url());
        world.event = lost.parse().unwrap();
        world.create_topics().await;
        world.database.migrate().await.unwrap();
        world.create_event(EVENT_RECORDS as u64).await;
        let other = another_event(&world, "broken").await;
        let first = world.issue(0..EVENT_RECORDS).await;
        let second = other.issue(0..EVENT_RECORDS).await;
        cluster.nodes()[node].kill9().unwrap();

        let consumer = world.consumer(&["--max-batch", "20"]);
        consumer.wait_until_ready().await;
        for (first, second) in first.chunks(5).zip(second.chunks(5)) {
            world.publish(&[first, second].concat()).await;
        }
        wait_until_settled(&other).await;
        world.wait_until_recorded(EVENT_RECORDS).await;
        consumer.wait_until_degraded("redis: 1 of 3 masters of the Redis Cluster at").await;
        cluster.nodes()[node].restart().unwrap();
        cluster.wait().unwrap();
        world.wait_until_committed().await;
        until("the node is available", async || world.redis_store.ping().await.is_ok()).await;
        for (world, records) in [(&world, &first), (&other, &second)] {
            world.assert_exactly_once(records).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn consumer_refuses_a_database_that_is_not_utf8() {
    let latin = TestDatabase::create_with(&shared::postgres(), "ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'");
    let latin = latin.unwrap();
    let world = World::at(&shared::kafka(), &latin.url(), &shared::redis());
    world.create_topics().await;
    let consumer = world.consumer(&[]);
    consumer.wait_until_not_ready("postgres: the database has the encoding LATIN1, but UTF8 is required").await;
    assert!(Database::connect(&latin.url()).unwrap().migrate().await.is_err());
}
