//! A redeemer whose clock is wrong: Postgres decides about times.

use axum::http::StatusCode;
use couponry_domain::CouponTerms;
use couponry_testbed::programs;
use serde_json::{Value, json};

use crate::support::{Redeemer, World, body, until};

const HOUR: i64 = 3_600_000;

/// Starts a redeemer whose clock is moved, such as by `+1h`. It does not reach Kafka, because libfaketime changes the
/// timeouts of its client; redemptions do not need it.
async fn redeemer_with_clock(world: &World, moved: &str) -> Redeemer {
    let library = programs::faketime().expect("libfaketime is installed").to_string_lossy().into_owned();
    let env = [("LD_PRELOAD", &*library), ("FAKETIME", moved), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")];
    let redeemer = world.redeemer_with(&["--auth", "none"], &env);
    until("the redeemer has reached Postgres and Redis", async || {
        let (status, text) = redeemer.readiness().await;
        status > 0 && !text.contains("postgres: ") && !text.contains("redis: ")
    })
    .await;
    redeemer
}

/// The clock of the redeemer, from a response.
async fn clock_of(redeemer: &Redeemer) -> i64 {
    let date = redeemer.get("/openapi.json").await.headers["date"].to_str().unwrap().to_owned();
    jiff::fmt::rfc2822::parse(&date).unwrap().timestamp().as_millisecond()
}

fn millis(time: &Value) -> i64 {
    time.as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_millisecond()
}

#[tokio::test]
async fn redeemer_with_moved_clock_decides_by_the_clock_of_postgres() {
    // The validity ends between the real time and that of a redeemer.
    let validity = format!("{} UTC", jiff::Timestamp::now() + jiff::SignedDuration::from_mins(30));
    let terms = CouponTerms { validity: Some(validity.parse().unwrap()), ..CouponTerms::default() };
    let world = World::open_with(10, terms).await;
    let ahead = redeemer_with_clock(&world, "+1h").await;
    let behind = redeemer_with_clock(&world, "-1h").await;
    let now = jiff::Timestamp::now().as_millisecond();
    let moved = [clock_of(&ahead).await - now, clock_of(&behind).await - now];
    assert!(moved[0] > HOUR / 2 && moved[1] < -HOUR / 2, "the clocks are moved by {moved:?} ms");

    for (number, (first, second)) in [(&ahead, &behind), (&behind, &ahead)].into_iter().enumerate() {
        let user = format!("u{number}");
        // Recorded by the redeemer, as are the other times.
        let coupon = world.issue(&user).await.issued.coupon;
        let mut order = body(&coupon, &user, "order-1");
        order["ttlSeconds"] = json!(600);
        let reserved = first.post("reserve", &format!("{user}-1"), &order).await;
        assert_eq!(reserved.status, StatusCode::OK, "{reserved:?}");
        let (at, reserved_until) = (millis(&reserved.json["changedAt"]), millis(&reserved.json["reservedUntil"]));
        assert_eq!(reserved_until - at, 600_000);
        assert!((at - now).abs() < HOUR / 2, "changed at {at}, but it is {now}");
        // The reservation has not expired for the other redeemer.
        let other = second.post("redeem", &format!("{user}-2"), &body(&coupon, &user, "order-2")).await;
        assert_eq!(other.problem(), "coupon-reserved", "{other:?}");
        assert_eq!(second.coupon(&coupon).await.state(), "RESERVED");
        let redeemed = second.post("redeem", &format!("{user}-3"), &order).await;
        assert_eq!(redeemed.state(), "REDEEMED", "{redeemed:?}");
    }

    // A reservation that has expired is free for both.
    let coupon = world.issue_and_record("u2").await;
    let mut order = body(&coupon, "u2", "order-1");
    order["ttlSeconds"] = json!(1);
    assert_eq!(behind.post("reserve", "u2-1", &order).await.state(), "RESERVED");
    until("the reservation has expired", async || behind.coupon(&coupon).await.state() == "ISSUED").await;
    assert_eq!(behind.post("redeem", "u2-2", &body(&coupon, "u2", "order-2")).await.state(), "REDEEMED");
}
