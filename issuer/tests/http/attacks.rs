//! Attacks by clients. `docs/operate/security.md` lists each of them.

use std::collections::HashSet;

use axum::{
    body::Body,
    http::{Request, StatusCode},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{self, Duration},
};

use crate::support::{World, until};

/// Sends these bytes and reads the response until the connection ends or a timeout expires.
async fn raw(port: u16, bytes: &[u8]) -> String {
    let mut connection = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    // The issuer may close the connection before it has received everything.
    let _ = connection.write_all(bytes).await;
    let _ = connection.shutdown().await;
    let mut response = Vec::new();
    let _ = time::timeout(Duration::from_mins(1), connection.read_to_end(&mut response)).await;
    String::from_utf8_lossy(&response).into_owned()
}

fn percent_encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |path, byte| path + format!("%{byte:02X}").as_str())
}

#[tokio::test]
async fn user_ids_with_special_characters_are_not_interpreted() {
    let world = World::shared().await.open(20).await;
    let issuer = world.ready_issuer(&[]).await;
    let names = [
        r#"a","status":"COMPLETED","x":""#,
        ":COMPLETED",
        r"a\",
        r"\u0000",
        "couponMeta:{summer}",
        "{summer}:*",
        "$1\u{b7}FLUSHALL",
        "'; return redis.call('FLUSHALL') --",
        "]] os.exit() --[[",
        "%s%n%99999d",
        "${jndi:ldap://127.0.0.1/a}",
        "{\"$ne\":1}",
        "../../u1",
        "<script>alert(1)</script>",
    ];
    for name in names {
        let first = issuer.issue(name).await;
        assert!(first.succeeded(), "{name}: {}", first.json);
        let lookup = issuer.get(&format!("/coupons/summer/users/{}", percent_encoded(name))).await;
        assert_eq!((&lookup.json["userId"], &lookup.json["couponKey"]), (&json!(name), &json!(first.coupon())));
        assert_eq!(lookup.json["recorded"], false, "{name}");
    }
    let expected: HashSet<String> = names.iter().map(|&name| name.to_owned()).collect();
    let holders = world.redis_store.scan_issued(&world.event).await.unwrap();
    assert_eq!(holders.keys().map(ToString::to_string).collect::<HashSet<_>>(), expected);
    assert_eq!(world.users_in_kafka(names.len()).await, expected);
    assert_eq!(world.redis_store.events().await.unwrap(), std::slice::from_ref(&world.event));
    assert_eq!(world.redis_store.observe(&world.event).await.unwrap().unwrap().available, 20 - names.len() as u64);
}

#[tokio::test]
async fn coupon_of_another_user_is_neither_shown_nor_issued() {
    let world = World::shared().await.open(10).await;
    let issuer = world.ready_issuer(&["--user-identity", "header:X-User-Id"]).await;
    let issue = |user: &'static str, body: Value| {
        let request = Request::post("/").header("Content-Type", "application/json").header("X-User-Id", user);
        issuer.send(request, "/coupons/issue", body.to_string())
    };
    let own = issue("u1", json!({"eventId": "summer"})).await;
    assert!(own.succeeded());
    // The responses must not reveal whether another user has a coupon.
    let mut responses = Vec::new();
    for other in ["u1", "nobody"] {
        let request = Request::get("/").header("X-User-Id", "u2");
        let lookup = issuer.send(request, &format!("/coupons/summer/users/{other}"), Body::empty()).await;
        let other_issue = issue("u2", json!({"eventId": "summer", "userId": other})).await;
        for response in [lookup, other_issue] {
            assert_eq!(response.status, StatusCode::BAD_REQUEST, "{}", response.json);
            assert!(!response.json.to_string().contains(own.coupon()));
            responses.push(response.json);
        }
    }
    assert!(responses.iter().all(|response| *response == responses[0]), "{responses:?}");
    assert_eq!(world.redis_store.observe(&world.event).await.unwrap().unwrap().issued, 1, "only u1 has a coupon");
    // No route accepts a coupon code.
    for path in ["/coupons/{}", "/coupons/summer/{}", "/coupons/summer/coupons/{}"] {
        let request = Request::get("/").header("X-User-Id", "u2");
        let response = issuer.send(request, &path.replace("{}", own.coupon()), Body::empty()).await;
        assert!(matches!(response.status.as_u16(), 400 | 404), "{path}: {}", response.json);
    }
    // A similar header name, which a proxy might not strip, is not trusted.
    for name in ["X_User_Id", "X-User-Id2", "X-Original-User-Id"] {
        let request = Request::get("/").header(name, "u1");
        let response = issuer.send(request, "/coupons/summer/users/u1", Body::empty()).await;
        assert_eq!(response.status, StatusCode::UNAUTHORIZED, "{name}");
        assert!(response.headers.contains_key("www-authenticate"), "{name}");
    }
    // A proxy may have joined the header of the client and its own.
    let joined = issue("u1, u2", json!({"eventId": "summer"})).await;
    assert_eq!(joined.status, StatusCode::UNAUTHORIZED, "{}", joined.json);
}

/// A request that two servers could parse differently (request smuggling) must be rejected.
#[tokio::test]
async fn ambiguous_http_request_issues_no_coupon() {
    let world = World::shared().await.open(10).await;
    let issuer = world.ready_issuer(&[]).await;
    let body = r#"{"userId":"u1","eventId":"summer"}"#;
    let start = "POST /coupons/issue HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n";
    let length = format!("Content-Length: {}\r\n", body.len());
    for (case, request) in [
        ("two lengths", format!("{start}{length}Content-Length: 5\r\n\r\n{body}")),
        ("two lengths in one", format!("{start}Content-Length: 5, {}\r\n\r\n{body}", body.len())),
        ("a signed length", format!("{start}Content-Length: +{}\r\n\r\n{body}", body.len())),
        ("a negative length", format!("{start}Content-Length: -1\r\n\r\n{body}")),
        ("a huge length", format!("{start}Content-Length: 99999999999999999999999\r\n\r\n{body}")),
        ("a space before the colon", format!("{start}Content-Length : {}\r\n\r\n{body}", body.len())),
        ("a folded line", format!("{start}X: a\r\n b\r\n{length}\r\n{body}")),
        ("an unknown coding", format!("{start}Transfer-Encoding: xchunked\r\n\r\n22\r\n{body}\r\n0\r\n\r\n")),
        (
            "chunked is not the last coding",
            format!("{start}Transfer-Encoding: chunked, gzip\r\n\r\n22\r\n{body}\r\n0\r\n\r\n"),
        ),
        ("a chunk without length", format!("{start}Transfer-Encoding: chunked\r\n\r\nxx\r\n{body}\r\n0\r\n\r\n")),
        ("a chunk without end", format!("{start}Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\n{body}\r\n")),
        ("zero in a header", format!("{start}X: a\0b\r\n{length}\r\n{body}")),
        ("an escape in a header", format!("{start}X: a\x1b[31mb\r\n{length}\r\n{body}")),
        ("no version", format!("POST /coupons/issue\r\n{length}\r\n{body}")),
        ("another version", format!("POST /coupons/issue HTTP/3.0\r\n{length}\r\n{body}")),
        ("another protocol", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned()),
        ("half a body", format!("{start}{length}\r\n{}", &body[..body.len() - 1])),
        ("a tunnel", "CONNECT 127.0.0.1:6379 HTTP/1.1\r\nHost: x\r\n\r\n".to_owned()),
    ] {
        let response = raw(issuer.listen, request.as_bytes()).await;
        assert!(response.is_empty() || response.starts_with("HTTP/1.1 4"), "{case}: {response}");
        assert!(!response.contains(r#""success""#), "{case}: {response}");
    }
    assert_eq!(world.redis_store.observe(&world.event).await.unwrap().unwrap().available, 10, "no coupon was issued");

    // Content-Length together with Transfer-Encoding: the bytes after the body must not be parsed as a request.
    let hidden = format!("{start}{length}\r\n{body}");
    let both = format!("{start}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}");
    let response = raw(issuer.listen, both.as_bytes()).await;
    assert!(!response.contains(r#""success""#), "{response}");
    assert_eq!(world.redis_store.observe(&world.event).await.unwrap().unwrap().available, 10, "no coupon was issued");
}

#[tokio::test]
async fn heads_and_bodies_are_limited() {
    let world = World::shared().await.open(10).await;
    let issuer = world.ready_issuer(&[]).await;
    let start = "GET /coupons/summer HTTP/1.1\r\nHost: x\r\n";
    for (case, request) in [
        ("a long header", format!("{start}X: {}\r\n\r\n", "x".repeat(40_000))),
        ("many headers", format!("{start}{}\r\n", "X: y\r\n".repeat(5000))),
        ("a long path", format!("GET /coupons/{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(70_000))),
    ] {
        let response = raw(issuer.listen, request.as_bytes()).await;
        assert!(response.is_empty() || response.starts_with("HTTP/1.1 4"), "{case}: {response}");
    }
    // Nesting as deep as the size limit allows.
    for deep in ["[", "{\"a\":", "[{\"a\":"] {
        let body = format!(r#"{{"userId":"u1","eventId":"summer","x":{}"#, deep.repeat(16_000 / deep.len()));
        assert_eq!(issuer.post(body).await.status, StatusCode::BAD_REQUEST, "{deep}");
    }
}

#[tokio::test]
async fn log_contains_no_users_and_no_injected_lines() {
    let world = World::shared().await.open(10).await;
    for format in ["text", "json"] {
        let flags = ["--log", "debug,requests=debug", "--log-format", format, "--trusted-proxies", "1"];
        let issuer = world.ready_issuer(&flags).await;
        let coupon = issuer.issue("ATTACK-user").await.coupon().to_owned();
        issuer.post(r#"{"userId":"ATTACK\n2026 ERROR","eventId":"summer"}"#).await;
        issuer.post(r#"{"userId":"u","eventId":"ATTACK\u001b[31m"}"#).await;
        issuer.post(r#"{"userId":{"ATTACK":"\n"},"eventId":"summer"}"#).await;
        issuer.get("/coupons/summer/users/ATTACK%0A2026%20ERROR").await;
        issuer.get("/ATTACK%0A").await;
        let request = Request::get("/")
            .header("X-Request-Id", r#"last"},{"level":"ERROR"#)
            .header("traceparent", "ATTACK traced")
            .header("X-Forwarded-For", "1.2.3.4\" ATTACK=\"1");
        issuer.send(request, "/coupons/winter", Body::empty()).await;
        until("the last request is logged", async || issuer.running.log().contains("last")).await;
        let log = issuer.running.log();
        assert!(!log.contains("ATTACK") && !log.contains(&coupon), "{log}");
        assert!(!log.contains('\u{1b}'), "{log}");
        if format == "json" {
            for line in log.lines() {
                let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
                assert_ne!(line["level"], "ERROR", "{line}");
            }
        } else {
            assert!(log.contains(r#"last\"},{\"level\":\"ERROR"#), "{log}");
        }
        let metrics = issuer.metrics().await;
        assert!(!metrics.contains("ATTACK") && !metrics.contains(&coupon), "{metrics}");
    }
}
