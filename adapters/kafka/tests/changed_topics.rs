//! Topics that an administrator changes while clients use them, with a real Kafka.

mod support;

use std::{collections::HashSet, time::Duration};

use couponry_domain::{IssuedRecord, UserId};
use couponry_kafka::{
    Batch, Consumer, KafkaError, KafkaSettings, LagClient, Producer, TopicSettings,
    test_support::{delete_topic, set_partitions},
    topics,
};
use couponry_testbed::{Kafka, Toxiproxy, kafka::ProxiedListener, ports, shared, toxiproxy::Toxic, unique_name};
use tokio::time::{Instant, sleep, timeout};

use crate::support::{record, write};

const LINGER: Duration = Duration::from_millis(50);
const TIMEOUT: Duration = Duration::from_secs(20);

fn free() -> u16 {
    ports::free().unwrap()
}

async fn create(settings: &KafkaSettings, partitions: i32) {
    let expected =
        TopicSettings { partitions, replication: 1, min_insync_replicas: 1, retention: None, used_topic: None };
    let deadline = Instant::now() + TIMEOUT;
    // Deleting a topic takes some time.
    while let Err(error) = topics::ensure(settings, &expected).await {
        assert!(Instant::now() < deadline, "{error}");
        sleep(LINGER).await;
    }
}

async fn recreate(settings: &KafkaSettings, partitions: i32) {
    delete_topic(settings).await.unwrap();
    create(settings, partitions).await;
}

/// Consumes and commits until all of these users were received. Returns the errors in between.
async fn receive(consumer: &mut Consumer, users: std::ops::Range<usize>) -> Vec<KafkaError> {
    let mut missing: HashSet<UserId> = users.map(|n| record(n).issued.user_id).collect();
    let mut errors = Vec::new();
    let deadline = Instant::now() + Duration::from_mins(2);
    while !missing.is_empty() {
        assert!(Instant::now() < deadline, "{} messages were not received; errors: {errors:?}", missing.len());
        match timeout(Duration::from_secs(1), consumer.next_batch(100, LINGER)).await {
            Ok(Ok(batch)) => {
                for message in &batch.messages {
                    let record = IssuedRecord::decode(message.version(), &message.payload).unwrap();
                    missing.remove(&record.issued.user_id);
                }
                consumer.commit(&batch).await.unwrap();
            }
            Ok(Err(error)) => errors.push(error),
            Err(_) => {}
        }
    }
    errors
}

fn reports_recreation(errors: &[KafkaError]) -> bool {
    errors.iter().any(|error| matches!(error, KafkaError::TopicRecreated(_)))
}

#[tokio::test]
async fn consumer_of_recreated_topic_with_lower_leader_epoch_receives_its_messages() {
    let kafka = Kafka::start().unwrap();
    let settings = KafkaSettings::at(kafka.brokers(), "coupon-issued");
    create(&settings, 2).await;
    write(&settings, 0..50).await;
    // Each restart elects the leaders again and increases their epoch. A new topic starts with epoch 0.
    kafka.stop().unwrap();
    kafka.restart().unwrap();
    let mut consumer = Consumer::new(&settings, "group").unwrap();
    receive(&mut consumer, 0..50).await;

    recreate(&settings, 2).await;
    write(&settings, 50..150).await;
    let errors = receive(&mut consumer, 50..150).await;
    assert!(reports_recreation(&errors), "{errors:?}");
    let state = consumer.state();
    assert!(state.borrow().as_ref().is_err_and(|reason| reason.contains("was deleted and created again")));
    // The state recovers while the consumer waits for more messages.
    let recovered = async {
        while state.borrow().is_err() {
            let _ = timeout(Duration::from_secs(1), consumer.next_batch(1, LINGER)).await;
        }
    };
    timeout(Duration::from_mins(2), recovered).await.unwrap();
    assert_eq!(LagClient::new(&settings, "group").unwrap().measure(TIMEOUT).await.unwrap(), 0);
}

#[tokio::test]
async fn consumer_of_recreated_topic_receives_messages_before_its_old_position() {
    let (proxy, listener) = (Toxiproxy::start().unwrap(), ProxiedListener { proxy: free(), listen: free() });
    let kafka = Kafka::start_behind(&[listener]).unwrap();
    proxy.add_proxy("kafka", listener.proxy, listener.listen).unwrap();
    let settings = KafkaSettings::at(kafka.brokers(), "coupon-issued");
    create(&settings, 1).await;
    write(&settings, 0..50).await;
    let behind_proxy = KafkaSettings::at(format!("127.0.0.1:{}", listener.proxy), "coupon-issued");
    let mut consumer = Consumer::new(&behind_proxy, "group").unwrap();
    receive(&mut consumer, 0..50).await;

    // When the consumer reaches Kafka again, the new topic has more messages than the old one: its position is valid.
    proxy.inject("kafka", Toxic::Cut).unwrap();
    recreate(&settings, 1).await;
    write(&settings, 50..250).await;
    proxy.reset().unwrap();
    receive(&mut consumer, 50..250).await;
}

#[tokio::test]
async fn commit_that_arrives_after_the_recreation_of_the_topic_skips_no_message() {
    let settings = KafkaSettings::at(shared::kafka(), unique_name("topic"));
    let group = unique_name("group");
    let lag = LagClient::new(&settings, &group).unwrap();
    create(&settings, 1).await;
    write(&settings, 0..50).await;
    let mut consumer = Consumer::new(&settings, &group).unwrap();
    let mut late = Batch::default();
    while late.messages.len() < 50 {
        late.messages.extend(consumer.next_batch(50, LINGER).await.unwrap().messages);
    }
    let old_end = lag.topic_end(TIMEOUT).await.unwrap();
    recreate(&settings, 1).await;
    consumer.commit(&late).await.unwrap();
    write(&settings, 50..70).await;
    assert_eq!(lag.measure(TIMEOUT).await.unwrap(), 20, "the committed offset is not one of this topic");
    assert_eq!(lag.measure_up_to(&old_end, TIMEOUT).await.unwrap(), 20);
    write(&settings, 70..250).await;
    receive(&mut consumer, 50..250).await;
    assert_eq!(lag.measure(TIMEOUT).await.unwrap(), 0);
    assert_eq!(lag.measure_up_to(&old_end, TIMEOUT).await.unwrap(), 0);
}

#[tokio::test]
async fn added_partitions_are_used_by_running_producer_and_consumer() {
    let settings = KafkaSettings::at(shared::kafka(), unique_name("topic"));
    create(&settings, 1).await;
    let producer = Producer::new(&settings).unwrap();
    producer.ping(TIMEOUT).await.unwrap();
    let mut consumer = Consumer::new(&settings, &unique_name("group")).unwrap();
    write(&settings, 0..10).await;
    receive(&mut consumer, 0..10).await;

    set_partitions(&settings, 3).await.unwrap();
    let mut used = HashSet::new();
    let mut sent = 10;
    let deadline = Instant::now() + Duration::from_mins(2);
    while used.len() < 3 {
        assert!(Instant::now() < deadline, "only the partitions {used:?} are used");
        producer.ping(TIMEOUT).await.unwrap();
        producer.send_batch(&[record(sent)], None).unwrap().await.unwrap();
        sent += 1;
        let wait = timeout(Duration::from_millis(100), consumer.next_batch(100, LINGER));
        if let Ok(batch) = wait.await {
            used.extend(batch.unwrap().messages.iter().map(|message| message.partition));
        }
    }
}
