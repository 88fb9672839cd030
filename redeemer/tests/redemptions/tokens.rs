//! Callers with a JWT of a service.

use axum::http::{HeaderValue, StatusCode, header};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use couponry_testbed::scratch::Scratch;
use ring::hmac;
use serde_json::{Value, json};

use crate::support::{World, body};

const SECRET: &[u8] = b"a secret of at least thirty-two bytes";

/// The warning in the log while every caller is accepted.
const UNAUTHENTICATED: &str = "callers are not authenticated: every client that reaches the port can redeem coupons";

fn token(claims: &Value) -> String {
    let encode = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", encode(&json!({"alg": "HS256", "kid": "k"})), encode(claims));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), signed.as_bytes());
    format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}

#[tokio::test]
async fn token_of_a_service_authenticates_its_caller() {
    let world = World::open(10).await;
    let scratch = Scratch::new("jwks").unwrap();
    let file = scratch.path().join("jwks.json");
    let key = json!({"kty": "oct", "kid": "k", "alg": "HS256", "k": BASE64_URL_SAFE_NO_PAD.encode(SECRET)});
    std::fs::write(&file, json!({ "keys": [key] }).to_string()).unwrap();
    let flags = ["--auth", "jwt", "--jwt-jwks-file", file.to_str().unwrap(), "--jwt-audience", "redeemer"];
    let redeemer = world.redeemer_with(&flags, &[]);
    redeemer.wait_until_ready().await;
    assert!(!redeemer.running.log().contains(UNAUTHENTICATED), "{}", redeemer.running.log());

    let coupon = world.issue_and_record("u1").await;
    let order = body(&coupon, "u1", "order-1");
    let send = async |key: &str, token: Option<&str>| {
        let mut request = redeemer.request("reserve", Some(key), &order);
        if let Some(token) = token {
            let value = HeaderValue::try_from(format!("Bearer {token}")).unwrap();
            request.headers_mut().insert(header::AUTHORIZATION, value);
        }
        redeemer.send(request).await.unwrap()
    };
    let expires = jiff::Timestamp::now().as_second() + 3600;
    let claims = json!({"sub": "checkout", "aud": "redeemer", "exp": expires});
    let valid = send("1", Some(&token(&claims))).await;
    assert_eq!((valid.status, valid.state()), (StatusCode::OK, "RESERVED"), "{valid:?}");
    let (_, caller) = world.database.coupon_history(world.uid, &coupon).await.unwrap().pop().unwrap();
    assert_eq!(caller.as_deref(), Some("checkout"));

    let with = |name: &str, value: Value| {
        let mut changed = claims.clone();
        changed[name] = value;
        token(&changed)
    };
    // The claims of one token with the signature of another one.
    let (of_other, valid) = (with("sub", json!("other")), token(&claims));
    let forged = format!("{}{}", &valid[..valid.rfind('.').unwrap()], &of_other[of_other.rfind('.').unwrap()..]);
    let rejected = [None, Some(with("aud", json!("shop"))), Some(with("exp", json!(1))), Some(forged)];
    for (i, token) in rejected.iter().enumerate() {
        let response = send(&format!("rejected-{i}"), token.as_deref()).await;
        assert_eq!((response.status, response.problem()), (StatusCode::UNAUTHORIZED, "unauthorized"), "{response:?}");
    }
    let metrics = redeemer.metrics().await;
    for reason in ["no_token", "audience", "expired", "signature"] {
        let line = format!(r#"couponry_redeemer_authentication_failures_total{{reason="{reason}"}} 1"#);
        assert!(metrics.contains(&line), "{metrics}");
    }
}

/// Otherwise tokens of users would be accepted.
#[tokio::test]
async fn tokens_without_a_required_audience_are_refused_at_the_start() {
    let world = World::open(1).await;
    let redeemer = world.redeemer_with(&["--auth", "jwt", "--jwt-jwks-file", "/dev/null"], &[]);
    assert!(!redeemer.running.process().wait().unwrap().success());
}

#[tokio::test]
async fn redeemer_without_authentication_warns_in_its_log() {
    let world = World::open(1).await;
    let redeemer = world.ready_redeemer().await;
    let log = redeemer.running.log();
    let warning =
        log.lines().find(|line| line.contains(UNAUTHENTICATED)).unwrap_or_else(|| panic!("no warning: {log}"));
    assert!(warning.contains("WARN"), "{warning}");
}
