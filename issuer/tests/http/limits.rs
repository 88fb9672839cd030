//! How often a user, and an address, may ask.

use axum::{
    body::Body,
    http::{Request, StatusCode},
};
use couponry_testbed::Redis;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{Answer, Issuer, World, until};

/// A rate so low that nobody is let in again while the test runs.
const RARE: &str = "0.001";

fn assert_too_often(answer: &Answer) {
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS, "{}", answer.json);
    assert_eq!(answer.headers["content-type"], "application/problem+json");
    assert_eq!(answer.json["type"], "urn:couponry:problem:too-many-requests");
    let wait: u64 = answer.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=1000).contains(&wait), "{wait}");
}

async fn look(issuer: &Issuer, forwarded_for: &str) -> Answer {
    issuer.send(Request::get("/").header("X-Forwarded-For", forwarded_for), "/coupons/summer", Body::empty()).await
}

#[tokio::test]
async fn a_user_who_asks_too_often_waits_and_others_do_not() {
    let world = World::shared().await.open(10).await;
    let issuer = world.ready_issuer(&["--rate-limit-per-user", RARE, "--rate-limit-per-user-burst", "3"]).await;
    let first = issuer.issue("u1").await;
    assert!(first.succeeded());
    assert_eq!(issuer.issue("u1").await.reason(), "DUPLICATE");
    assert_eq!(issuer.get("/coupons/summer/users/u1").await.json["couponKey"], first.coupon());
    assert_too_often(&issuer.issue("u1").await);
    assert_too_often(&issuer.get("/coupons/summer/users/u1").await);
    assert!(issuer.issue("u2").await.succeeded());
    // That one is not a user's.
    for _ in 0..10 {
        assert_eq!(issuer.get("/coupons/summer").await.status, StatusCode::OK);
    }
    until("both are counted", async || {
        let metrics = issuer.metrics().await;
        metrics.contains(r#"couponry_issuer_rate_limited_total{by="user"} 2"#)
            && metrics.contains(r#"couponry_issuer_rate_limit_keys{by="user"} 2"#)
    })
    .await;
}

#[tokio::test]
async fn nobody_uses_up_the_limit_of_another() {
    let world = World::shared().await.open(10).await;
    let flags =
        ["--rate-limit-per-user", RARE, "--rate-limit-per-user-burst", "1", "--user-identity", "header:X-User-Id"];
    let issuer = world.ready_issuer(&flags).await;
    let ask = |user: &'static str, claimed: &'static str| {
        let request = Request::post("/").header("Content-Type", "application/json").header("X-User-Id", user);
        issuer.send(request, "/coupons/issue", format!(r#"{{"eventId":"summer","userId":"{claimed}"}}"#))
    };
    for _ in 0..3 {
        assert_eq!(ask("u1", "u2").await.status, StatusCode::BAD_REQUEST);
    }
    assert!(ask("u2", "u2").await.succeeded());
    assert_too_often(&ask("u2", "u2").await);
    assert!(ask("u1", "u1").await.succeeded());
}

/// What is answered with 429 has certainly not happened: the decision is made before Redis hears of it.
#[tokio::test]
async fn what_is_refused_never_reached_redis() {
    let redis = Redis::start().unwrap();
    let world = World::on(redis.url(), couponry_testbed::shared::kafka()).await.open(10).await;
    let flags = ["--rate-limit-per-user", RARE, "--rate-limit-per-user-burst", "2", "--answer-timeout-seconds", "1"];
    let issuer = world.ready_issuer(&flags).await;
    for _ in 0..2 {
        assert_eq!(issuer.get("/coupons/summer/users/u1").await.status, StatusCode::NOT_FOUND);
    }
    redis.pause().unwrap();
    assert_too_often(&issuer.issue("u1").await);
    assert_eq!(issuer.issue("u2").await.status, StatusCode::SERVICE_UNAVAILABLE, "only Redis knows");
    redis.resume().unwrap();
    until("Redis answers again", async || issuer.get("/coupons/summer").await.status == StatusCode::OK).await;
    let holders = world.stock.scan_issued(&world.event).await.unwrap();
    assert!(holders.keys().all(|user| user.as_str() != "u1"), "{holders:?}");
}

#[tokio::test]
async fn an_address_is_what_the_outermost_trusted_proxy_has_seen() {
    let world = World::shared().await.open(10).await;
    let flags = ["--rate-limit-per-address", RARE, "--rate-limit-per-address-burst", "5", "--trusted-proxies", "1"];
    let issuer = world.ready_issuer(&flags).await;
    // What a client writes itself stands further to the left, and helps it nothing.
    for turn in 0..5 {
        assert_eq!(look(&issuer, &format!("10.9.8.{turn}, 192.0.2.1")).await.status, StatusCode::OK, "{turn}");
    }
    for forged in ["10.9.8.7, 192.0.2.1", "192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2,192.0.2.1:5555"] {
        assert_too_often(&look(&issuer, forged).await);
    }
    // A customer of IPv6 has as many addresses as they like.
    for turn in 0..5 {
        assert_eq!(look(&issuer, &format!("2001:db8:1:2::{turn}")).await.status, StatusCode::OK, "{turn}");
    }
    assert_too_often(&look(&issuer, "2001:db8:1:2:ffff::1").await);
    assert_eq!(look(&issuer, "2001:db8:1:3::1").await.status, StatusCode::OK);
    // Past the proxies, and for any page.
    for path in ["/coupons/summer", "/coupons/winter", "/nothing", "/openapi.json", "/coupons/*"] {
        assert_ne!(issuer.get(path).await.status, StatusCode::TOO_MANY_REQUESTS, "{path}");
    }
    let refused = issuer.issue("u1").await;
    assert_too_often(&refused);
    assert!(refused.headers.contains_key("x-request-id"));
    assert_too_often(&look(&issuer, "unknown").await);
    assert!(issuer.metrics().await.contains(r#"couponry_issuer_rate_limited_total{by="address"} 7"#));
}

#[tokio::test]
async fn without_trusted_proxies_nobody_can_write_their_address() {
    let world = World::shared().await.open(10).await;
    let issuer = world.ready_issuer(&["--rate-limit-per-address", RARE, "--rate-limit-per-address-burst", "2"]).await;
    for turn in 0..2 {
        assert_eq!(look(&issuer, &format!("192.0.2.{turn}")).await.status, StatusCode::OK);
    }
    assert_too_often(&look(&issuer, "192.0.2.7").await);
    // Nobody waits for the body of a request that is refused anyway.
    let mut connection = TcpStream::connect(("127.0.0.1", issuer.listen)).await.unwrap();
    let head =
        "POST /coupons/issue HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9000\r\n\r\n";
    connection.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
}

#[tokio::test]
async fn rates_that_cannot_be_are_named() {
    let world = World::shared().await;
    for (flags, what) in [
        (["--rate-limit-per-user=-1"], "0, or 0.001 to 1000000"),
        (["--rate-limit-per-address=often"], "not a number"),
        (["--rate-limit-per-user-burst=0"], "0 is not in 1..=1000000"),
    ] {
        let issuer = world.issuer(&flags);
        until("the issuer says why not", async || issuer.running.log().contains(what)).await;
    }
}
