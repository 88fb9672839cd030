//! Requests of pages of other origins.

use axum::http::{Request, StatusCode};

use crate::support::{Issuer, Response, World, exchange};

const SHOP: &str = "https://shop.example";

async fn send(issuer: &Issuer, method: &str, origin: Option<&str>, path: &str) -> Response {
    let mut request = Request::builder().method(method);
    if let Some(origin) = origin {
        request = request.header("Origin", origin);
    }
    if method == "OPTIONS" {
        request = request.header("Access-Control-Request-Method", "POST");
    }
    issuer.send(request, path, "").await
}

fn allowed_origin(response: &Response) -> Option<&str> {
    response.headers.get("access-control-allow-origin").map(|value| value.to_str().unwrap())
}

#[tokio::test]
async fn pages_of_other_origins_are_not_allowed_by_default() {
    let world = World::shared().await.open(10).await;
    let issuer = world.ready_issuer(&[]).await;
    assert_eq!(send(&issuer, "OPTIONS", Some(SHOP), "/coupons/issue").await.status, StatusCode::METHOD_NOT_ALLOWED);
    let response = send(&issuer, "GET", Some(SHOP), "/coupons/summer").await;
    assert_eq!((response.status, allowed_origin(&response)), (StatusCode::OK, None));
    assert!(!response.headers.contains_key("vary"));
}

#[tokio::test]
async fn pages_of_listed_origins_may_read_all_responses() {
    let world = World::shared().await.open(10).await;
    let flags = ["--rate-limit-per-address", "0.001", "--rate-limit-per-address-burst", "6"];
    let issuer = world
        .ready_issuer(&[&["--cors-allowed-origins", "https://a.example,https://shop.example"], &flags[..]].concat())
        .await;
    // Preflight requests do not count.
    for _ in 0..10 {
        let preflight = send(&issuer, "OPTIONS", Some(SHOP), "/coupons/issue").await;
        assert_eq!((preflight.status, allowed_origin(&preflight)), (StatusCode::NO_CONTENT, Some(SHOP)));
        assert_eq!(preflight.headers["access-control-allow-methods"], "GET, HEAD, POST");
        assert!(preflight.headers["access-control-allow-headers"].to_str().unwrap().contains("content-type"));
        assert_eq!(preflight.headers["access-control-max-age"], "86400");
    }
    let foreign = send(&issuer, "OPTIONS", Some("https://evil.example"), "/coupons/issue").await;
    assert_eq!((foreign.status, allowed_origin(&foreign)), (StatusCode::NO_CONTENT, None));
    assert!(!foreign.headers.contains_key("access-control-allow-methods"));

    let post = Request::post("/").header("Origin", SHOP).header("Content-Type", "application/json");
    let created = issuer.send(post, "/coupons/issue", r#"{"userId":"u1","eventId":"summer"}"#).await;
    assert!(created.succeeded());
    let varies: Vec<_> = created.headers.get_all("vary").iter().collect();
    assert_eq!(varies, ["Accept-Language", "Origin"]);
    for (response, status) in [
        (created, StatusCode::OK),
        (send(&issuer, "GET", Some(SHOP), "/coupons/summer").await, StatusCode::OK),
        (send(&issuer, "GET", Some(SHOP), "/coupons/summer/users/u2").await, StatusCode::NOT_FOUND),
        (send(&issuer, "POST", Some(SHOP), "/coupons/issue").await, StatusCode::UNSUPPORTED_MEDIA_TYPE),
    ] {
        assert_eq!((response.status, allowed_origin(&response)), (status, Some(SHOP)));
        let exposed = response.headers["access-control-expose-headers"].to_str().unwrap();
        assert!(exposed.contains("retry-after") && exposed.contains("etag"), "{exposed}");
        assert!(!response.headers.contains_key("access-control-allow-credentials"));
    }
    // A cache must not return these to a page of an allowed origin.
    for origin in [None, Some("https://evil.example")] {
        let response = send(&issuer, "GET", origin, "/coupons/summer").await;
        assert_eq!((response.status, allowed_origin(&response)), (StatusCode::OK, None));
        assert_eq!(response.headers["vary"], "Origin");
    }
    let limited = send(&issuer, "GET", Some(SHOP), "/coupons/summer").await;
    assert_eq!((limited.status, allowed_origin(&limited)), (StatusCode::TOO_MANY_REQUESTS, Some(SHOP)));
}

#[tokio::test]
async fn pages_of_all_origins_are_allowed_with_an_asterisk() {
    let world = World::shared().await.open(10).await;
    let issuer = world.ready_issuer(&["--cors-allowed-origins", "*"]).await;
    for origin in [None, Some(SHOP)] {
        let response = send(&issuer, "GET", origin, "/coupons/summer").await;
        assert_eq!((response.status, allowed_origin(&response)), (StatusCode::OK, Some("*")));
        assert!(!response.headers.contains_key("vary"), "one response for all");
    }
}

/// A page cannot show the reason of an error that it may not read.
#[tokio::test]
async fn pages_of_listed_origins_may_read_why_a_request_was_rejected() {
    let world = World::shared().await;
    let issuer = world.ready_issuer(&["--cors-allowed-origins", SHOP]).await;
    let path = "/coupons/summer/users/%zz";
    let preflight = send(&issuer, "OPTIONS", Some(SHOP), path).await;
    assert_eq!((preflight.status, allowed_origin(&preflight)), (StatusCode::NO_CONTENT, Some(SHOP)));
    let invalid = send(&issuer, "GET", Some(SHOP), path).await;
    assert_eq!((invalid.status, allowed_origin(&invalid)), (StatusCode::BAD_REQUEST, Some(SHOP)));
    // The limit of 32 KiB counts a space after each colon. With this head, hyper stays below its own limit.
    let fields = format!("X:{}\r\n", "y".repeat(359)).repeat(90);
    let head = format!("GET / HTTP/1.1\r\nHost: x\r\nOrigin: {SHOP}\r\n{fields}\r\n");
    let response = exchange(issuer.listen, &head).await;
    assert!(response.starts_with("HTTP/1.1 431 "), "{response}");
    assert!(response.contains(&format!("access-control-allow-origin: {SHOP}\r\n")), "{response}");
}
