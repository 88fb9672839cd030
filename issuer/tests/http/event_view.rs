//! `GET /coupons/{eventId}`.

use std::time::{Duration, Instant};

use axum::http::{Request, StatusCode};
use couponry_domain::{Acknowledge, Gate, Window};
use couponry_testbed::{Redis, redis};
use futures::{StreamExt as _, stream};
use jiff::Timestamp;
use serde_json::json;

use crate::support::{Issuer, Response, World, until};

fn time(response: &Response, field: &str) -> i64 {
    response.json[field].as_str().unwrap().parse::<Timestamp>().unwrap().as_millisecond()
}

#[tokio::test]
async fn event_view_has_counts_times_and_the_clock_of_redis() {
    let world = World::shared().await.open(10).await;
    let issuer = world.ready_issuer(&[]).await;
    assert!(issuer.issue("u0").await.succeeded());
    let before = world.redis_store.observe(&world.event).await.unwrap().unwrap().now;
    let mut event = issuer.get("/coupons/summer").await;
    let after = world.redis_store.observe(&world.event).await.unwrap().unwrap().now;
    let server_time = time(&event, "serverTime");
    assert!((before..=after).contains(&server_time), "{before} {server_time} {after}");
    event.json["serverTime"] = json!(0);
    assert_eq!(
        event.json,
        json!({"eventId": "summer", "state": "OPEN", "startTime": null, "endTime": null, "total": 10, "remaining": 9,
               "soldOutAt": null, "nextDropAt": null, "serverTime": 0})
    );
    assert_eq!(event.headers["cache-control"], "public, max-age=1");

    assert!(issuer.issue_all(1..10).await.iter().all(Response::succeeded));
    let last = world.redis_store.observe(&world.event).await.unwrap().unwrap().sold_out_at.unwrap();
    until("the event is sold out", async || {
        event = issuer.get("/coupons/summer").await;
        event.json["state"] == "SOLD_OUT"
    })
    .await;
    assert_eq!((time(&event, "soldOutAt"), &event.json["remaining"]), (last, &json!(0)));
    assert_eq!(issuer.get("/coupons/autumn").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn event_view_is_not_returned_again_within_the_same_second() {
    let world = World::shared().await.open(10).await;
    let issuer = world.ready_issuer(&[]).await;
    let get = |etag: &str| issuer.send(Request::builder().header("If-None-Match", etag), "/coupons/summer", "");
    let second = |response: &Response| time(response, "serverTime").div_euclid(1000);
    until("two responses are of the same second", async || {
        let first = issuer.get("/coupons/summer").await;
        let again = get(first.headers["etag"].to_str().unwrap()).await;
        if again.status == StatusCode::OK {
            assert_ne!(second(&again), second(&first));
            return false;
        }
        assert_eq!((again.status, &again.headers["etag"]), (StatusCode::NOT_MODIFIED, &first.headers["etag"]));
        assert_eq!((&again.json, &again.headers["cache-control"]), (&json!(null), &first.headers["cache-control"]));
        true
    })
    .await;
    // A cache that keeps the body of an unchanged event must not keep its time.
    let first = issuer.get("/coupons/summer").await;
    let etag = first.headers["etag"].to_str().unwrap();
    until("a second has passed", async || {
        let again = get(etag).await;
        again.status == StatusCode::OK && second(&again) > second(&first)
    })
    .await;
}

/// Also in the time between two reads.
#[tokio::test]
async fn state_in_event_view_is_that_at_its_server_time() {
    let world = World::shared().await.open(10).await;
    let issuer = world.ready_issuer(&[]).await;
    let now = world.redis_store.observe(&world.event).await.unwrap().unwrap().now;
    let window = Window { start: Some(now + 1000), end: Some(now + 2000) };
    world.gate(Gate::Open, window, Acknowledge::Redis).await;
    until("the window of the event is over", async || {
        let event = issuer.get("/coupons/summer").await;
        if event.json["startTime"].is_null() {
            return false;
        }
        let time = time(&event, "serverTime");
        let expected = match () {
            () if time < now + 1000 => "NOT_STARTED",
            () if time < now + 2000 => "OPEN",
            () => "ENDED",
        };
        assert_eq!(event.json["state"], expected, "{}", event.json);
        expected == "ENDED"
    })
    .await;
}

/// How often Redis was asked for the state of an event, until now.
fn reads(redis: &Redis) -> u32 {
    let stats = redis::command(&redis.url(), &["INFO", "commandstats"]).unwrap();
    let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_hgetall:calls="));
    line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
}

#[tokio::test]
async fn redis_is_not_read_more_often_for_more_requests() {
    const INTERVAL: Duration = Duration::from_millis(250);
    let redis = Redis::start().unwrap();
    let world = World::on(redis.url(), couponry_testbed::shared::kafka()).await.open(10).await;
    let issuer = world.ready_issuer(&[]).await;
    let reads_for = async |requests: u32, path: &'static str, status: StatusCode| {
        let (before, start) = (reads(&redis), Instant::now());
        let request = async |issuer: &Issuer| assert_eq!(issuer.get(path).await.status, status);
        stream::iter(0..requests).for_each_concurrent(50, |_| request(&issuer)).await;
        let (read, elapsed) = (reads(&redis) - before, start.elapsed());
        println!("{requests} requests of {path} in {elapsed:?}: {read} reads");
        (read, 1 + u32::try_from(elapsed.as_millis() / INTERVAL.as_millis()).unwrap())
    };
    for requests in [10, 10_000] {
        let (read, limit) = reads_for(requests, "/coupons/summer", StatusCode::OK).await;
        assert!((1..=limit).contains(&read), "{requests} requests: {read} reads, at most {limit} expected");
    }
    // Of an unknown event, HGETALL returns nothing, and is counted all the same.
    let (read, limit) = reads_for(1000, "/coupons/autumn", StatusCode::NOT_FOUND).await;
    assert!((1..=limit).contains(&read), "unknown event: {read} reads, at most {limit} expected");
}
