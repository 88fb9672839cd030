//! Outages of servers: an unknown outcome is a 503, never a rejection, and a retry returns the outcome.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicBool, Ordering},
};

use axum::http::StatusCode;
use couponry_domain::Uuid;
use couponry_kafka::{read_all, test_support::set_partitions};
use couponry_testbed::{CertificateAuthority, Kafka, Redis};
use tokio::{io::AsyncWriteExt as _, net::TcpStream, sync::Notify};

use crate::support::{Response, World, until};

fn assert_unknown(response: &Response) {
    assert_eq!(response.status, StatusCode::SERVICE_UNAVAILABLE, "{}", response.json);
    assert!(["1", "2", "3"].contains(&response.headers["retry-after"].to_str().unwrap()));
    assert!(response.json["retryAfterMs"].is_u64(), "{}", response.json);
    assert_eq!(response.headers["content-type"], "application/problem+json");
}

#[tokio::test]
async fn issuer_without_servers_at_startup_waits_for_redis_only() {
    let (redis, kafka) = (Redis::start().unwrap(), Kafka::start().unwrap());
    let world = World::on(redis.url(), kafka.brokers()).await.open(10).await;
    redis.kill9().unwrap();
    kafka.kill9().unwrap();
    let issuer = world.issuer(&[]);
    let address = redis.url().trim_start_matches("redis://").trim_end_matches('/').to_owned();
    until("the missing server is reported", async || {
        let (status, text) = issuer.readiness().await;
        status == 503 && text.contains(&format!("redis: cannot reach Redis at {address}: "))
    })
    .await;
    assert_unknown(&issuer.issue("u1").await);
    assert_unknown(&issuer.get("/coupons/summer").await);
    redis.restart().unwrap();
    world.mark_verified().await;
    until("the issuer is ready", async || issuer.readiness().await.0 == 200).await;
    until("coupons are issued", async || issuer.issue("u1").await.status == StatusCode::OK).await;
    assert_eq!(world.redis_store.observe(&world.event).await.unwrap().unwrap().outbox, 1);
    kafka.restart().unwrap();
    assert_eq!(world.users_in_kafka(1).await, HashSet::from(["u1".to_owned()]));
    world.wait_until_outbox_is_empty().await;
}

#[tokio::test]
async fn issuer_whose_request_threads_are_blocked_is_not_ready() {
    let world = World::shared().await.open(10).await;
    let issuer = world.ready_issuer(&[]).await;
    issuer.running.stop().unwrap();
    issuer.running.restart_with(&[("FAILPOINTS".to_owned(), "issuer.block-thread=1*return".to_owned())]).unwrap();
    until("the issuer is ready", async || issuer.readiness().await.0 == 200).await;
    let blocked = issuer.issue("u1");
    tokio::pin!(blocked);
    let reported = until("the issuer is not ready", async || {
        let (status, text) = issuer.readiness().await;
        status == 503 && text.contains("request threads: no thread that serves requests begins a task")
    });
    tokio::select! {
        () = reported => {}
        response = &mut blocked => panic!("the thread was not blocked: {}", response.json),
    }
    assert_eq!(blocked.await.status, StatusCode::OK);
    until("the issuer is ready again", async || issuer.readiness().await.0 == 200).await;
}

#[tokio::test]
async fn issuer_whose_request_threads_stay_blocked_ends() {
    let world = World::shared().await.open(10).await;
    let issuer = world.ready_issuer(&[]).await;
    issuer.running.stop().unwrap();
    issuer.running.restart_with(&[("FAILPOINTS".to_owned(), "issuer.block-thread=return".to_owned())]).unwrap();
    until("the issuer is ready", async || issuer.readiness().await.0 == 200).await;
    let body = r#"{"userId":"u1","eventId":"summer"}"#;
    let head = "POST /coupons/issue HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length:";
    let mut clients = Vec::new();
    // Each request blocks the thread for 30 seconds.
    for _ in 0..5 {
        let mut client = TcpStream::connect(("127.0.0.1", issuer.listen)).await.unwrap();
        client.write_all(format!("{head} {}\r\n\r\n{body}", body.len()).as_bytes()).await.unwrap();
        clients.push(client);
    }
    until("the issuer has ended", async || {
        issuer.running.log().contains("Error: the threads that serve requests are blocked")
    })
    .await;
}

/// If all issuers became not ready at once, users would receive an error of the proxy.
#[tokio::test]
async fn issuer_that_has_reached_redis_stays_ready_during_an_outage() {
    let redis = Redis::start().unwrap();
    let world = World::on(redis.url(), couponry_testbed::shared::kafka()).await.open(10).await;
    let issuer = world.ready_issuer(&[]).await;
    let available = async |value: u32| {
        let line = format!("couponry_issuer_dependency_available{{dependency=\"redis\"}} {value}\n");
        issuer.metrics().await.contains(&line)
    };
    assert!(available(1).await);
    redis.pause().unwrap();
    until("the outage is reported", async || {
        let (status, text) = issuer.readiness().await;
        assert_eq!(status, 200, "{text}");
        text.starts_with("ok\nredis: cannot reach Redis")
    })
    .await;
    assert!(available(0).await);
    assert!(issuer.running.log().contains("dependency is not available"));
    assert_unknown(&issuer.issue("u1").await);
    assert_unknown(&issuer.get("/coupons/summer").await);
    let new = world.issuer(&[]);
    until("a new issuer is not ready", async || {
        let (status, text) = new.readiness().await;
        assert_ne!(status, 200, "{text}");
        text.contains("redis: cannot reach Redis")
    })
    .await;
    redis.resume().unwrap();
    until("both issuers have reached Redis", async || {
        issuer.readiness().await == (200, "ok\n".to_owned()) && new.readiness().await == (200, "ok\n".to_owned())
    })
    .await;
    assert!(available(1).await);
    until("coupons are issued", async || issuer.issue("u1").await.status == StatusCode::OK).await;
}

#[tokio::test]
async fn issuer_rejected_by_kafka_is_not_ready() {
    let authority = CertificateAuthority::new().unwrap();
    let kafka = Kafka::start_secure(&authority, "couponry", "s3cret").unwrap();
    let mut world = World::on(couponry_testbed::shared::redis(), kafka.plaintext()).await;
    // Without the flags for TLS and SASL.
    world.kafka.brokers = kafka.login();
    let issuer = world.issuer(&[]);
    until("only Kafka is missing", async || {
        let (status, text) = issuer.readiness().await;
        status == 503 && text.starts_with("kafka: cannot reach Kafka: ") && text.contains("--kafka-security-protocol")
    })
    .await;
}

#[tokio::test]
async fn running_issuer_uses_added_partitions() {
    let world = World::shared().await.open(1000).await;
    let issuer = world.ready_issuer(&[]).await;
    assert!(issuer.issue("user-0").await.succeeded());
    set_partitions(&world.kafka, 6).await.unwrap();
    let mut users = 1..;
    until("a record is in a new partition", async || {
        assert!(issuer.issue(&format!("user-{}", users.next().unwrap())).await.succeeded());
        read_all(&world.kafka).await.unwrap().iter().any(|message| message.partition >= 3)
    })
    .await;
}

#[tokio::test]
async fn redis_crash_under_load_loses_no_coupon() {
    let redis = Redis::start().unwrap();
    let world = World::on(redis.url(), couponry_testbed::shared::kafka()).await.open(600).await;
    let issuer = world.ready_issuer(&["--outbox-takeover-seconds", "1"]).await;
    // New users send requests until Redis has crashed, a request has failed, and Redis is available again.
    let (failed, recovered) = (Notify::new(), AtomicBool::new(false));
    let load = async {
        let mut responses = Vec::new();
        while responses.len() < 20 || !recovered.load(Ordering::Relaxed) {
            let first = u32::try_from(responses.len()).unwrap() * 40;
            let round = issuer.issue_all(first..first + 40).await;
            if round.iter().any(|response| response.status == StatusCode::SERVICE_UNAVAILABLE) {
                failed.notify_one();
            }
            responses.push(round);
        }
        responses
    };
    let (responses, ()) = tokio::join!(load, async {
        until("some coupons are issued", async || {
            world.redis_store.observe(&world.event).await.is_ok_and(|o| o.is_some_and(|o| o.issued > 100))
        })
        .await;
        redis.kill9().unwrap();
        failed.notified().await;
        redis.restart().unwrap();
        world.mark_verified().await;
        recovered.store(true, Ordering::Relaxed);
    });
    let responses: Vec<(usize, Response)> = responses.into_iter().flatten().enumerate().collect();
    let unknown = responses.iter().filter(|(_, r)| r.status == StatusCode::SERVICE_UNAVAILABLE).count();
    assert!(responses.iter().all(|(_, r)| r.status == StatusCode::OK || r.status == StatusCode::SERVICE_UNAVAILABLE));

    // Every user retries: a coupon that was returned once is returned again.
    let mut coupons = HashSet::new();
    for (user, first) in &responses {
        let again = issuer.issue(&format!("user-{user}")).await;
        assert_eq!(again.status, StatusCode::OK);
        if first.succeeded() {
            assert_eq!((again.reason(), again.coupon()), ("DUPLICATE", first.coupon()), "user-{user}");
        }
        if again.succeeded() || again.reason() == "DUPLICATE" {
            assert!(coupons.insert(again.coupon().to_owned()), "a coupon was issued twice");
        }
    }
    println!("{} requests, {unknown} unknown outcomes at first, {} coupons issued", responses.len(), coupons.len());
    assert_eq!(coupons.len(), 600);
    world.users_in_kafka(600).await;
    world.wait_until_outbox_is_empty().await;
}

#[tokio::test]
async fn paused_redis_returns_503_and_the_retry_returns_the_outcome() {
    let redis = Redis::start().unwrap();
    let world = World::on(redis.url(), couponry_testbed::shared::kafka()).await.open(20).await;
    let issuer = world.ready_issuer(&["--outbox-takeover-seconds", "1"]).await;
    redis.pause().unwrap();
    let responses = issuer.issue_all(0..10).await;
    responses.iter().for_each(assert_unknown);
    assert_eq!(issuer.unavailable_responses().await, [("unknown_outcome".to_owned(), 10)].into());
    redis.resume().unwrap();
    until("the issuer responds again", async || issuer.issue("user-0").await.status == StatusCode::OK).await;
    for i in 0..10 {
        let response = issuer.issue(&format!("user-{i}")).await;
        assert!(response.succeeded() || response.reason() == "DUPLICATE", "{}", response.json);
    }
    // Including the coupons of the call whose reply was lost.
    assert_eq!(world.users_in_kafka(10).await.len(), 10);
    world.wait_until_outbox_is_empty().await;
    assert_eq!(world.redis_store.observe(&world.event).await.unwrap().unwrap().available, 10);
}

#[tokio::test]
async fn requests_beyond_the_queue_return_503_and_are_counted() {
    let redis = Redis::start().unwrap();
    let world = World::on(redis.url(), couponry_testbed::shared::kafka()).await.open(100).await;
    let issuer = world.ready_issuer(&["--max-queued-requests", "1"]).await;
    redis.pause().unwrap();
    let responses = issuer.issue_all(0..20).await;
    responses.iter().for_each(assert_unknown);
    let overloaded = responses.iter().filter(|response| response.json["detail"].as_str().unwrap().contains("Too many"));
    let overloaded = overloaded.count() as u64;
    assert!(overloaded > 10, "{overloaded}");
    redis.resume().unwrap();
    let counted = issuer.unavailable_responses().await;
    assert_eq!((counted["overloaded"], counted["unknown_outcome"]), (overloaded, 20 - overloaded));
}

/// Without an operator, Redis is not verified after a restart.
#[tokio::test]
async fn issue_after_redis_restart_returns_503_until_verified() {
    let redis = Redis::start().unwrap();
    let world = World::on(redis.url(), couponry_testbed::shared::kafka()).await.open(20).await;
    let issuer = world.ready_issuer(&[]).await;
    assert!(issuer.issue_all(0..5).await.iter().all(Response::succeeded));
    world.wait_until_outbox_is_empty().await;
    redis.kill9().unwrap();
    redis.restart().unwrap();
    until("the issuer has noticed the restart", async || {
        let response = issuer.issue("user-0").await;
        assert_unknown(&response);
        response.json["detail"].as_str().unwrap().contains("while Redis is verified")
    })
    .await;
    for response in issuer.issue_all(0..10).await {
        assert_unknown(&response);
    }
    assert_unknown(&issuer.get("/coupons/summer").await);
    assert_unknown(&issuer.get("/coupons/summer/users/user-0").await);
    assert!(issuer.metrics().await.contains("couponry_issuer_requests_total{outcome=\"unverified\"}"));
    assert!(issuer.unavailable_responses().await["unverified"] > 10);
    world.mark_verified().await;
    let again = issuer.issue_all(0..10).await;
    assert_eq!(again.iter().filter(|response| response.reason() == "DUPLICATE").count(), 5);
    assert_eq!(again.iter().filter(|response| response.succeeded()).count(), 5);
    assert_eq!(issuer.get("/coupons/summer/users/user-0").await.status, StatusCode::OK);
}

#[tokio::test]
async fn event_missing_in_wiped_redis_returns_503_instead_of_404() {
    let redis = Redis::start().unwrap();
    let world = World::on(redis.url(), couponry_testbed::shared::kafka()).await.open(20).await;
    let issuer = world.ready_issuer(&[]).await;
    assert!(issuer.issue("user-0").await.succeeded());
    // The sweeper records all events.
    world.wait_until_outbox_is_empty().await;
    let sweeper = format!("{}couponSweeper:{{summer}}", world.prefix);
    until("the sweeper has run", async || {
        couponry_testbed::redis::command(&redis.url(), &["EXISTS", &sweeper]).unwrap().contains(":1")
    })
    .await;
    couponry_testbed::redis::command(&redis.url(), &["FLUSHALL"]).unwrap();
    for _ in 0..3 {
        assert_unknown(&issuer.issue("user-0").await);
        assert_unknown(&issuer.get("/coupons/summer").await);
        assert_unknown(&issuer.get("/coupons/summer/users/user-0").await);
    }
    // A Redis without any event may have lost all of them, also those that an issuer has never seen.
    until("the issuer has noticed that no event is left", async || {
        issuer.get("/coupons/autumn").await.status == StatusCode::SERVICE_UNAVAILABLE
    })
    .await;
    let new = world.ready_issuer(&[]).await;
    for path in ["/coupons/summer", "/coupons/autumn", "/coupons/summer/users/user-0"] {
        assert_unknown(&new.get(path).await);
    }
    assert_unknown(&new.issue("user-0").await);

    // Another event is restored first. An issuer that has listed the events by then does not know of those that are
    // still missing.
    drop(new);
    issuer.running.kill9().unwrap();
    let spring = "spring".parse().unwrap();
    world.redis_store.prepare(&spring, Uuid::new_v4(), 0).await.unwrap();
    world.redis_store.mark_active(&spring).await;
    let new = world.ready_issuer(&[]).await;
    let sweeper = format!("{}couponSweeper:{{spring}}", world.prefix);
    until("the new issuer has listed the events", async || {
        couponry_testbed::redis::command(&redis.url(), &["EXISTS", &sweeper]).unwrap().contains(":1")
    })
    .await;
    for path in ["/coupons/summer", "/coupons/autumn", "/coupons/summer/users/user-0"] {
        assert_unknown(&new.get(path).await);
    }
    assert_unknown(&new.issue("user-0").await);
    let world = world.open(20).await;
    until("the issuers know the event again", async || {
        let (known, unknown) = (new.issue("user-0").await, new.get("/coupons/autumn").await);
        known.status == StatusCode::OK && unknown.status == StatusCode::NOT_FOUND
    })
    .await;
    world.wait_until_outbox_is_empty().await;
}
