//! What was told reaches Kafka, whoever dies in between.

use std::collections::HashSet;

use axum::http::StatusCode;
use domain::{Gate, Window};
use stock::Acknowledge;
use testbed::Kafka;

use crate::support::{Answer, World, until};

/// Kafka is frozen, so that everything an issuer gives is only in the outbox when the issuer is killed.
#[tokio::test]
async fn what_a_killed_issuer_left_another_sends() {
    let kafka = Kafka::start().unwrap();
    let world = World::on(testbed::shared::redis(), kafka.brokers()).await.open(500).await;
    let victim = world.ready_issuer(&[]).await;
    assert!(victim.issue_all(0..100).await.iter().all(Answer::succeeded));
    world.outbox_is_empty().await;
    kafka.pause().unwrap();
    assert!(victim.issue_all(100..300).await.iter().all(Answer::succeeded), "Redis alone decides");
    let left = world.stock.observe(&world.event).await.unwrap().unwrap().outbox;
    assert!(left > 0);
    victim.running.kill9().unwrap();
    kafka.resume().unwrap();

    let heir = world.ready_issuer(&["--adopt-after-seconds", "1"]).await;
    let in_kafka = world.users_in_kafka(300).await;
    assert_eq!(in_kafka, (0..300).map(|i| format!("user-{i}")).collect::<HashSet<_>>());
    world.outbox_is_empty().await;
    println!("killed with {left} batches in the outbox: 300 told before, 300 in Kafka after");
    assert!(heir.metrics().await.lines().any(|line| {
        line.strip_prefix("couponry_issuer_outbox_adopted_total ")
            .is_some_and(|count| count.parse::<u64>().unwrap() >= left)
    }));
}

#[tokio::test]
async fn an_issuer_that_is_told_to_end_sends_everything_first() {
    let world = World::shared().await.open(500).await;
    let issuer = world.ready_issuer(&[]).await;
    assert!(issuer.issue_all(0..500).await.iter().all(Answer::succeeded));
    issuer.running.stop().unwrap();
    assert_eq!(world.stock.observe(&world.event).await.unwrap().unwrap().outbox, 0);
    assert_eq!(world.users_in_kafka(500).await.len(), 500);
}

/// `acknowledge: Kafka`: a user is told only when the broker has the record.
#[tokio::test]
async fn nobody_is_told_before_kafka_has_it_when_the_event_wants_so() {
    let kafka = Kafka::start().unwrap();
    let world = World::on(testbed::shared::redis(), kafka.brokers()).await.open(100).await;
    world.gate(Gate::Open, Window::default(), Acknowledge::Kafka).await;
    let issuer = world.ready_issuer(&["--answer-timeout-seconds", "1"]).await;
    assert!(issuer.issue("early").await.succeeded());
    assert_eq!(world.users_in_kafka(1).await, HashSet::from(["early".to_owned()]));

    kafka.pause().unwrap();
    assert_eq!(issuer.issue("u1").await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(issuer.issue("u1").await.status, StatusCode::SERVICE_UNAVAILABLE, "a coupon, but not in Kafka yet");
    kafka.resume().unwrap();
    let mut coupon = String::new();
    until("Kafka has it", async || {
        let answer = issuer.issue("u1").await;
        if answer.status != StatusCode::OK {
            return false;
        }
        assert_eq!(answer.reason(), "DUPLICATE");
        answer.coupon().clone_into(&mut coupon);
        true
    })
    .await;
    assert!(world.users_in_kafka(2).await.contains("u1"));
    world.outbox_is_empty().await;
    assert_eq!(world.stock.observe(&world.event).await.unwrap().unwrap().queued, 98, "one coupon each");
}
