//! Invalid requests return a clear error and issue no coupon.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use axum::{
    body::Body,
    http::{Request, StatusCode},
};
use futures::{StreamExt, stream};

use crate::support::{Response, World};

fn assert_problem(response: &Response, status: u16, detail: &str) {
    assert_eq!(response.status, status, "{}", response.json);
    assert_eq!(response.headers["content-type"], "application/problem+json");
    assert_eq!(response.json["status"], status);
    assert!(response.json["type"].as_str().unwrap().starts_with("https://couponry.dev/problems/"));
    assert!(
        response.json["detail"].as_str().unwrap().contains(detail),
        "{} does not contain {detail:?}",
        response.json
    );
}

#[tokio::test]
async fn invalid_issue_request_returns_the_reason() {
    let world = World::shared().await.open(10).await;
    let issuer = world.ready_issuer(&[]).await;
    let long = format!(r#"{{"userId":"{}","eventId":"summer"}}"#, "x".repeat(300));
    for (body, status, detail) in [
        ("", 400, "it is empty"),
        ("{", 400, "EOF"),
        ("hello", 400, "expected an object"),
        ("[]", 400, "expected an object"),
        (r#" ["u1", "summer"]"#, 400, "expected an object"),
        ("null", 400, "expected an object"),
        ("{}", 400, "eventId"),
        (r#"{"eventId":"summer"}"#, 400, "userId"),
        (r#"{"userId":5,"eventId":"summer"}"#, 400, "userId: invalid type: integer `5`, expected a string"),
        (r#"{"userId":["u"],"eventId":"summer"}"#, 400, "expected a string"),
        (r#"{"userId":"u1","eventId":{}}"#, 400, "expected a string"),
        (r#"{"userId":"u1","userId":"u2","eventId":"summer"}"#, 400, "duplicate field"),
        (r#"{"userId":"","eventId":"summer"}"#, 400, "userId is empty"),
        (r#"{"userId":" u1","eventId":"summer"}"#, 400, "white space"),
        (r#"{"userId":"a\u0000b","eventId":"summer"}"#, 400, "control character"),
        (r#"{"userId":"a\nb","eventId":"summer"}"#, 400, "control character"),
        (r#"{"userId":"\ud800","eventId":"summer"}"#, 400, ""),
        (r#"{"userId":"u\u200b1","eventId":"summer"}"#, 400, "invisible character"),
        (r#"{"userId":"\u202e1u","eventId":"summer"}"#, 400, "direction of the text"),
        (&long, 400, "more than 256 bytes"),
        (r#"{"userId":"u1","eventId":""}"#, 400, "eventId"),
        (r#"{"userId":"u1","eventId":"{summer}:x"}"#, 400, "eventId"),
        (r#"{"userId":"u1","eventId":"*"}"#, 400, "1 to 63 characters"),
        (r#"{"userId":"u1","eventId":"winter"}"#, 404, "the event winter does not exist"),
    ] {
        assert_problem(&issuer.post(body.to_owned()).await, status, detail);
    }
    assert_problem(&issuer.post(vec![0xff, 0xfe, b'{']).await, 400, "");
    assert_problem(&issuer.post(vec![b' '; 10 * 1024 * 1024]).await, 413, "16384 bytes");
    // The same without Content-Length.
    let endless = Body::from_stream(stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b' '; 1024])).take(100));
    assert_problem(&issuer.post(endless).await, 413, "16384 bytes");

    assert_eq!(world.redis_store.observe(&world.event).await.unwrap().unwrap().available, 10, "no coupon was issued");
}

#[tokio::test]
async fn user_id_may_contain_any_script() {
    let world = World::shared().await.open(10).await;
    let issuer = world.ready_issuer(&[]).await;
    for user in [
        "사용자-1",
        "🎟🎟",
        "👨\u{200d}👩\u{200d}👧 ❤\u{fe0f}",
        "a b",
        "O'Brien; DROP TABLE coupon",
        "{u}:1",
        "a/b?c#d%41",
    ] {
        let first = issuer.issue(user).await;
        assert!(first.succeeded(), "{user}: {}", first.json);
        let path = user.bytes().fold(String::new(), |path, byte| path + format!("%{byte:02X}").as_str());
        let lookup = issuer.get(&format!("/coupons/summer/users/{path}")).await;
        assert_eq!(
            (lookup.json["userId"].as_str(), lookup.json["couponKey"].as_str()),
            (Some(user), Some(first.coupon()))
        );
    }
}

#[tokio::test]
async fn wrong_method_path_or_content_type_returns_the_reason() {
    let world = World::shared().await.open(10).await;
    let issuer = world.ready_issuer(&[]).await;
    let valid = r#"{"userId":"u1","eventId":"summer"}"#;
    let typed = |kind: &'static str| Request::post("/").header("content-type", kind);
    assert_problem(&issuer.send(typed("text/plain"), "/coupons/issue", valid).await, 415, "application/json");
    assert_problem(&issuer.send(Request::post("/"), "/coupons/issue", valid).await, 415, "application/json");
    assert_problem(&issuer.send(Request::put("/"), "/coupons/issue", valid).await, 405, "/openapi.json");
    assert_problem(&issuer.get("/").await, 404, "/openapi.json");
    assert_problem(&issuer.get("/coupons/%7Bsummer%7D").await, 400, "eventId");
    assert_problem(&issuer.get("/coupons/winter").await, 404, "winter");
    assert_problem(&issuer.get("/coupons/winter/users/u1").await, 404, "winter");
    assert_problem(&issuer.get("/coupons/summer/users/a%00b").await, 400, "control character");
    assert_problem(&issuer.get("/coupons/summer/users/u%E2%80%8B1").await, 400, "invisible character");
    assert_problem(&issuer.get("/coupons/summer/users/%FF").await, 400, "");
    assert_eq!(
        issuer.send(typed("application/json; charset=utf-8"), "/coupons/issue", valid).await.status,
        StatusCode::OK
    );
}

/// A client that sends an incomplete request occupies only its own connection, for a limited time.
#[tokio::test]
async fn slow_body_returns_408_while_others_are_served() {
    let world = World::shared().await.open(1000).await;
    let issuer = world.ready_issuer(&["--body-timeout-seconds", "1"]).await;
    let mut slow = Vec::new();
    for _ in 0..50 {
        let mut connection = TcpStream::connect(("127.0.0.1", issuer.listen)).unwrap();
        let head =
            "POST /coupons/issue HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 34\r\n\r\n{";
        connection.write_all(head.as_bytes()).unwrap();
        slow.push(connection);
    }
    assert!(issuer.issue_all(0..100).await.iter().all(Response::succeeded));
    for mut connection in slow {
        let mut response = String::new();
        connection.read_to_string(&mut response).unwrap();
        assert!(response.starts_with("HTTP/1.1 408 "), "{response}");
        assert!(response.contains("was not received within"), "{response}");
        assert!(response.contains("\r\nconnection: close\r\n"), "{response}");
    }
}

#[tokio::test]
async fn incomplete_heads_do_not_delay_other_clients() {
    let world = World::shared().await.open(1000).await;
    let issuer = world.ready_issuer(&[]).await;
    let incomplete: Vec<_> = (0..50)
        .map(|_| {
            let mut connection = TcpStream::connect(("127.0.0.1", issuer.listen)).unwrap();
            connection.write_all(b"POST /coupons/issue HTTP/1.1\r\nHost: x\r\nContent-Ty").unwrap();
            connection
        })
        .collect();
    assert!(issuer.issue_all(0..100).await.iter().all(Response::succeeded));
    drop(incomplete);
}
