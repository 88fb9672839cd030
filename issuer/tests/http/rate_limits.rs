//! Rate limits per user and per address.

use axum::{
    body::Body,
    http::{Request, StatusCode},
};
use couponry_testbed::Redis;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{Issuer, Response, World, until};

/// A rate so low that no key is replenished during a test.
const LOW_RATE: &str = "0.001";

fn assert_rate_limited(response: &Response) {
    assert_eq!(response.status, StatusCode::TOO_MANY_REQUESTS, "{}", response.json);
    assert_eq!(response.headers["content-type"], "application/problem+json");
    assert_eq!(response.json["type"], "https://couponry.dev/problems/too-many-requests");
    let wait: u64 = response.headers["retry-after"].to_str().unwrap().parse().unwrap();
    let millis = response.json["retryAfterMs"].as_u64().unwrap();
    assert!((1..=1005).contains(&wait) && wait == millis.div_ceil(1000), "{wait} {millis}");
}

async fn get_event(issuer: &Issuer, forwarded_for: &str) -> Response {
    issuer.send(Request::get("/").header("X-Forwarded-For", forwarded_for), "/coupons/summer", Body::empty()).await
}

#[tokio::test]
async fn user_above_the_limit_gets_429_and_others_do_not() {
    let world = World::shared().await.open(10).await;
    let issuer = world.ready_issuer(&["--rate-limit-per-user", LOW_RATE, "--rate-limit-per-user-burst", "3"]).await;
    let first = issuer.issue("u1").await;
    assert!(first.succeeded());
    assert_eq!(issuer.issue("u1").await.reason(), "DUPLICATE");
    assert_eq!(issuer.get("/coupons/summer/users/u1").await.json["couponKey"], first.coupon());
    assert_rate_limited(&issuer.issue("u1").await);
    assert_rate_limited(&issuer.get("/coupons/summer/users/u1").await);
    assert!(issuer.issue("u2").await.succeeded());
    // Requests without a user are not limited.
    for _ in 0..10 {
        assert_eq!(issuer.get("/coupons/summer").await.status, StatusCode::OK);
    }
    until("both users are counted", async || {
        let metrics = issuer.metrics().await;
        metrics.contains(r#"couponry_issuer_rate_limited_total{by="user"} 2"#)
            && metrics.contains(r#"couponry_issuer_rate_limit_keys{by="user"} 2"#)
    })
    .await;
}

#[tokio::test]
async fn rejected_user_does_not_consume_the_limit_of_another() {
    let world = World::shared().await.open(10).await;
    let flags =
        ["--rate-limit-per-user", LOW_RATE, "--rate-limit-per-user-burst", "1", "--user-identity", "header:X-User-Id"];
    let issuer = world.ready_issuer(&flags).await;
    let issue = |user: &'static str, claimed: &'static str| {
        let request = Request::post("/").header("Content-Type", "application/json").header("X-User-Id", user);
        issuer.send(request, "/coupons/issue", format!(r#"{{"eventId":"summer","userId":"{claimed}"}}"#))
    };
    for _ in 0..3 {
        assert_eq!(issue("u1", "u2").await.status, StatusCode::BAD_REQUEST);
    }
    assert!(issue("u2", "u2").await.succeeded());
    assert_rate_limited(&issue("u2", "u2").await);
    assert!(issue("u1", "u1").await.succeeded());
}

/// A request that is rejected with 429 was certainly not processed: the limit is checked before the call to Redis.
#[tokio::test]
async fn rate_limited_request_does_not_reach_redis() {
    let redis = Redis::start().unwrap();
    let world = World::on(redis.url(), couponry_testbed::shared::kafka()).await.open(10).await;
    let flags =
        ["--rate-limit-per-user", LOW_RATE, "--rate-limit-per-user-burst", "2", "--response-timeout-seconds", "1"];
    let issuer = world.ready_issuer(&flags).await;
    for _ in 0..2 {
        assert_eq!(issuer.get("/coupons/summer/users/u1").await.status, StatusCode::NOT_FOUND);
    }
    redis.pause().unwrap();
    assert_rate_limited(&issuer.issue("u1").await);
    assert_eq!(issuer.issue("u2").await.status, StatusCode::SERVICE_UNAVAILABLE, "the outcome is unknown");
    redis.resume().unwrap();
    until("Redis replies again", async || issuer.get("/coupons/summer").await.status == StatusCode::OK).await;
    let holders = world.redis_store.scan_issued(&world.event).await.unwrap();
    assert!(holders.keys().all(|user| user.as_str() != "u1"), "{holders:?}");
}

#[tokio::test]
async fn address_limit_uses_the_entry_of_the_outermost_trusted_proxy() {
    let world = World::shared().await.open(10).await;
    let flags = ["--rate-limit-per-address", LOW_RATE, "--rate-limit-per-address-burst", "5", "--trusted-proxies", "1"];
    let issuer = world.ready_issuer(&flags).await;
    // Entries that a client adds are further to the left and are ignored.
    for turn in 0..5 {
        assert_eq!(get_event(&issuer, &format!("10.9.8.{turn}, 192.0.2.1")).await.status, StatusCode::OK, "{turn}");
    }
    for forged in ["10.9.8.7, 192.0.2.1", "192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2,192.0.2.1:5555"] {
        assert_rate_limited(&get_event(&issuer, forged).await);
    }
    // An IPv6 customer can use any address of a /64 prefix.
    for turn in 0..5 {
        assert_eq!(get_event(&issuer, &format!("2001:db8:1:2::{turn}")).await.status, StatusCode::OK, "{turn}");
    }
    assert_rate_limited(&get_event(&issuer, "2001:db8:1:2:ffff::1").await);
    assert_eq!(get_event(&issuer, "2001:db8:1:3::1").await.status, StatusCode::OK);
    // A client that bypasses the proxies has its own limit, for any path.
    for path in ["/coupons/summer", "/coupons/winter", "/nothing", "/openapi.json", "/coupons/*"] {
        assert_ne!(issuer.get(path).await.status, StatusCode::TOO_MANY_REQUESTS, "{path}");
    }
    let rejected = issuer.issue("u1").await;
    assert_rate_limited(&rejected);
    assert!(rejected.headers.contains_key("x-request-id"));
    assert_rate_limited(&get_event(&issuer, "unknown").await);
    assert!(issuer.metrics().await.contains(r#"couponry_issuer_rate_limited_total{by="address"} 7"#));
}

#[tokio::test]
async fn address_limit_without_trusted_proxies_ignores_forwarded_for() {
    let world = World::shared().await.open(10).await;
    let issuer =
        world.ready_issuer(&["--rate-limit-per-address", LOW_RATE, "--rate-limit-per-address-burst", "2"]).await;
    for turn in 0..2 {
        assert_eq!(get_event(&issuer, &format!("192.0.2.{turn}")).await.status, StatusCode::OK);
    }
    assert_rate_limited(&get_event(&issuer, "192.0.2.7").await);
    // A rejected request gets its response before its body is received.
    let mut connection = TcpStream::connect(("127.0.0.1", issuer.listen)).await.unwrap();
    let head =
        "POST /coupons/issue HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9000\r\n\r\n";
    connection.write_all(head.as_bytes()).await.unwrap();
    let mut response = String::new();
    connection.read_to_string(&mut response).await.unwrap();
    assert!(response.starts_with("HTTP/1.1 429 "), "{response}");
}

#[tokio::test]
async fn invalid_rate_is_rejected_at_startup() {
    let world = World::shared().await;
    for (flags, message) in [
        (["--rate-limit-per-user=-1"], "must be 0, or between 0.001 and 1000000"),
        (["--rate-limit-per-address=often"], "not a number"),
        (["--rate-limit-per-user-burst=0"], "0 is not in 1..=1000000"),
    ] {
        let issuer = world.issuer(&flags);
        until("the flag is rejected", async || issuer.running.log().contains(message)).await;
    }
}
