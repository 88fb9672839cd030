//! Faults of Kafka that the client library does not recover from by itself.

use std::time::Duration;

use couponry_kafka::test_support::{delete_topic, set_offset_commits};
use couponry_testbed::{Database, Kafka, shared};

use crate::support::{Consumer, World, until};

/// An event on a Kafka of its own, with a consumer that has recorded some records.
async fn recorded_on(kafka: &Kafka, database: &Database, count: usize) -> (World, Consumer) {
    let mut world = World::at(&kafka.brokers(), &database.url(), &shared::redis());
    world.create_topics().await;
    world.database.migrate().await.unwrap();
    world.create_event(100).await;
    let consumer = world.consumer(&[]);
    world.publish(&world.issue(0..count).await).await;
    world.wait_until_committed().await;
    (world, consumer)
}

/// A consumer with these failpoints.
fn consumer_with(world: &World, failpoints: &str) -> Consumer {
    let consumer = world.consumer(&[]);
    consumer.running.stop().unwrap();
    consumer.running.restart_with(&[("FAILPOINTS".to_owned(), failpoints.to_owned())]).unwrap();
    consumer
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_commit_is_repeated_without_new_messages() {
    let (kafka, database) = (Kafka::start().unwrap(), Database::create().unwrap());
    let (world, consumer) = recorded_on(&kafka, &database, 10).await;

    set_offset_commits(&world.kafka, false).await.unwrap();
    let records = world.issue(10..20).await;
    world.publish(&records).await;
    world.wait_until_recorded(20).await;
    consumer.wait_until_not_ready("offset commits: cannot commit offsets: ").await;
    assert_eq!(world.lag().await.measure(Duration::from_secs(10)).await.unwrap(), 10);

    set_offset_commits(&world.kafka, true).await.unwrap();
    world.wait_until_committed().await;
    consumer.wait_until_ready().await;
    assert_eq!(consumer.metric("couponry_consumer_recorded_total"), 20);
    assert_eq!(consumer.metric("couponry_consumer_already_recorded_total"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn consumer_of_recreated_topic_is_not_ready_and_recovers() {
    let (kafka, database) = (Kafka::start().unwrap(), Database::create().unwrap());
    let (world, consumer) = recorded_on(&kafka, &database, 10).await;
    // A restart increases the leader epochs of the topic. Those of the new topic are lower.
    kafka.stop().unwrap();
    kafka.restart().unwrap();
    world.publish(&world.issue(10..20).await).await;
    world.wait_until_recorded(20).await;
    consumer.wait_until_ready().await;

    delete_topic(&world.kafka).await.unwrap();
    until("the topic is created again", async || world.try_create_topics().await.is_ok()).await;
    world.publish(&world.issue(20..30).await).await;
    consumer.wait_until_not_ready("was deleted and created again").await;
    world.wait_until_recorded(30).await;
    world.wait_until_committed().await;
    consumer.wait_until_ready().await;
    let log = consumer.running.log();
    assert!(log.contains("replaced the Kafka client of the consumer"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn client_whose_commits_hang_is_replaced() {
    let world = World::open(10).await;
    let consumer = consumer_with(&world, "kafka.hung-commit=6*return");
    let records = world.issue(0..10).await;
    world.publish(&records).await;
    consumer.wait_until_not_ready("offset commits: cannot commit offsets: timed out").await;
    world.wait_until_committed().await;
    consumer.wait_until_ready().await;
    let log = consumer.running.log();
    assert!(log.contains("replaced the Kafka client of the consumer"), "{log}");
    world.assert_exactly_once(&records).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn client_that_receives_nothing_is_replaced() {
    let world = World::open(10).await;
    // The partitions of the first client are paused.
    let consumer = consumer_with(&world, "kafka.paused-consumer=1*return");
    let records = world.issue(0..10).await;
    world.publish(&records).await;
    consumer.wait_until_ready().await;
    consumer.wait_until_not_ready("consumer: received no messages from the partitions").await;
    world.wait_until_committed().await;
    consumer.wait_until_ready().await;
    world.assert_exactly_once(&records).await;
}
