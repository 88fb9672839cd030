//! Servers that are not there: an unknown outcome is 503 and never a no, and the retry tells the truth.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicBool, Ordering},
};

use axum::http::StatusCode;
use couponry_testbed::{Kafka, Redis};
use tokio::sync::Notify;

use crate::support::{Answer, World, until};

fn assert_unknown(answer: &Answer) {
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{}", answer.json);
    assert_eq!(answer.headers["retry-after"], "1");
    assert_eq!(answer.headers["content-type"], "application/problem+json");
}

#[tokio::test]
async fn servers_that_are_not_there_at_the_start_are_waited_for() {
    let (redis, kafka) = (Redis::start().unwrap(), Kafka::start().unwrap());
    let world = World::on(redis.url(), kafka.brokers()).await.open(10).await;
    redis.kill9().unwrap();
    kafka.kill9().unwrap();
    let issuer = world.issuer(&[]);
    let address = redis.url().trim_start_matches("redis://").trim_end_matches('/').to_owned();
    until("the issuer says what is missing", async || {
        let (status, text) = issuer.readiness().await;
        status == 503
            && text.contains(&format!("redis: reaching Redis at {address}: "))
            && text.contains("kafka: reaching Kafka: ")
    })
    .await;
    assert_unknown(&issuer.issue("u1").await);
    assert_unknown(&issuer.get("/coupons/summer").await);
    redis.restart().unwrap();
    until("only Kafka is missing", async || !issuer.readiness().await.1.contains("redis: ")).await;
    world.adopt().await;
    assert_eq!(issuer.readiness().await.0, 503);
    kafka.restart().unwrap();
    until("the issuer is ready", async || issuer.readiness().await.0 == 200).await;
    until("coupons are given", async || issuer.issue("u1").await.status == StatusCode::OK).await;
    assert_eq!(world.users_in_kafka(1).await, HashSet::from(["u1".to_owned()]));
}

#[tokio::test]
async fn a_redis_that_dies_under_load_costs_nobody_a_coupon() {
    let redis = Redis::start().unwrap();
    let world = World::on(redis.url(), couponry_testbed::shared::kafka()).await.open(600).await;
    let issuer = world.ready_issuer(&["--outbox-takeover-seconds", "1"]).await;
    // New users go on asking until Redis has died, somebody felt it, and it is back.
    let (felt, back) = (Notify::new(), AtomicBool::new(false));
    let load = async {
        let mut answers = Vec::new();
        while answers.len() < 20 || !back.load(Ordering::Relaxed) {
            let first = u32::try_from(answers.len()).unwrap() * 40;
            let round = issuer.issue_all(first..first + 40).await;
            if round.iter().any(|answer| answer.status == StatusCode::SERVICE_UNAVAILABLE) {
                felt.notify_one();
            }
            answers.push(round);
        }
        answers
    };
    let (answers, ()) = tokio::join!(load, async {
        until("some coupons are given", async || {
            world.stock.observe(&world.event).await.is_ok_and(|o| o.is_some_and(|o| o.issued > 100))
        })
        .await;
        redis.kill9().unwrap();
        felt.notified().await;
        redis.restart().unwrap();
        world.adopt().await;
        back.store(true, Ordering::Relaxed);
    });
    let told: Vec<(usize, Answer)> = answers.into_iter().flatten().enumerate().collect();
    let unknown = told.iter().filter(|(_, a)| a.status == StatusCode::SERVICE_UNAVAILABLE).count();
    assert!(told.iter().all(|(_, a)| a.status == StatusCode::OK || a.status == StatusCode::SERVICE_UNAVAILABLE));

    // Everyone asks again: who was told of a coupon hears of the same one.
    let mut coupons = HashSet::new();
    for (user, first) in &told {
        let again = issuer.issue(&format!("user-{user}")).await;
        assert_eq!(again.status, StatusCode::OK);
        if first.succeeded() {
            assert_eq!((again.reason(), again.coupon()), ("DUPLICATE", first.coupon()), "user-{user}");
        }
        if again.succeeded() || again.reason() == "DUPLICATE" {
            assert!(coupons.insert(again.coupon().to_owned()), "a coupon in two hands");
        }
    }
    println!("{} asked, {unknown} outcomes unknown at first, {} coupons given", told.len(), coupons.len());
    assert_eq!(coupons.len(), 600);
    world.users_in_kafka(600).await;
    world.outbox_is_empty().await;
}

#[tokio::test]
async fn a_frozen_redis_gives_503_and_the_retry_tells_the_truth() {
    let redis = Redis::start().unwrap();
    let world = World::on(redis.url(), couponry_testbed::shared::kafka()).await.open(20).await;
    let issuer = world.ready_issuer(&["--outbox-takeover-seconds", "1"]).await;
    redis.pause().unwrap();
    let answers = issuer.issue_all(0..10).await;
    answers.iter().for_each(assert_unknown);
    redis.resume().unwrap();
    until("the issuer answers again", async || issuer.issue("user-0").await.status == StatusCode::OK).await;
    for i in 0..10 {
        let answer = issuer.issue(&format!("user-{i}")).await;
        assert!(answer.succeeded() || answer.reason() == "DUPLICATE", "{}", answer.json);
    }
    // Also the coupons of the call whose answer nobody heard.
    assert_eq!(world.users_in_kafka(10).await.len(), 10);
    world.outbox_is_empty().await;
    assert_eq!(world.stock.observe(&world.event).await.unwrap().unwrap().available, 10);
}

/// The operator is not here: nobody looks whether Redis has lost something.
#[tokio::test]
async fn after_a_restart_of_redis_everyone_hears_503_until_somebody_has_looked() {
    let redis = Redis::start().unwrap();
    let world = World::on(redis.url(), couponry_testbed::shared::kafka()).await.open(20).await;
    let issuer = world.ready_issuer(&[]).await;
    assert!(issuer.issue_all(0..5).await.iter().all(Answer::succeeded));
    world.outbox_is_empty().await;
    redis.kill9().unwrap();
    redis.restart().unwrap();
    until("the issuer has noticed", async || {
        let answer = issuer.issue("user-0").await;
        assert_unknown(&answer);
        answer.json["detail"].as_str().unwrap().contains("no coupon is given twice")
    })
    .await;
    for answer in issuer.issue_all(0..10).await {
        assert_unknown(&answer);
    }
    assert_unknown(&issuer.get("/coupons/summer").await);
    assert_unknown(&issuer.get("/coupons/summer/users/user-0").await);
    assert!(issuer.metrics().await.contains("couponry_issuer_requests_total{outcome=\"unverified\"}"));
    world.adopt().await;
    let again = issuer.issue_all(0..10).await;
    assert_eq!(again.iter().filter(|answer| answer.reason() == "DUPLICATE").count(), 5);
    assert_eq!(again.iter().filter(|answer| answer.succeeded()).count(), 5);
    assert_eq!(issuer.get("/coupons/summer/users/user-0").await.status, StatusCode::OK);
}

#[tokio::test]
async fn an_event_that_was_there_a_moment_ago_is_not_said_not_to_exist() {
    let redis = Redis::start().unwrap();
    let world = World::on(redis.url(), couponry_testbed::shared::kafka()).await.open(20).await;
    let issuer = world.ready_issuer(&[]).await;
    assert!(issuer.issue("user-0").await.succeeded());
    // Once it has swept, it knows all events.
    world.outbox_is_empty().await;
    let sweeper = format!("{}couponSweeper:{{summer}}", world.prefix);
    until("it has looked around", async || {
        couponry_testbed::redis::command(&redis.url(), &["EXISTS", &sweeper]).unwrap().contains(":1")
    })
    .await;
    couponry_testbed::redis::command(&redis.url(), &["FLUSHALL"]).unwrap();
    for _ in 0..3 {
        assert_unknown(&issuer.issue("user-0").await);
        assert_unknown(&issuer.get("/coupons/summer").await);
        assert_unknown(&issuer.get("/coupons/summer/users/user-0").await);
    }
    assert_eq!(issuer.get("/coupons/autumn").await.status, StatusCode::NOT_FOUND);
    let fresh = world.ready_issuer(&[]).await;
    assert_eq!(fresh.issue("user-0").await.status, StatusCode::NOT_FOUND, "nobody told it of the event");
}
