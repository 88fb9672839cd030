//! Bad input gets a clear error, and costs nobody a coupon.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use axum::{
    body::Body,
    http::{Request, StatusCode},
};
use futures::{StreamExt, stream};

use crate::support::{Answer, World};

fn assert_problem(answer: &Answer, status: u16, detail: &str) {
    assert_eq!(answer.status, status, "{}", answer.json);
    assert_eq!(answer.headers["content-type"], "application/problem+json");
    assert_eq!(answer.json["status"], status);
    assert!(answer.json["type"].as_str().unwrap().starts_with("urn:couponry:problem:"));
    assert!(answer.json["detail"].as_str().unwrap().contains(detail), "{} is not about {detail:?}", answer.json);
}

#[tokio::test]
async fn bad_requests_are_refused_with_their_reason() {
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
        (&long, 400, "more than 256 bytes"),
        (r#"{"userId":"u1","eventId":""}"#, 400, "eventId"),
        (r#"{"userId":"u1","eventId":"{summer}:x"}"#, 400, "eventId"),
        (r#"{"userId":"u1","eventId":"*"}"#, 400, "eventId"),
        (r#"{"userId":"u1","eventId":"winter"}"#, 404, "there is no event winter"),
    ] {
        assert_problem(&issuer.post(body.to_owned()).await, status, detail);
    }
    assert_problem(&issuer.post(vec![0xff, 0xfe, b'{']).await, 400, "");
    assert_problem(&issuer.post(vec![b' '; 10 * 1024 * 1024]).await, 413, "16384 bytes");
    // The same without a declared length.
    let endless = Body::from_stream(stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b' '; 1024])).take(100));
    assert_problem(&issuer.post(endless).await, 413, "16384 bytes");

    assert_eq!(world.stock.observe(&world.event).await.unwrap().unwrap().available, 10, "nothing was given");
}

#[tokio::test]
async fn users_of_any_script_are_welcome() {
    let world = World::shared().await.open(10).await;
    let issuer = world.ready_issuer(&[]).await;
    for user in ["사용자-1", "🎟🎟", "a b", "O'Brien; DROP TABLE coupon", "{u}:1", "a/b?c#d%41"] {
        let first = issuer.issue(user).await;
        assert!(first.succeeded(), "{user}: {}", first.json);
        let path = user.bytes().fold(String::new(), |path, byte| path + &format!("%{byte:02X}"));
        let held = issuer.get(&format!("/coupons/summer/users/{path}")).await;
        assert_eq!((held.json["userId"].as_str(), held.json["couponKey"].as_str()), (Some(user), Some(first.coupon())));
    }
}

#[tokio::test]
async fn wrong_ways_to_ask_are_named() {
    let world = World::shared().await.open(10).await;
    let issuer = world.ready_issuer(&[]).await;
    let good = r#"{"userId":"u1","eventId":"summer"}"#;
    let typed = |kind: &'static str| Request::post("/").header("content-type", kind);
    assert_problem(&issuer.send(typed("text/plain"), "/coupons/issue", good).await, 415, "application/json");
    assert_problem(&issuer.send(Request::post("/"), "/coupons/issue", good).await, 415, "application/json");
    assert_problem(&issuer.send(Request::put("/"), "/coupons/issue", good).await, 405, "/openapi.json");
    assert_problem(&issuer.get("/").await, 404, "/openapi.json");
    assert_problem(&issuer.get("/coupons/%7Bsummer%7D").await, 400, "eventId");
    assert_problem(&issuer.get("/coupons/winter").await, 404, "winter");
    assert_problem(&issuer.get("/coupons/winter/users/u1").await, 404, "winter");
    assert_problem(&issuer.get("/coupons/summer/users/a%00b").await, 400, "control character");
    assert_problem(&issuer.get("/coupons/summer/users/%FF").await, 400, "");
    assert_eq!(
        issuer.send(typed("application/json; charset=utf-8"), "/coupons/issue", good).await.status,
        StatusCode::OK
    );
}

/// A client that sends half of its request holds only its own connection, and not for ever.
#[tokio::test]
async fn a_slow_client_is_let_go_while_others_are_served() {
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
    assert!(issuer.issue_all(0..100).await.iter().all(Answer::succeeded));
    for mut connection in slow {
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        assert!(answer.contains("did not come within"), "{answer}");
    }
}

#[tokio::test]
async fn heads_that_do_not_end_keep_nobody_waiting() {
    let world = World::shared().await.open(1000).await;
    let issuer = world.ready_issuer(&[]).await;
    let half_asked: Vec<_> = (0..50)
        .map(|_| {
            let mut connection = TcpStream::connect(("127.0.0.1", issuer.listen)).unwrap();
            connection.write_all(b"POST /coupons/issue HTTP/1.1\r\nHost: x\r\nContent-Ty").unwrap();
            connection
        })
        .collect();
    assert!(issuer.issue_all(0..100).await.iter().all(Answer::succeeded));
    drop(half_asked);
}
