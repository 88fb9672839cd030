//! Outcomes of issue requests.

use std::collections::HashSet;

use axum::http::{Request, StatusCode};
use couponry_domain::{Acknowledge, Gate, Validity, Window};
use couponry_redis::{FencedWrite, Settlement, SettlementOutcome};
use serde_json::json;

use crate::support::{Issuer, World, until};

#[tokio::test]
async fn repeated_issue_returns_the_same_coupon() {
    let world = World::shared().await.open(10).await;
    let issuer = world.ready_issuer(&[]).await;

    let first = issuer.issue("u1").await;
    assert_eq!(first.status, StatusCode::OK);
    let coupon = first.coupon();
    assert_eq!(
        first.json,
        json!({"success": true, "hasCoupon": true, "reason": null, "couponKey": coupon,
               "message": "The coupon is yours.", "discountType": "PERCENT", "discountAmount": 10})
    );
    let repeated = issuer.issue("u1").await;
    assert_eq!((repeated.status, repeated.succeeded(), repeated.reason()), (StatusCode::OK, false, "DUPLICATE"));
    assert_eq!(repeated.coupon(), coupon);
    assert_eq!(repeated.json["hasCoupon"], true, "a retry must not look like a failure");

    let lookup = issuer.get("/coupons/summer/users/u1").await;
    assert_eq!(lookup.status, StatusCode::OK);
    assert_eq!((&lookup.json["couponKey"], &lookup.json["recorded"]), (&json!(coupon), &json!(false)));
}

/// The clock of the test is not that of the days: the expected time is computed from `issuedAt`.
#[tokio::test]
async fn coupon_has_the_same_validity_in_every_response_and_record() {
    for (acknowledge, validity) in [
        (Acknowledge::Redis, "P1M Europe/Berlin end-of-day"),
        (Acknowledge::Kafka, "PT36H UTC"),
        (Acknowledge::Redis, "2099-12-31T12:00:00Z America/New_York end-of-day"),
    ] {
        let world = World::shared().await.open(10).await;
        let validity: Validity = validity.parse().unwrap();
        world.gate_with_validity(Gate::Open, Window::default(), acknowledge, Some(validity.clone())).await;
        let issuer = world.ready_issuer(&[]).await;
        let first = issuer.issue("u1").await;
        assert!(first.succeeded());
        let lookup = issuer.get("/coupons/summer/users/u1").await.json;
        let issued_at: jiff::Timestamp = lookup["issuedAt"].as_str().unwrap().parse().unwrap();
        let valid_until = validity.valid_until(issued_at.as_millisecond());
        let expected = format!("{:.3}", jiff::Timestamp::from_millisecond(valid_until).unwrap());
        assert_eq!((&first.json["validUntil"], &lookup["validUntil"]), (&json!(expected), &json!(expected)));
        let repeated = issuer.issue("u1").await;
        assert_eq!((repeated.reason(), &repeated.json["validUntil"]), ("DUPLICATE", &json!(expected)));
        let records = world.records_in_kafka(1).await;
        assert_eq!(records["u1"].valid_until, Some(valid_until));
        world.gate_with_validity(Gate::Paused, Window::default(), acknowledge, Some(validity)).await;
        let without_coupon = issuer.issue("u2").await;
        assert_eq!((without_coupon.reason(), without_coupon.json.get("validUntil")), ("PAUSED", None));
    }
}

#[tokio::test]
async fn message_is_in_the_language_of_the_client_and_reason_is_not() {
    let world = World::shared().await.open(10).await;
    let issuer = world.ready_issuer(&[]).await;
    let issue = async |language: Option<&str>| {
        let mut request = Request::post("/").header("Content-Type", "application/json");
        if let Some(language) = language {
            request = request.header("Accept-Language", language);
        }
        issuer.send(request, "/coupons/issue", r#"{"userId":"u1","eventId":"summer"}"#).await
    };
    assert!(issue(Some("en")).await.succeeded());
    for (language, tag, message) in [
        (None, "en", "You already have a coupon of this event."),
        (Some("fr, en;q=0.1"), "en", "You already have a coupon of this event."),
        (Some("ko-KR,ko;q=0.9,en-US;q=0.8"), "ko", "이미 이 이벤트의 쿠폰을 받으셨습니다."),
    ] {
        let response = issue(language).await;
        assert_eq!((response.reason(), &response.json["message"]), ("DUPLICATE", &json!(message)));
        assert_eq!(response.headers["content-language"], tag);
        assert_eq!(response.headers["vary"], "Accept-Language");
    }
}

#[tokio::test]
async fn retired_event_returns_410_and_ended() {
    let world = World::shared().await.open(10).await;
    let issuer = world.ready_issuer(&[]).await;
    let first = issuer.issue("u1").await;
    let settled = Settlement {
        user: "u1".parse().unwrap(),
        coupon: first.coupon().parse().unwrap(),
        outcome: SettlementOutcome::Completed,
    };
    world.redis_store.settle(&world.event, world.uid, &[settled]).await.unwrap();
    world.wait_until_outbox_is_empty().await;
    world.gate(Gate::Closed, Window::default(), Acknowledge::Redis).await;
    let stock_epoch = world.redis_store.observe(&world.event).await.unwrap().unwrap().stock_epoch;
    let generation = i64::MAX >> 16;
    let retired = world.redis_store.retire(&world.event, world.uid, stock_epoch, generation).await.unwrap();
    assert_eq!(retired, FencedWrite::Applied(true));

    for user in ["u1", "u2"] {
        let lookup = issuer.get(&format!("/coupons/summer/users/{user}")).await;
        assert_eq!(
            (lookup.status, &lookup.json["type"]),
            (StatusCode::GONE, &json!("https://couponry.dev/problems/gone"))
        );
        let response = issuer.issue(user).await;
        assert_eq!((response.status, response.succeeded(), response.reason()), (StatusCode::OK, false, "ENDED"));
    }
    assert_eq!(issuer.get("/coupons/summer").await.json["state"], "ENDED");
}

/// The view of the event follows within the interval of its reads.
async fn until_state(issuer: &Issuer, state: &str) {
    until("the event has this state", async || issuer.get("/coupons/summer").await.json["state"] == state).await;
}

#[tokio::test]
async fn outcomes_without_a_coupon_return_200_with_their_reason() {
    let world = World::shared().await.open(1).await;
    let issuer = world.ready_issuer(&[]).await;
    let now = world.redis_store.observe(&world.event).await.unwrap().unwrap().now;
    let not_started = Window { start: Some(now + 3_600_000), end: None };
    let ended = Window { start: None, end: Some(now) };
    for (gate, window, reason) in [
        (Gate::Open, not_started, "NOT_STARTED"),
        (Gate::Open, ended, "ENDED"),
        (Gate::Paused, Window::default(), "PAUSED"),
    ] {
        world.gate(gate, window, Acknowledge::Redis).await;
        let response = issuer.issue("u1").await;
        assert_eq!((response.status, response.succeeded(), response.reason()), (StatusCode::OK, false, reason));
        until_state(&issuer, reason).await;
    }
    world.gate(Gate::Open, Window::default(), Acknowledge::Redis).await;
    assert!(issuer.issue("u1").await.succeeded());
    let response = issuer.issue("u2").await;
    assert_eq!((response.status, response.succeeded(), response.reason()), (StatusCode::OK, false, "SOLD_OUT"));
    until_state(&issuer, "SOLD_OUT").await;
    world.gate(Gate::Paused, Window::default(), Acknowledge::Redis).await;
    assert_eq!(issuer.issue("u2").await.reason(), "PAUSED", "coupons may be returned or added");
    until_state(&issuer, "PAUSED").await;
    assert_eq!(issuer.get("/coupons/summer/users/u2").await.status, StatusCode::NOT_FOUND);

    let metrics = issuer.metrics().await;
    assert!(metrics.contains(r#"couponry_issuer_requests_total{outcome="sold_out"} 1"#), "{metrics}");
    assert!(metrics.contains(r#"couponry_issuer_coupons_issued_total{event="summer"} 1"#), "{metrics}");
}

#[tokio::test]
async fn two_issuers_issue_one_coupon_per_user_and_send_all_records() {
    let world = World::shared().await.open(300).await;
    let (one, two) = (world.ready_issuer(&[]).await, world.ready_issuer(&[]).await);
    let (mut responses, others) = tokio::join!(one.issue_all(0..200), two.issue_all(100..400));
    responses.extend(others);
    let coupons: Vec<_> = responses.iter().filter(|r| r.succeeded()).map(|a| a.coupon().to_owned()).collect();
    assert_eq!(coupons.len(), 300, "all coupons are issued");
    assert_eq!(coupons.iter().collect::<HashSet<_>>().len(), 300, "each to one user");
    assert_eq!(responses.iter().filter(|r| r.reason() == "SOLD_OUT").count() + 300, {
        responses.iter().filter(|r| r.reason() != "DUPLICATE").count()
    });
    let issued = world.redis_store.scan_issued(&world.event).await.unwrap();
    let in_kafka = world.users_in_kafka(300).await;
    assert_eq!(in_kafka, issued.keys().map(ToString::to_string).collect());
    world.wait_until_outbox_is_empty().await;
}

#[tokio::test]
async fn trusted_header_authenticates_the_user() {
    let world = World::shared().await.open(10).await;
    let issuer = world.ready_issuer(&["--user-identity", "header:X-User-Id"]).await;
    let post = |user: Option<&str>| {
        let mut request = Request::post("/").header("Content-Type", "application/json");
        if let Some(user) = user {
            request = request.header("X-User-Id", user);
        }
        issuer.send(request, "/coupons/issue", r#"{"eventId":"summer"}"#)
    };
    assert!(post(Some("u1")).await.succeeded());
    assert_eq!(post(Some("u1")).await.reason(), "DUPLICATE");
    assert_eq!(post(None).await.status, StatusCode::UNAUTHORIZED);
    // As from a proxy that has joined the header of the client with its own.
    assert_eq!(post(Some("u1, u2")).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(issuer.get("/coupons/summer/users/u1").await.status, StatusCode::UNAUTHORIZED);
    let own = Request::get("/").header("X-User-Id", "u2");
    assert_eq!(issuer.send(own, "/coupons/summer/users/u1", "").await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn openapi_document_is_served() {
    let world = World::shared().await;
    let issuer = world.ready_issuer(&[]).await;
    let document = issuer.get("/openapi.json").await;
    assert!(document.json["openapi"].as_str().unwrap().starts_with("3."));
    assert!(document.json["paths"]["/coupons/issue"]["post"]["responses"]["503"].is_object());
}
