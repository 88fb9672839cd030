//! Outages of Postgres and crashes of redeemers: an unknown outcome is a 503, and a retry returns the outcome.

use std::sync::Arc;

use axum::http::StatusCode;
use couponry_testbed::{Postgres, shared};
use futures::future::join_all;

use crate::support::{Redeemer, World, body, until};

/// The number of successful responses. None: the metrics are not available.
async fn successes(server: &Redeemer, operation: &str) -> Option<u64> {
    let line = format!(r#"couponry_redeemer_responses_total{{operation="{operation}",code="200"}} "#);
    server.metrics().await.lines().find_map(|found| found.strip_prefix(&line)?.parse().ok())
}

#[tokio::test]
async fn redeemer_without_postgres_at_startup_waits_for_it() {
    let postgres = Postgres::start().unwrap();
    let world = World::on(&postgres.url(), &shared::redis(), 10).await;
    let coupon = world.issue_and_record("u1").await;
    postgres.kill9().unwrap();
    let server = world.redeemer(&["--response-timeout-seconds", "2"]);
    until("the missing server is reported", async || {
        let (status, text) = server.readiness().await;
        status == 503 && text.contains("postgres: ")
    })
    .await;
    server.post("redeem", "1", &body(&coupon, "u1", "order-1")).await.assert_unavailable();
    postgres.restart().unwrap();
    server.wait_until_ready().await;
    assert_eq!(server.post("redeem", "1", &body(&coupon, "u1", "order-1")).await.state(), "REDEEMED");
}

#[tokio::test]
async fn retries_after_crashes_of_postgres_return_one_outcome_per_request() {
    let postgres = Postgres::start().unwrap();
    let world = World::on(&postgres.url(), &shared::redis(), 100).await;
    let server = world.redeemer(&["--response-timeout-seconds", "2"]);
    server.wait_until_ready().await;
    let mut coupons = Vec::new();
    for i in 0..100 {
        coupons.push(world.issue_and_record(&format!("u{i}")).await);
    }
    // Two orders compete for each coupon.
    let send = async |i: usize, order: usize| {
        let body = body(&coupons[i], &format!("u{i}"), &format!("order-{order}"));
        server.post("redeem", &format!("{i}-{order}"), &body).await
    };
    let all = || join_all((0..200).map(|n| send(n / 2, n % 2)));
    let crash = async {
        until("some coupons are redeemed", async || successes(&server, "redeem").await > Some(0)).await;
        postgres.kill9().unwrap();
    };
    let (first, ()) = tokio::join!(all(), crash);
    postgres.restart().unwrap();
    until("the redeemer responds again", async || send(0, 0).await.status != StatusCode::SERVICE_UNAVAILABLE).await;
    // A request can wait for longer than its timeout.
    let send_until_decided = async |i: usize, order: usize| loop {
        let response = send(i, order).await;
        if response.status != StatusCode::SERVICE_UNAVAILABLE {
            return response;
        }
    };
    let second = join_all((0..200).map(|n| send_until_decided(n / 2, n % 2))).await;
    for i in 0..100 {
        let outcomes: Vec<_> = [2 * i, 2 * i + 1].into_iter().map(|n| (&first[n], &second[n])).collect();
        assert_eq!(outcomes.iter().filter(|(_, retry)| retry.state() == "REDEEMED").count(), 1, "{outcomes:?}");
        for (first, retry) in outcomes {
            if first.status == StatusCode::OK {
                assert_eq!(first.json, retry.json, "a confirmed redemption was lost");
            } else if first.status == StatusCode::SERVICE_UNAVAILABLE {
                first.assert_unavailable();
            } else {
                assert_eq!((first.problem(), retry.problem()), ("coupon-redeemed", "coupon-redeemed"));
            }
        }
    }
    let unknown = first.iter().filter(|response| response.status == StatusCode::SERVICE_UNAVAILABLE).count();
    println!("{unknown} of 200 outcomes were unknown at first");
}

#[tokio::test]
async fn redeemer_with_a_read_only_postgres_is_not_ready() {
    let world = World::open(10).await;
    let database = world.postgres.rsplit('/').next().unwrap();
    let set = |value: &str| format!("ALTER DATABASE {database} SET default_transaction_read_only = {value}");
    world.sql(&set("on"));
    let server = world.redeemer(&[]);
    until("the read-only server is reported", async || {
        let (status, text) = server.readiness().await;
        status == 503 && text.contains("postgres: Postgres is read-only")
    })
    .await;
}

/// The redeemer is killed before and after the change is committed.
#[tokio::test]
async fn retry_after_a_crash_of_the_redeemer_returns_the_outcome() {
    let world = World::open(10).await;
    for (user, failpoint, committed) in
        [("u1", "database.before-coupon-use", 0), ("u2", "database.after-coupon-use", 1)]
    {
        let coupon = world.issue_and_record(user).await;
        let server = world.ready_redeemer().await;
        server.running.kill9().unwrap();
        server.running.restart_with(&[("FAILPOINTS".to_owned(), format!("{failpoint}=return"))]).unwrap();
        server.wait_until_ready().await;
        let order = body(&coupon, user, "order-1");
        let lost = server.send(server.request("redeem", Some(user), &order)).await;
        assert!(lost.is_err(), "{lost:?}");
        server.running.process().wait().unwrap();
        let history = world.database.coupon_history(world.uid, &coupon).await.unwrap();
        assert_eq!(history.len(), committed);
        server.running.restart().unwrap();
        server.wait_until_ready().await;
        assert_eq!(server.post("redeem", user, &order).await.state(), "REDEEMED");
        assert_eq!(server.coupon(&coupon).await.json["history"].as_array().unwrap().len(), 1);
    }
}

/// No change is committed without a response.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redeemer_that_shuts_down_responds_to_every_request_that_it_has_executed() {
    let world = World::open(10).await;
    let server = Arc::new(world.ready_redeemer().await);
    let mut clients = Vec::new();
    for i in 0..8 {
        let (user, server) = (format!("u{i}"), server.clone());
        let coupon = world.issue_and_record(&user).await;
        clients.push(tokio::spawn(async move {
            let order = body(&coupon, &user, "order-1");
            let mut reserved = 0;
            loop {
                let key = format!("{user}-{reserved}");
                let Ok(response) = server.send(server.request("reserve", Some(&key), &order)).await else { break };
                assert_eq!(response.state(), "RESERVED", "{response:?}");
                reserved += 1;
            }
            (coupon, reserved)
        }));
    }
    until("coupons are reserved", async || successes(&server, "reserve").await > Some(0)).await;
    tokio::task::block_in_place(|| server.running.stop()).unwrap();
    for client in clients {
        let (coupon, reserved) = client.await.unwrap();
        let history = world.database.coupon_history(world.uid, &coupon).await.unwrap();
        // At most the last entries are read.
        assert_eq!(history.last().map_or(0, |(entry, _)| entry.seq), reserved);
    }
}
