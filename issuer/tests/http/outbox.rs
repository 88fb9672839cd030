//! What was told reaches Kafka, whoever dies in between.

use std::{
    collections::HashSet,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
};

use axum::http::StatusCode;
use couponry_domain::{Gate, Window};
use couponry_redis::Acknowledge;
use couponry_testbed::Kafka;

use crate::support::{Answer, World, until};

/// Kafka is frozen, so that everything an issuer gives is only in the outbox when the issuer is killed.
#[tokio::test]
async fn what_a_killed_issuer_left_another_sends() {
    let kafka = Kafka::start().unwrap();
    let world = World::on(couponry_testbed::shared::redis(), kafka.brokers()).await.open(500).await;
    let victim = world.ready_issuer(&[]).await;
    assert!(victim.issue_all(0..100).await.iter().all(Answer::succeeded));
    world.outbox_is_empty().await;
    kafka.pause().unwrap();
    assert!(victim.issue_all(100..300).await.iter().all(Answer::succeeded), "Redis alone decides");
    let left = world.stock.observe(&world.event).await.unwrap().unwrap().outbox;
    assert!(left > 0);
    victim.running.kill9().unwrap();
    kafka.resume().unwrap();

    let heir = world.ready_issuer(&["--outbox-takeover-seconds", "1"]).await;
    let in_kafka = world.users_in_kafka(300).await;
    assert_eq!(in_kafka, (0..300).map(|i| format!("user-{i}")).collect::<HashSet<_>>());
    world.outbox_is_empty().await;
    println!("killed with {left} batches in the outbox: 300 told before, 300 in Kafka after");
    assert!(heir.metrics().await.lines().any(|line| {
        line.strip_prefix("couponry_issuer_outbox_taken_over_total ")
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
    let world = World::on(couponry_testbed::shared::redis(), kafka.brokers()).await.open(100).await;
    world.gate(Gate::Open, Window::default(), Acknowledge::Kafka).await;
    let issuer = world.ready_issuer(&["--answer-timeout-seconds", "1"]).await;
    // A broker that has just started may need longer than the answer timeout.
    until("Kafka confirms", async || issuer.issue("early").await.status == StatusCode::OK).await;
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
    assert_eq!(world.stock.observe(&world.event).await.unwrap().unwrap().available, 98, "one coupon each");
}

/// What this issuer knows to be in Kafka it does not send again.
#[tokio::test]
async fn asking_again_costs_no_record() {
    let world = World::shared().await.open(100).await;
    world.gate(Gate::Open, Window::default(), Acknowledge::Kafka).await;
    let issuer = world.ready_issuer(&["--outbox-takeover-seconds", "3600"]).await;
    until("Kafka confirms", async || issuer.issue("u1").await.status == StatusCode::OK).await;
    let before = couponry_kafka::read_all(&world.kafka).await.unwrap().len();
    for _ in 0..5 {
        assert_eq!(issuer.issue("u1").await.reason(), "DUPLICATE");
        assert_eq!(issuer.get("/coupons/summer/users/u1").await.json["recorded"], false);
    }
    // Both at once: one of them is told of the other's coupon.
    let (one, other) = tokio::join!(issuer.issue("u2"), issuer.issue("u2"));
    assert!(one.succeeded() != other.succeeded(), "{} {}", one.json, other.json);
    assert_eq!(one.coupon(), other.coupon());
    assert!(world.users_in_kafka(2).await.contains("u2"));
    let after = couponry_kafka::read_all(&world.kafka).await.unwrap();
    assert_eq!(after.iter().filter(|message| message.key.as_deref() == Some(b"u1")).count(), before);
}

/// An answer to a look is no exception, also when whoever issued the coupon is dead.
#[tokio::test]
async fn nobody_sees_a_coupon_before_kafka_has_it_when_the_event_wants_so() {
    let kafka = Kafka::start().unwrap();
    let world = World::on(couponry_testbed::shared::redis(), kafka.brokers()).await.open(100).await;
    world.gate(Gate::Open, Window::default(), Acknowledge::Kafka).await;
    // Nobody sweeps: the look itself must see to it.
    let issuer = world.ready_issuer(&["--answer-timeout-seconds", "1", "--outbox-takeover-seconds", "3600"]).await;
    kafka.pause().unwrap();
    world.stock.issue(&world.event, &["u1".parse().unwrap()]).await.unwrap().unwrap();
    let hidden = issuer.get("/coupons/summer/users/u1").await;
    assert_eq!(hidden.status, StatusCode::SERVICE_UNAVAILABLE, "{}", hidden.json);
    assert_eq!(hidden.headers["retry-after"], "1");
    assert_eq!(issuer.get("/coupons/summer/users/u2").await.status, StatusCode::NOT_FOUND, "nothing to wait for");
    kafka.resume().unwrap();
    until("it is shown", async || issuer.get("/coupons/summer/users/u1").await.status == StatusCode::OK).await;
    let messages = couponry_kafka::read_all(&world.kafka).await.unwrap();
    assert!(messages.iter().any(|message| message.key.as_deref() == Some(b"u1")), "shown before");
}

/// What others wrote to Redis under our names costs nobody a coupon.
#[tokio::test]
async fn what_cannot_be_swept_keeps_nothing_else_back() {
    let world = World::shared().await.open(100).await;
    let outbox = |event: &str| format!("{}couponOutbox:{{{event}}}", world.prefix);
    for i in 0..20 {
        let broken = format!("broken-{i}");
        redis(&world, &format!("SADD {}couponEvents {broken}", world.prefix));
        redis(&world, &format!("SET {} what", outbox(&broken)));
    }
    // More than a page of it.
    for _ in 0..120 {
        redis(&world, &format!("XADD {} * version 9", outbox("summer")));
    }
    let users: Vec<_> = (0..100).map(|i| format!("user-{i}").parse().unwrap()).collect();
    for users in users.chunks(10) {
        world.stock.issue(&world.event, users).await.unwrap().unwrap();
    }

    let issuer = world.ready_issuer(&["--outbox-takeover-seconds", "1"]).await;
    assert_eq!(world.users_in_kafka(100).await.len(), 100);
    until("only what nobody can read is left", async || {
        world.stock.observe(&world.event).await.unwrap().unwrap().outbox == 120
    })
    .await;
    let log = issuer.running.log();
    assert!(log.contains("broken-0") && log.contains("unreadable"), "{log}");
}

/// Says something to Redis that no program of ours would.
fn redis(world: &World, command: &str) {
    let mut stream = TcpStream::connect(world.redis.trim_start_matches("redis://")).unwrap();
    write!(stream, "{command}\r\n").unwrap();
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    assert!(!answer.starts_with('-'), "{command}: {answer}");
}
