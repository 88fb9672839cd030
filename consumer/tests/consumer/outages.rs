//! Outages of servers at startup and during processing.

use couponry_testbed::{Kafka, Postgres, Redis, shared};

use crate::support::{World, until};

#[tokio::test(flavor = "multi_thread")]
async fn consumer_without_servers_at_startup_waits_for_them() {
    let (kafka, postgres, redis) = (Kafka::start().unwrap(), Postgres::start().unwrap(), Redis::start().unwrap());
    let mut world = World::at(&kafka.brokers(), &postgres.url(), &redis.url());
    kafka.stop().unwrap();
    postgres.stop().unwrap();
    redis.stop().unwrap();

    let consumer = world.consumer(&[]);
    consumer.wait_until_not_ready("kafka: cannot reach Kafka: ").await;
    consumer.wait_until_not_ready("postgres: cannot reach Postgres: ").await;
    consumer.wait_until_not_ready("redis: ").await;
    let missing = consumer.page("/readyz").unwrap().1;
    assert!(missing.contains("refused"), "{missing}");

    redis.restart().unwrap();
    postgres.restart().unwrap();
    consumer.wait_until_not_ready("postgres: the database schema is outdated").await;
    world.database.migrate().await.unwrap();
    kafka.restart().unwrap();
    consumer.wait_until_not_ready(&format!("kafka: the Kafka topic {:?} does not exist", world.kafka.topic)).await;
    // The consumer tries Redis again after a delay of its own.
    until("Redis is reached", async || !consumer.page("/readyz").unwrap().1.contains("redis")).await;
    world.create_topics().await;
    consumer.wait_until_ready().await;
    for what in ["waiting for Kafka", "waiting for Postgres"] {
        let log = consumer.running.log();
        assert!(log.contains(what), "{what:?} is not in the log:\n{log}");
    }

    world.create_event(500).await;
    let records = world.issue(0..500).await;
    world.publish(&records).await;
    world.wait_until_committed().await;
    world.assert_exactly_once(&records).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn backlog_of_a_postgres_outage_is_recorded_afterwards() {
    const PART: usize = 2_000;
    let postgres = Postgres::start().unwrap();
    let mut world = World::at(&shared::kafka(), &postgres.url(), &shared::redis());
    world.create_topics().await;
    world.database.migrate().await.unwrap();
    world.create_event(3 * PART as u64).await;
    let consumer = world.consumer(&["--max-batch", "100"]);

    let mut records = world.issue(0..PART).await;
    world.publish(&records).await;
    world.wait_until_recorded(PART / 4).await;
    postgres.kill9().unwrap();
    let more = world.issue(PART..2 * PART).await;
    world.publish(&more).await;
    records.extend(more);
    consumer.wait_until_not_ready("postgres: cannot reach Postgres: ").await;
    consumer.wait_until_not_ready("pipeline: recording in Postgres: cannot record issuances in Postgres: ").await;
    postgres.restart().unwrap();
    println!("Postgres killed -9: {} of {} recorded", world.recorded().await, records.len());
    world.wait_until_committed().await;
    consumer.wait_until_ready().await;
    world.assert_exactly_once(&records).await;

    // A server that hangs: connections are accepted, but there is no response.
    postgres.pause().unwrap();
    let more = world.issue(2 * PART..3 * PART).await;
    world.publish(&more).await;
    records.extend(more);
    consumer.wait_until_not_ready("postgres: cannot reach Postgres: timed out").await;
    postgres.resume().unwrap();
    world.wait_until_committed().await;
    consumer.wait_until_ready().await;
    world.assert_exactly_once(&records).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_outage_blocks_the_commit_of_offsets() {
    const COUNT: usize = 1_000;
    let redis = Redis::start().unwrap();
    let database = couponry_testbed::Database::create().unwrap();
    let mut world = World::at(&shared::kafka(), &database.url(), &redis.url());
    world.create_topics().await;
    world.database.migrate().await.unwrap();
    world.create_event(COUNT as u64).await;
    let records = world.issue(0..COUNT).await;
    let consumer = world.consumer(&["--max-batch", "100"]);
    consumer.wait_until_ready().await;
    redis.kill9().unwrap();
    world.publish(&records).await;
    // The first batch is recorded in Postgres but not settled in Redis, so its offsets are not committed.
    world.wait_until_recorded(1).await;
    consumer.wait_until_not_ready("pipeline: settling in Redis: ").await;
    assert!(world.recorded().await < COUNT);
    redis.restart().unwrap();
    // The connection of the test has to reconnect as well.
    until("Redis is available", async || world.redis_store.ping().await.is_ok()).await;
    world.wait_until_committed().await;
    consumer.wait_until_ready().await;
    world.assert_exactly_once(&records).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn consumer_resumes_after_a_kafka_restart() {
    const PART: usize = 500;
    let kafka = Kafka::start().unwrap();
    let database = couponry_testbed::Database::create().unwrap();
    let mut world = World::at(&kafka.brokers(), &database.url(), &shared::redis());
    world.create_topics().await;
    world.database.migrate().await.unwrap();
    world.create_event(2 * PART as u64).await;
    let consumer = world.consumer(&[]);
    let mut records = world.issue(0..PART).await;
    world.publish(&records).await;
    world.wait_until_recorded(PART).await;
    kafka.kill9().unwrap();
    consumer.wait_until_not_ready("kafka: ").await;
    kafka.restart().unwrap();
    consumer.wait_until_ready().await;
    let more = world.issue(PART..2 * PART).await;
    world.publish(&more).await;
    records.extend(more);
    world.wait_until_committed().await;
    world.assert_exactly_once(&records).await;
}
