//! Servers that are not there at the start, or go away in the middle.

use couponry_testbed::{Kafka, Postgres, Redis, shared};

use crate::support::{World, until};

#[tokio::test(flavor = "multi_thread")]
async fn it_waits_for_every_server_and_says_for_which() {
    let (kafka, postgres, redis) = (Kafka::start().unwrap(), Postgres::start().unwrap(), Redis::start().unwrap());
    let mut world = World::at(&kafka.brokers(), &postgres.url(), &redis.url());
    kafka.stop().unwrap();
    postgres.stop().unwrap();
    redis.stop().unwrap();

    let consumer = world.consumer(&[]);
    consumer.not_ready_because("kafka: reaching Kafka: ").await;
    consumer.not_ready_because("postgres: reaching Postgres: ").await;
    consumer.not_ready_because("redis: ").await;
    let missing = consumer.page("/readyz").unwrap().1;
    assert!(missing.contains("refused"), "{missing}");

    redis.restart().unwrap();
    postgres.restart().unwrap();
    consumer.not_ready_because("postgres: its tables are not there yet").await;
    world.database.migrate().await.unwrap();
    kafka.restart().unwrap();
    consumer.not_ready_because(&format!("kafka: reaching Kafka: there is no topic {:?}", world.kafka.topic)).await;
    let missing = consumer.page("/readyz").unwrap().1;
    assert!(!missing.contains("redis"), "{missing}");
    world.make_topics().await;
    consumer.ready().await;
    for what in ["waiting for Kafka", "waiting for Postgres"] {
        let log = consumer.running.log();
        assert!(log.contains(what), "{what:?} is not in the log:\n{log}");
    }

    world.make_event(500).await;
    let records = world.issue(0..500).await;
    world.write(&records).await;
    world.all_is_committed().await;
    world.assert_exactly_once(&records).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_postgres_is_away_there_is_a_backlog_and_then_it_is_worked_off() {
    const PART: usize = 2_000;
    let postgres = Postgres::start().unwrap();
    let mut world = World::at(&shared::kafka(), &postgres.url(), &shared::redis());
    world.make_topics().await;
    world.database.migrate().await.unwrap();
    world.make_event(3 * PART as u64).await;
    let consumer = world.consumer(&["--batch-size", "100"]);

    let mut records = world.issue(0..PART).await;
    world.write(&records).await;
    world.recorded_reaches(PART / 4).await;
    postgres.kill9().unwrap();
    let more = world.issue(PART..2 * PART).await;
    world.write(&more).await;
    records.extend(more);
    consumer.not_ready_because("postgres: reaching Postgres: ").await;
    consumer.not_ready_because("pipeline: recording in Postgres: recording issuances: ").await;
    postgres.restart().unwrap();
    println!("Postgres killed -9: {} of {} recorded", world.recorded().await, records.len());
    world.all_is_committed().await;
    consumer.ready().await;
    world.assert_exactly_once(&records).await;

    // A machine that hangs: no connection is refused, nothing answers.
    postgres.pause().unwrap();
    let more = world.issue(2 * PART..3 * PART).await;
    world.write(&more).await;
    records.extend(more);
    consumer.not_ready_because("Postgres does not answer").await;
    postgres.resume().unwrap();
    world.all_is_committed().await;
    consumer.ready().await;
    world.assert_exactly_once(&records).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_redis_is_away_nothing_is_taken_for_done() {
    const COUNT: usize = 1_000;
    let redis = Redis::start().unwrap();
    let database = couponry_testbed::Database::create().unwrap();
    let mut world = World::at(&shared::kafka(), &database.url(), &redis.url());
    world.make_topics().await;
    world.database.migrate().await.unwrap();
    world.make_event(COUNT as u64).await;
    let records = world.issue(0..COUNT).await;
    let consumer = world.consumer(&["--batch-size", "100"]);
    consumer.ready().await;
    redis.kill9().unwrap();
    world.write(&records).await;
    // Postgres has the first batch, but the users are not told yet: so it is not committed either.
    world.recorded_reaches(1).await;
    consumer.not_ready_because("pipeline: telling Redis: ").await;
    assert!(world.recorded().await < COUNT);
    redis.restart().unwrap();
    // Our own connection has to notice it, too.
    until("Redis is back", async || world.stock.ping().await.is_ok()).await;
    world.all_is_committed().await;
    consumer.ready().await;
    world.assert_exactly_once(&records).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_kafka_comes_back_it_goes_on() {
    const PART: usize = 500;
    let kafka = Kafka::start().unwrap();
    let database = couponry_testbed::Database::create().unwrap();
    let mut world = World::at(&kafka.brokers(), &database.url(), &shared::redis());
    world.make_topics().await;
    world.database.migrate().await.unwrap();
    world.make_event(2 * PART as u64).await;
    let consumer = world.consumer(&[]);
    let mut records = world.issue(0..PART).await;
    world.write(&records).await;
    world.recorded_reaches(PART).await;
    kafka.kill9().unwrap();
    consumer.not_ready_because("kafka: ").await;
    kafka.restart().unwrap();
    consumer.ready().await;
    let more = world.issue(PART..2 * PART).await;
    world.write(&more).await;
    records.extend(more);
    world.all_is_committed().await;
    world.assert_exactly_once(&records).await;
}
