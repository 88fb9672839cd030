//! Reserve, redeem and release.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use couponry_domain::{CouponTerms, DiscountConditions};
use futures::future::join_all;
use serde_json::{Value, json};

use crate::support::{Response, TEN_PERCENT, World, body, until};

#[tokio::test]
async fn reserved_and_redeemed_coupon_has_the_documented_responses() {
    let world = World::open(10).await;
    let server = world.ready_redeemer().await;
    let coupon = world.issue_and_record("u1").await;
    let mut order = body(&coupon, "u1", "order-1");
    order["orderAmount"] = json!(12_905);

    let valid = server.validate(&order).await;
    let expected = json!({
        "eventId": "summer", "couponKey": coupon.as_str(), "userId": "u1", "orderId": "order-1", "state": "ISSUED",
        "reservedUntil": null, "changedAt": null, "discountType": "PERCENT", "discountValue": 10,
        "maxDiscount": null, "minimumOrderAmount": null, "currency": null, "validUntil": null, "discountAmount": 1290,
    });
    assert_eq!((valid.status, &valid.json), (StatusCode::OK, &expected));
    assert_eq!(valid.headers["cache-control"], "no-store");

    let reserved = server.post("reserve", "1", &order).await;
    let changed = |state: &str, response: &Response| {
        let mut expected = expected.clone();
        expected["state"] = json!(state);
        for time in ["reservedUntil", "changedAt"] {
            expected[time] = response.json[time].clone();
        }
        assert_eq!((response.status, &response.json), (StatusCode::OK, &expected));
        assert!(response.json["changedAt"].as_str().unwrap().ends_with('Z'), "{}", response.json);
    };
    changed("RESERVED", &reserved);
    assert!(reserved.json["reservedUntil"].as_str() > reserved.json["changedAt"].as_str(), "{}", reserved.json);
    assert_eq!(server.validate(&order).await.state(), "RESERVED");
    let other = server.validate(&body(&coupon, "u1", "order-2")).await;
    assert_eq!((other.status, other.problem()), (StatusCode::CONFLICT, "coupon-reserved"));

    let redeemed = server.post("redeem", "\"2\"", &order).await;
    changed("REDEEMED", &redeemed);
    assert_eq!(redeemed.json["reservedUntil"], Value::Null);
    assert_eq!(server.validate(&order).await.problem(), "coupon-redeemed-by-order");
    let other = server.validate(&body(&coupon, "u1", "order-2")).await;
    assert_eq!((other.status, other.problem()), (StatusCode::CONFLICT, "coupon-redeemed"));

    let view = server.coupon(&coupon).await;
    assert_eq!(view.status, StatusCode::OK);
    assert_eq!(
        (view.state(), &view.json["userId"], &view.json["discountValue"]),
        ("REDEEMED", &json!("u1"), &json!(10))
    );
    let entry = |seq: u32, kind: &str, response: &Response| {
        json!({
            "seq": seq, "kind": kind, "orderId": "order-1", "reservedUntil": response.json["reservedUntil"],
            "at": response.json["changedAt"], "caller": null,
        })
    };
    assert_eq!(view.json["history"], json!([entry(1, "RESERVED", &reserved), entry(2, "REDEEMED", &redeemed)]));
    let metrics = server.metrics().await;
    assert!(metrics.contains(r#"couponry_redeemer_responses_total{operation="redeem",code="200"} 1"#), "{metrics}");
}

#[tokio::test]
async fn terms_of_the_event_limit_the_discount_and_the_order() {
    let conditions = DiscountConditions { max_discount: Some(2000), minimum_order_amount: Some(5000) };
    let terms = CouponTerms {
        validity: Some("PT48H UTC".parse().unwrap()),
        currency: Some("EUR".parse().unwrap()),
        conditions: BTreeMap::from([(TEN_PERCENT, conditions)]),
    };
    let world = World::open_with(10, terms).await;
    let server = world.ready_redeemer().await;
    // Recorded by the redeemer.
    let record = world.issue("u1").await;
    let mut order = body(&record.issued.coupon, "u1", "order-1");
    for operation in ["validate", "reserve", "redeem"] {
        order["orderAmount"] = json!(4999);
        let refused = server.post(operation, operation, &order).await;
        assert_eq!((refused.status, refused.problem()), (StatusCode::CONFLICT, "below-minimum-order"), "{operation}");
        assert!(refused.json["detail"].as_str().unwrap().contains("5000"), "{refused:?}");
    }
    order["orderAmount"] = json!(30_000);
    let redeemed = server.post("redeem", "1", &order).await;
    assert_eq!(redeemed.status, StatusCode::OK, "{redeemed:?}");
    let valid_until = jiff::Timestamp::from_millisecond(record.issued.issued_at + 48 * 3_600_000).unwrap();
    let terms = json!({
        "discountType": "PERCENT", "discountValue": 10, "maxDiscount": 2000, "minimumOrderAmount": 5000,
        "currency": "EUR", "validUntil": format!("{valid_until:.3}"),
    });
    let view = server.coupon(&record.issued.coupon).await;
    for (name, value) in terms.as_object().unwrap() {
        assert_eq!((&redeemed.json[name], &view.json[name]), (value, value), "{name}");
    }
    assert_eq!(redeemed.json["discountAmount"], 2000);
}

#[tokio::test]
async fn expired_coupon_cannot_be_used() {
    let validity = format!("{} UTC", jiff::Timestamp::now() + jiff::SignedDuration::from_secs(3));
    let terms = CouponTerms { validity: Some(validity.parse().unwrap()), ..CouponTerms::default() };
    let world = World::open_with(10, terms).await;
    let server = world.ready_redeemer().await;
    let coupon = world.issue_and_record("u1").await;
    let order = body(&coupon, "u1", "order-1");
    until("the coupon has expired", async || server.coupon(&coupon).await.state() == "EXPIRED").await;
    for operation in ["validate", "reserve", "redeem", "release"] {
        let refused = server.post(operation, operation, &order).await;
        assert_eq!((refused.status, refused.problem()), (StatusCode::CONFLICT, "coupon-expired"), "{operation}");
    }
}

#[tokio::test]
async fn repeated_request_returns_the_same_response_and_another_body_422() {
    let world = World::open(10).await;
    let server = world.ready_redeemer().await;
    let coupon = world.issue_and_record("u1").await;
    let order = body(&coupon, "u1", "order-1");
    let reserved = server.post("reserve", "1", &order).await;
    let released = server.post("release", "2", &order).await;
    assert_eq!(released.state(), "ISSUED");
    let redeemed = server.post("redeem", "3", &body(&coupon, "u1", "order-2")).await;
    assert_eq!(redeemed.state(), "REDEEMED");
    assert_eq!(server.post("reserve", "1", &order).await.json, reserved.json);
    assert_eq!(server.post("release", "\"2\"", &order).await.json, released.json);
    assert_eq!(server.post("redeem", "3", &body(&coupon, "u1", "order-2")).await.json, redeemed.json);

    let mut longer = order.clone();
    longer["ttlSeconds"] = json!(1000);
    for (operation, body) in [("reserve", &longer), ("redeem", &order), ("reserve", &body(&coupon, "u2", "order-1"))] {
        let reused = server.post(operation, "1", body).await;
        assert_eq!((reused.status, reused.problem()), (StatusCode::UNPROCESSABLE_ENTITY, "idempotency-key-reused"));
    }
    let again = server.post("redeem", "4", &order).await;
    assert_eq!((again.status, again.problem()), (StatusCode::CONFLICT, "coupon-redeemed"));
}

#[tokio::test]
async fn parallel_redemptions_of_one_coupon_at_two_redeemers_have_one_winner() {
    let world = World::open(10).await;
    let servers = [world.ready_redeemer().await, world.ready_redeemer().await];
    for user in ["u1", "u2", "u3"] {
        let coupon = world.issue_and_record(user).await;
        let responses = join_all((0..64).map(|i| {
            let (server, coupon) = (&servers[i % 2], &coupon);
            async move {
                let order = body(coupon, user, &format!("order-{i}"));
                server.post("redeem", &format!("{user}-{i}"), &order).await
            }
        }))
        .await;
        let with = |status| responses.iter().filter(move |response| response.status == status);
        assert_eq!(with(StatusCode::OK).count(), 1, "{responses:?}");
        assert_eq!(
            with(StatusCode::CONFLICT).filter(|r| r.problem() == "coupon-redeemed").count(),
            63,
            "{responses:?}"
        );
        let winner = with(StatusCode::OK).next().unwrap();
        let view = servers[0].coupon(&coupon).await;
        assert_eq!(view.json["history"].as_array().unwrap().len(), 1);
        assert_eq!(view.json["history"][0]["orderId"], winner.json["orderId"]);
    }
}

#[tokio::test]
async fn expired_reservation_frees_the_coupon_for_another_order() {
    let world = World::open(10).await;
    let server = world.ready_redeemer().await;
    let coupon = world.issue_and_record("u1").await;
    let mut first = body(&coupon, "u1", "order-1");
    first["ttlSeconds"] = json!(1);
    assert_eq!(server.post("reserve", "1", &first).await.state(), "RESERVED");
    let second = body(&coupon, "u1", "order-2");
    until("the reservation has expired", async || {
        let redeemed = server.post("redeem", "2", &second).await;
        assert!(redeemed.status == StatusCode::OK || redeemed.problem() == "coupon-reserved", "{redeemed:?}");
        redeemed.status == StatusCode::OK
    })
    .await;
    let late = server.post("redeem", "3", &first).await;
    assert_eq!((late.status, late.problem()), (StatusCode::CONFLICT, "coupon-redeemed"));
}

#[tokio::test]
async fn refused_and_invalid_requests_have_stable_problem_types() {
    let world = World::open(10).await;
    let server = world.ready_redeemer().await;
    let coupon = world.issue_and_record("u1").await;
    let order = body(&coupon, "u1", "order-1");
    let with = |field: &str, value: Value| {
        let mut changed = order.clone();
        changed[field] = value;
        changed
    };
    let cases = [
        ("redeem", with("userId", json!("u2")), 409, "wrong-user"),
        ("release", order.clone(), 409, "coupon-not-reserved"),
        ("redeem", with("eventId", json!("winter")), 404, "unknown-event"),
        ("redeem", with("couponKey", json!("SUMMER-AAAAAAAAAAAA")), 404, "unknown-coupon"),
        ("reserve", with("couponKey", json!("a:b")), 400, "invalid-request"),
        ("reserve", with("eventId", json!("{x}")), 400, "invalid-request"),
        ("reserve", with("userId", json!("")), 400, "invalid-request"),
        ("reserve", with("orderId", json!("a b")), 400, "invalid-request"),
        ("reserve", with("ttlSeconds", json!(0)), 400, "invalid-request"),
        ("reserve", with("ttlSeconds", json!(86_401)), 400, "invalid-request"),
        ("redeem", with("orderAmount", json!(-1)), 400, "invalid-request"),
        ("redeem", with("orderAmount", json!(100_000_000_000_001_u64)), 400, "invalid-request"),
        ("redeem", json!([]), 400, "invalid-request"),
    ];
    for (i, (operation, body, status, problem)) in cases.iter().enumerate() {
        let response = server.post(operation, &format!("key-{i}"), body).await;
        assert_eq!((response.status.as_u16(), response.problem()), (*status, *problem), "{body}: {response:?}");
        assert_eq!(response.headers["content-type"], "application/problem+json");
    }
    let without_key = server.send(server.request("redeem", None, &order)).await.unwrap();
    assert_eq!(without_key.status, StatusCode::BAD_REQUEST);
    assert!(without_key.json["detail"].as_str().unwrap().contains("Idempotency-Key"), "{without_key:?}");
    for (path, status) in [
        ("/redemptions/winter/SUMMER-AAAAAAAAAAAA", 404),
        ("/redemptions/summer/SUMMER-AAAAAAAAAAAA", 404),
        ("/redemptions/summer/a", 400),
        ("/redemptions/summer/%FF", 400),
        (&format!("/redemptions/summer/{coupon}?userId=u2"), 404),
        (&format!("/redemptions/summer/{coupon}?userId=u1"), 200),
        ("/redemptions/redeem", 405),
        ("/redemptions", 404),
        ("/openapi.json", 200),
    ] {
        assert_eq!(server.get(path).await.status.as_u16(), status, "{path}");
    }
    assert_eq!(server.coupon(&coupon).await.json["history"], json!([]), "nothing was changed");
}
