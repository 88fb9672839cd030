//! Rules of HTTP: caching, hosts, codings, and paths that look like routes.

use std::collections::BTreeSet;

use axum::{
    body::Body,
    http::{Request, StatusCode},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{World, exchange, until};

const ISSUE: &str = "POST /coupons/issue HTTP/1.1\r\nContent-Type: application/json\r\n";
const BODY: &str = r#"{"userId":"u1","eventId":"summer"}"#;

#[tokio::test]
async fn responses_about_users_and_problems_are_not_stored_by_caches() {
    let world = World::shared().await.open(10).await;
    let issuer = world.ready_issuer(&[]).await;
    for response in [
        issuer.issue("u1").await,
        issuer.issue("u1").await,
        issuer.get("/coupons/summer/users/u1").await,
        issuer.get("/coupons/summer/users/u2").await,
        issuer.get("/coupons/winter").await,
        issuer.get("/").await,
        issuer.post("{").await,
        issuer.send(Request::put("/"), "/coupons/issue", Body::empty()).await,
    ] {
        assert!(["no-store", "private, no-store"].contains(&response.headers["cache-control"].to_str().unwrap()));
    }
    assert!(!issuer.get("/openapi.json").await.headers.contains_key("cache-control"));
    assert_eq!(issuer.get("/coupons/summer").await.headers["cache-control"], "public, max-age=1");
}

/// Issue requests pass through the router only if it has a layer, for example the log of failed requests.
#[tokio::test]
async fn issue_requests_have_the_same_response_with_and_without_the_router() {
    let world = World::shared().await.open(10).await;
    let direct = world.ready_issuer(&[]).await;
    let routed = world.ready_issuer(&["--log", "info,requests=debug"]).await;
    let unknown = BODY.replace("summer", "winter");
    let with_length =
        |body: &str| format!("Host: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let chunked = "Host: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
    let post = |target: &str, rest: &str| format!("{}{rest}", ISSUE.replace("/coupons/issue", target));
    let first = |body: &str| format!("{ISSUE}Host: x\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let requests = [
        post("/coupons/issue", &with_length(BODY)),
        post("/coupons/issue", &with_length(&unknown)),
        post("/coupons/issue?a=b", &with_length(&unknown)),
        post("http://x/coupons/issue", &with_length(&unknown)),
        post("/coupons/%69ssue", &with_length(&unknown)),
        post("/coupons/issue/", &with_length(&unknown)),
        post("/coupons/issue", &with_length("")),
        post("/coupons/issue", &with_length("{")),
        post("/coupons/issue", &with_length(&" ".repeat(16 * 1024 + 1))),
        post("/coupons/issue", &format!("{chunked}{:x}\r\n{unknown}\r\n0\r\nX-Trailer: 1\r\n\r\n", unknown.len())),
        post("/coupons/issue", &format!("{chunked}xyz\r\n")),
        post("/coupons/issue", &format!("Expect: 100-continue\r\n{}", with_length(&unknown))),
        post("/coupons/issue", &with_length(&unknown)).replace("application/json", "text/plain"),
        post("/coupons/issue", &with_length(&unknown)).replacen("POST", "PUT", 1),
        post("/coupons/issue", &with_length("")).replacen("POST", "HEAD", 1),
        post("/coupons/issue", &with_length("")).replacen("POST", "OPTIONS", 1),
        format!("{}{}", first(&unknown), post("/coupons/issue", &with_length("{}"))),
    ];
    assert_eq!(direct.issue("u1").await.status, StatusCode::OK, "the first request is then a duplicate at both");
    for request in requests {
        let lines = |response: String| {
            let is_constant = |line: &&str| !line.starts_with("x-request-id: ") && !line.starts_with("date: ");
            // The order of headers has no meaning.
            response.split("\r\n").filter(is_constant).map(str::to_owned).collect::<BTreeSet<_>>()
        };
        let responses = [direct.listen, routed.listen].map(|port| exchange(port, &request));
        let [direct, routed] = futures::future::join_all(responses).await.try_into().unwrap();
        assert_eq!(lines(direct), lines(routed), "{request}");
    }
}

#[tokio::test]
async fn request_without_exactly_one_host_is_rejected() {
    let world = World::shared().await.open(10).await;
    let issuer = world.ready_issuer(&[]).await;
    let length = format!("Content-Length: {}\r\n", BODY.len());
    for (hosts, count) in [("", 0), ("Host: x\r\nHost: y\r\n", 2), ("Host: x\r\nHost: x\r\n", 2)] {
        let response = exchange(issuer.listen, &format!("{ISSUE}{hosts}{length}\r\n{BODY}")).await;
        assert!(response.starts_with("HTTP/1.1 400 ") && response.contains("connection: close"), "{response}");
        let detail = format!("exactly one header `Host` is required, the request has {count}");
        assert!(response.contains("application/problem+json") && response.contains(&detail), "{response}");
    }
    let old = format!("{}{length}\r\n{BODY}", ISSUE.replace("HTTP/1.1", "HTTP/1.0"));
    assert!(exchange(issuer.listen, &old).await.starts_with("HTTP/1.0 200 "), "HTTP/1.0 has no Host");
}

#[tokio::test]
async fn other_codings_than_chunked_are_rejected() {
    let world = World::shared().await.open(10).await;
    let issuer = world.ready_issuer(&[]).await;
    let chunked = format!("{:x}\r\n{BODY}\r\n0\r\n\r\n", BODY.len());
    for codings in [
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: identity, chunked\r\n",
        "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
    ] {
        let response = exchange(issuer.listen, &format!("{ISSUE}Host: x\r\n{codings}\r\n{chunked}")).await;
        assert!(
            response.starts_with("HTTP/1.1 400 ") && response.contains("connection: close"),
            "{codings}: {response}"
        );
        assert!(response.contains("`Transfer-Encoding: chunked`"), "{codings}: {response}");
    }
    // hyper rejects these itself, without a body.
    for codings in ["Transfer-Encoding: gzip\r\n", "Transfer-Encoding: identity\r\n"] {
        let response = exchange(issuer.listen, &format!("{ISSUE}Host: x\r\n{codings}\r\n{chunked}")).await;
        assert!(response.starts_with("HTTP/1.1 400 "), "{codings}: {response}");
    }
    let valid = format!("{ISSUE}Host: x\r\nConnection: close\r\nTransfer-Encoding: Chunked\r\n\r\n{chunked}");
    assert!(exchange(issuer.listen, &valid).await.starts_with("HTTP/1.1 200 "));

    let typed = || Request::post("/").header("content-type", "application/json");
    let gzip = issuer.send(typed().header("content-encoding", "gzip"), "/coupons/issue", BODY).await;
    assert_eq!(gzip.status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{}", gzip.json);
    assert!(gzip.json["detail"].as_str().unwrap().contains("must not be compressed"), "{}", gzip.json);
    let identity = issuer.send(typed().header("content-encoding", "identity"), "/coupons/issue", BODY).await;
    assert_eq!(identity.status, StatusCode::OK, "{}", identity.json);
}

#[tokio::test]
async fn head_above_the_limits_returns_431() {
    let world = World::shared().await.open(10).await;
    let issuer = world.ready_issuer(&[]).await;
    let head = "GET /coupons/summer HTTP/1.1\r\nHost: x\r\nConnection: close\r\n";
    let with = |more: String| format!("{head}{more}\r\n");
    assert!(exchange(issuer.listen, &with("X: y\r\n".repeat(90))).await.starts_with("HTTP/1.1 200 "));
    assert!(exchange(issuer.listen, &with("X: y\r\n".repeat(110))).await.starts_with("HTTP/1.1 431 "));
    assert!(exchange(issuer.listen, &with(format!("X: {}\r\n", "y".repeat(30_000)))).await.contains(" 200 "));
    for bytes in [33_000, 40_000, 100_000] {
        let response = exchange(issuer.listen, &with(format!("X: {}\r\n", "y".repeat(bytes)))).await;
        assert!(response.starts_with("HTTP/1.1 431 ") && response.contains("connection: close"), "{bytes}: {response}");
    }
}

#[tokio::test]
async fn unusual_targets_and_versions_are_rejected() {
    let world = World::shared().await.open(10).await;
    let issuer = world.ready_issuer(&[]).await;
    for (line, status) in [
        ("OPTIONS * HTTP/1.1", " 405 "),
        ("OPTIONS /coupons/issue HTTP/1.1", " 405 "),
        ("OPTIONS /nothing HTTP/1.1", " 405 "),
        ("GET /coupons/summer/users/% HTTP/1.1", " 400 "),
        ("GET /coupons/summer/users/%zz HTTP/1.1", " 400 "),
        ("GET /coupons/summer/users/100%25 HTTP/1.1", " 404 "),
        ("GET /coupons/summer/users/%E2%A0%80 HTTP/1.1", " 400 "),
        ("GET /coupons/summer HTTP/3", " 400 "),
    ] {
        let response = exchange(issuer.listen, &format!("{line}\r\nHost: x\r\nConnection: close\r\n\r\n")).await;
        assert!(response.lines().next().unwrap_or_default().contains(status), "{line}: {response}");
    }
    assert_eq!(exchange(issuer.listen, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await, "", "the preface of HTTP/2");
    assert!(issuer.issue("u1").await.succeeded(), "the others are served");
}

#[tokio::test]
async fn event_with_the_name_of_a_route_is_served() {
    let mut world = World::shared().await;
    world.event = "issue".parse().unwrap();
    let world = world.open(10).await;
    let issuer = world.ready_issuer(&[]).await;
    let event = issuer.get("/coupons/issue").await;
    assert_eq!((event.status, &event.json["state"]), (StatusCode::OK, &"OPEN".into()), "{}", event.json);
    assert!(issuer.post(r#"{"userId":"u1","eventId":"issue"}"#).await.succeeded());
    assert_eq!(issuer.get("/coupons/issue/users/u1").await.status, StatusCode::OK);
    let put = issuer.send(Request::put("/"), "/coupons/issue", Body::empty()).await;
    assert_eq!(put.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn actual_port_is_logged() {
    let world = World::shared().await;
    let issuer = couponry_testbed::program("couponry-issuer")
        .args(["--redis-url", &world.redis, "--kafka-brokers", &world.kafka.brokers])
        .args(["--listen", "[::1]:0", "--monitor-listen", "127.0.0.1:0"])
        .start()
        .unwrap();
    let port = |address: &str| {
        let log = issuer.log();
        let digits = log.split(address).nth(1)?.split(|c: char| !c.is_ascii_digit()).next()?.to_owned();
        digits.parse::<u16>().ok()
    };
    until("both ports are logged", async || port("127.0.0.1:").is_some() && port("[::1]:").is_some()).await;
    assert_ne!(port("127.0.0.1:"), Some(0));
    let mut connection = TcpStream::connect(("::1", port("[::1]:").unwrap())).await.unwrap();
    connection.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut response = String::new();
    connection.read_to_string(&mut response).await.unwrap();
    assert!(response.starts_with("HTTP/1.1 404 "), "{response}");
}
