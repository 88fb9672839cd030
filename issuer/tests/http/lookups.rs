//! `GET /coupons/{eventId}/users/{userId}` of many users at once.

use std::time::Duration;

use axum::http::StatusCode;
use couponry_testbed::{Redis, redis};
use futures::future;

use crate::support::World;

#[tokio::test]
async fn entry_that_cannot_be_read_does_not_affect_other_users() {
    let world = World::shared().await.open(100).await;
    let issuer = world.ready_issuer(&[]).await;
    issuer.issue_all(0..50).await;
    let key = format!("{}couponIssued:{{summer}}", world.prefix);
    redis::command(&world.redis, &["HSET", &key, "user-7", "garbage"]).unwrap();
    let issuer = &issuer;
    let lookup = async |i: u32| issuer.get(&format!("/coupons/summer/users/user-{i}")).await;
    let responses = future::join_all((0..100).map(lookup)).await;
    for (i, response) in responses.iter().enumerate() {
        let expected = match i {
            7 => StatusCode::SERVICE_UNAVAILABLE,
            0..50 => StatusCode::OK,
            _ => StatusCode::NOT_FOUND,
        };
        assert_eq!(response.status, expected, "user-{i}: {}", response.json);
        if expected == StatusCode::OK {
            assert_eq!(response.json["userId"], format!("user-{i}"));
            assert_eq!(response.headers["cache-control"], "private, no-store");
        }
    }
}

/// How often scripts have called this command, until now.
fn calls(redis: &Redis, command: &str) -> u32 {
    let stats = redis::command(&redis.url(), &["INFO", "commandstats"]).unwrap();
    let prefix = format!("cmdstat_{command}:calls=");
    let line = stats.lines().find_map(|line| line.strip_prefix(&prefix));
    line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
}

#[tokio::test]
async fn requests_that_wait_for_redis_share_one_call() {
    const REQUESTS: u32 = 500;
    let redis = Redis::start().unwrap();
    let world = World::on(redis.url(), couponry_testbed::shared::kafka()).await.open(10).await;
    let issuer = world.ready_issuer(&[]).await;
    assert_eq!(issuer.get("/coupons/summer/users/user-0").await.status, StatusCode::NOT_FOUND);
    // A lookup calls it twice: for the event, and for the users.
    let before = calls(&redis, "hmget");
    redis.pause().unwrap();
    let issuer = &issuer;
    let lookup = async |i: u32| issuer.get(&format!("/coupons/summer/users/user-{i}")).await;
    let (responses, ()) = tokio::join!(future::join_all((0..REQUESTS).map(lookup)), async {
        // The first request waits for Redis, and the others for the first one.
        tokio::time::sleep(Duration::from_millis(500)).await;
        redis.resume().unwrap();
    });
    assert!(responses.iter().all(|response| response.status == StatusCode::NOT_FOUND));
    let calls = calls(&redis, "hmget") - before;
    assert!(calls < REQUESTS / 2, "{calls} calls for {REQUESTS} requests");
}
