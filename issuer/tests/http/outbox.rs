//! Every issued coupon reaches Kafka, also after a crash of its issuer.

use std::{
    collections::HashSet,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
};

use axum::http::StatusCode;
use couponry_domain::{Acknowledge, Gate, Window};
use couponry_redis::{IssueOutcome, IssuedEntry, IssuedStatus};
use couponry_testbed::{Kafka, Redis, redis::command};

use crate::support::{Response, World, until};

/// Kafka is paused, so that the records are only in the outbox when the issuer is killed.
#[tokio::test]
async fn outbox_of_killed_issuer_is_sent_by_another() {
    let kafka = Kafka::start().unwrap();
    let world = World::on(couponry_testbed::shared::redis(), kafka.brokers()).await.open(500).await;
    let victim = world.ready_issuer(&[]).await;
    assert!(victim.issue_all(0..100).await.iter().all(Response::succeeded));
    world.wait_until_outbox_is_empty().await;
    kafka.pause().unwrap();
    assert!(victim.issue_all(100..300).await.iter().all(Response::succeeded), "Kafka is not needed to issue");
    let unconfirmed = world.redis_store.observe(&world.event).await.unwrap().unwrap().outbox;
    assert!(unconfirmed > 0);
    victim.running.kill9().unwrap();
    kafka.resume().unwrap();

    let successor = world.ready_issuer(&["--outbox-takeover-seconds", "1"]).await;
    let in_kafka = world.users_in_kafka(300).await;
    assert_eq!(in_kafka, (0..300).map(|i| format!("user-{i}")).collect::<HashSet<_>>());
    world.wait_until_outbox_is_empty().await;
    println!("killed with {unconfirmed} batches in the outbox: 300 coupons issued before, 300 records in Kafka after");
    assert!(successor.metrics().await.lines().any(|line| {
        line.strip_prefix("couponry_issuer_outbox_taken_over_total ")
            .is_some_and(|count| count.parse::<u64>().unwrap() >= unconfirmed)
    }));
}

/// As the records of an issuer whose permission to write was removed.
#[tokio::test]
async fn issuer_whose_records_kafka_rejects_lets_another_send_them() {
    let world = World::shared().await.open(100).await;
    let takeover = ["--outbox-takeover-seconds", "1"];
    let rejected = world.ready_issuer(&takeover).await;
    let failpoint = ("FAILPOINTS".to_owned(), "kafka.rejected-records=return".to_owned());
    rejected.running.stop().unwrap();
    rejected.running.restart_with(&[failpoint]).unwrap();
    until("the issuer runs again", async || rejected.readiness().await.0 == 200).await;
    assert!(rejected.issue_all(0..20).await.iter().all(Response::succeeded));
    until("it has the lease", async || rejected.running.log().contains("sending unconfirmed outbox entries")).await;
    let unavailable = "couponry_issuer_dependency_available{dependency=\"kafka\"} 0";
    until("it reports Kafka", async || rejected.metrics().await.contains(unavailable)).await;

    let _other = world.ready_issuer(&takeover).await;
    assert_eq!(world.users_in_kafka(20).await.len(), 20);
    world.wait_until_outbox_is_empty().await;
}

#[tokio::test]
async fn graceful_shutdown_sends_all_records() {
    let world = World::shared().await.open(500).await;
    let issuer = world.ready_issuer(&[]).await;
    assert!(issuer.issue_all(0..500).await.iter().all(Response::succeeded));
    issuer.running.stop().unwrap();
    assert_eq!(world.redis_store.observe(&world.event).await.unwrap().unwrap().outbox, 0);
    assert_eq!(world.users_in_kafka(500).await.len(), 500);
}

/// `acknowledge: Kafka`: a coupon is returned only after the broker has confirmed its record.
#[tokio::test]
async fn issue_with_acknowledge_kafka_returns_503_until_confirmed() {
    let kafka = Kafka::start().unwrap();
    let world = World::on(couponry_testbed::shared::redis(), kafka.brokers()).await.open(100).await;
    world.gate(Gate::Open, Window::default(), Acknowledge::Kafka).await;
    let issuer = world.ready_issuer(&["--response-timeout-seconds", "1"]).await;
    // A broker that has just started may take longer than the response timeout.
    until("Kafka confirms", async || issuer.issue("early").await.status == StatusCode::OK).await;
    assert_eq!(world.users_in_kafka(1).await, HashSet::from(["early".to_owned()]));

    kafka.pause().unwrap();
    assert_eq!(issuer.issue("u1").await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(issuer.issue("u1").await.status, StatusCode::SERVICE_UNAVAILABLE, "issued, but not in Kafka yet");
    kafka.resume().unwrap();
    let mut coupon = String::new();
    until("Kafka has the record", async || {
        let response = issuer.issue("u1").await;
        if response.status != StatusCode::OK {
            return false;
        }
        assert_eq!(response.reason(), "DUPLICATE");
        response.coupon().clone_into(&mut coupon);
        true
    })
    .await;
    assert!(world.users_in_kafka(2).await.contains("u1"));
    world.wait_until_outbox_is_empty().await;
    assert_eq!(world.redis_store.observe(&world.event).await.unwrap().unwrap().available, 98, "one coupon per user");
}

/// A record that this issuer knows to be in Kafka is not sent again.
#[tokio::test]
async fn repeated_issue_sends_no_second_record() {
    let world = World::shared().await.open(100).await;
    world.gate(Gate::Open, Window::default(), Acknowledge::Kafka).await;
    let issuer = world.ready_issuer(&["--outbox-takeover-seconds", "3600"]).await;
    until("Kafka confirms", async || issuer.issue("u1").await.status == StatusCode::OK).await;
    let before = couponry_kafka::read_all(&world.kafka).await.unwrap().len();
    for _ in 0..5 {
        assert_eq!(issuer.issue("u1").await.reason(), "DUPLICATE");
        assert_eq!(issuer.get("/coupons/summer/users/u1").await.json["recorded"], false);
    }
    // Two concurrent requests of one user: one of them is a duplicate.
    let (one, other) = tokio::join!(issuer.issue("u2"), issuer.issue("u2"));
    assert!(one.succeeded() != other.succeeded(), "{} {}", one.json, other.json);
    assert_eq!(one.coupon(), other.coupon());
    assert!(world.users_in_kafka(2).await.contains("u2"));
    let after = couponry_kafka::read_all(&world.kafka).await.unwrap();
    assert_eq!(after.iter().filter(|message| message.key.as_deref() == Some(b"u1")).count(), before);
}

/// A lookup also waits for Kafka, even if the issuer of the coupon has crashed.
#[tokio::test]
async fn lookup_with_acknowledge_kafka_returns_503_until_confirmed() {
    let kafka = Kafka::start().unwrap();
    let world = World::on(couponry_testbed::shared::redis(), kafka.brokers()).await.open(100).await;
    world.gate(Gate::Open, Window::default(), Acknowledge::Kafka).await;
    // Without the sweeper, the lookup itself must send the record.
    let issuer = world.ready_issuer(&["--response-timeout-seconds", "1", "--outbox-takeover-seconds", "3600"]).await;
    kafka.pause().unwrap();
    world.redis_store.issue(&world.event, &["u1".parse().unwrap()]).await.unwrap().unwrap();
    let pending = issuer.get("/coupons/summer/users/u1").await;
    assert_eq!(pending.status, StatusCode::SERVICE_UNAVAILABLE, "{}", pending.json);
    assert!(pending.headers.contains_key("retry-after"));
    assert_eq!(issuer.get("/coupons/summer/users/u2").await.status, StatusCode::NOT_FOUND, "no record to wait for");
    kafka.resume().unwrap();
    until("the coupon is returned", async || issuer.get("/coupons/summer/users/u1").await.status == StatusCode::OK)
        .await;
    let messages = couponry_kafka::read_all(&world.kafka).await.unwrap();
    assert!(
        messages.iter().any(|message| message.key.as_deref() == Some(b"u1")),
        "returned before Kafka had the record"
    );
}

/// The takeover would delete the entry only after it was sent a second time.
#[tokio::test]
async fn failed_deletion_of_confirmed_entry_is_retried() {
    let server = Redis::start().unwrap();
    let world = World::on(server.url(), couponry_testbed::shared::kafka()).await.open(100).await;
    let issuer = world.ready_issuer(&["--outbox-takeover-seconds", "3600"]).await;
    command(&server.url(), &["ACL", "SETUSER", "default", "-xdel"]).unwrap();
    assert!(issuer.issue_all(0..20).await.iter().all(Response::succeeded));
    assert_eq!(world.users_in_kafka(20).await.len(), 20);
    until("a deletion fails", async || issuer.running.log().contains("cannot delete confirmed outbox entries")).await;
    assert_ne!(world.redis_store.observe(&world.event).await.unwrap().unwrap().outbox, 0);
    command(&server.url(), &["ACL", "SETUSER", "default", "+xdel"]).unwrap();
    world.wait_until_outbox_is_empty().await;
    assert!(issuer.metrics().await.contains("couponry_issuer_outbox_taken_over_total 0"));
}

/// A recovery waits for an empty outbox.
#[tokio::test]
async fn outbox_of_unverified_redis_is_sent_without_takeover_delay() {
    let server = Redis::start().unwrap();
    let world = World::on(server.url(), couponry_testbed::shared::kafka()).await.open(100).await;
    let issuer = world.ready_issuer(&["--outbox-takeover-seconds", "3600"]).await;
    let reply = world.redis_store.issue(&world.event, &["u1".parse().unwrap()]).await.unwrap().unwrap();
    server.kill9().unwrap();
    server.restart().unwrap();
    assert!(world.users_in_kafka(1).await.contains("u1"), "of a crashed issuer");
    until("the outbox is empty", async || {
        world.redis_store.observe(&world.event).await.is_ok_and(|observed| observed.unwrap().outbox == 0)
    })
    .await;
    let IssueOutcome::Issued(coupon) = reply.outcomes[0].clone() else { panic!("{reply:?}") };
    let entry = IssuedEntry { issued: coupon, status: IssuedStatus::Pending };
    world.redis_store.add_to_outbox(&world.event, world.uid, &[entry]).await.unwrap();
    world.wait_until_outbox_is_empty().await;
    assert_eq!(issuer.issue("u1").await.status, StatusCode::SERVICE_UNAVAILABLE, "Redis is not verified");
}

#[tokio::test]
async fn outbox_of_event_missing_in_set_of_events_is_sent() {
    let world = World::shared().await.open(100).await;
    let issuer = world.ready_issuer(&["--outbox-takeover-seconds", "1"]).await;
    assert!(issuer.issue("u1").await.succeeded());
    // As an issuer that crashes afterwards.
    world.redis_store.issue(&world.event, &["u2".parse().unwrap()]).await.unwrap().unwrap();
    for set in ["couponEvents", "couponActiveEvents"] {
        redis(&world, &format!("DEL {}{set}", world.prefix));
    }
    until("the event is listed", async || world.redis_store.events().await.unwrap().contains(&world.event)).await;
    assert!(world.users_in_kafka(2).await.contains("u2"));
    world.wait_until_outbox_is_empty().await;
}

#[tokio::test]
async fn undecodable_entry_fails_only_the_request_of_its_user() {
    let world = World::shared().await.open(100).await;
    let issuer = world.ready_issuer(&[]).await;
    redis(&world, &format!("HSET {}couponIssued:{{summer}} user-3 what", world.prefix));
    for (number, response) in issuer.issue_all(0..10).await.iter().enumerate() {
        assert_eq!(response.succeeded(), number != 3, "user-{number}: {}", response.json);
    }
    let bad = issuer.issue("user-3").await;
    assert_eq!(bad.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(bad.json["detail"].as_str().unwrap().contains("cannot be read"), "{}", bad.json);
    assert!(issuer.metrics().await.contains("couponry_issuer_requests_total{outcome=\"undecodable\"} 2"));
    assert_eq!(issuer.unavailable_responses().await, [("undecodable".to_owned(), 2)].into());
}

/// As on an unavailable node of a cluster.
#[tokio::test]
async fn shared_keys_that_return_errors_do_not_stop_the_sweeper() {
    let world = World::shared().await.open(100).await;
    world.redis_store.issue(&world.event, &["u1".parse().unwrap()]).await.unwrap().unwrap();
    for key in ["couponOutboxWalk", "couponActiveEvents"] {
        redis(&world, &format!("DEL {}{key}", world.prefix));
        redis(&world, &format!("LPUSH {}{key} what", world.prefix));
    }
    let _issuer = world.ready_issuer(&["--outbox-takeover-seconds", "1"]).await;
    assert!(world.users_in_kafka(1).await.contains("u1"));
    world.wait_until_outbox_is_empty().await;
}

/// Foreign data under the names of our keys delays no record.
#[tokio::test]
async fn undecodable_outbox_entries_do_not_block_the_sweeper() {
    let world = World::shared().await.open(100).await;
    let outbox = |event: &str| format!("{}couponOutbox:{{{event}}}", world.prefix);
    for i in 0..20 {
        let broken = format!("broken-{i}");
        redis(&world, &format!("SADD {}couponEvents {broken}", world.prefix));
        redis(&world, &format!("SET {} what", outbox(&broken)));
        world.redis_store.mark_active(&broken.parse().unwrap()).await;
    }
    // More than a page of undecodable entries.
    for _ in 0..120 {
        redis(&world, &format!("XADD {} * version 9", outbox("summer")));
    }
    let users: Vec<_> = (0..100).map(|i| format!("user-{i}").parse().unwrap()).collect();
    for users in users.chunks(10) {
        world.redis_store.issue(&world.event, users).await.unwrap().unwrap();
    }

    let issuer = world.ready_issuer(&["--outbox-takeover-seconds", "1"]).await;
    assert_eq!(world.users_in_kafka(100).await.len(), 100);
    until("only the undecodable entries are left", async || {
        world.redis_store.observe(&world.event).await.unwrap().unwrap().outbox == 120
    })
    .await;
    let log = issuer.running.log();
    assert!(log.contains("broken-0") && log.contains("cannot decode outbox entries"), "{log}");
}

/// A value of the queue that cannot be decoded is issued with others, by an issuer that crashes then.
#[tokio::test]
async fn undecodable_record_does_not_hold_back_the_others_of_its_entry() {
    let world = World::shared().await.open(100).await;
    redis(&world, &format!("LSET {}couponQueue:{{summer}} 3 what", world.prefix));
    let users: Vec<_> = (0..10).map(|i| format!("user-{i}").parse().unwrap()).collect();
    world.redis_store.issue(&world.event, &users).await.unwrap().unwrap();

    let issuer = world.ready_issuer(&["--outbox-takeover-seconds", "1"]).await;
    assert_eq!(world.users_in_kafka(9).await.len(), 9);
    until("the outbox is empty", async || world.redis_store.observe(&world.event).await.unwrap().unwrap().outbox == 0)
        .await;
    assert!(issuer.metrics().await.contains("couponry_issuer_undecodable_records_total 1"));
    assert!(issuer.running.log().contains("cannot decode records of an outbox entry"));
    assert_eq!(issuer.issue("user-3").await.status, StatusCode::SERVICE_UNAVAILABLE, "its value stays in couponIssued");
}

/// Sends a command to Redis as a foreign client.
fn redis(world: &World, command: &str) {
    let mut stream = TcpStream::connect(world.redis.trim_start_matches("redis://")).unwrap();
    write!(stream, "{command}\r\n").unwrap();
    let mut response = String::new();
    BufReader::new(stream).read_line(&mut response).unwrap();
    assert!(!response.starts_with('-'), "{command}: {response}");
}
