//! `POST /coupons/preload`, with tokens of service accounts.

use anyhow::{Context as _, Result, ensure};
use couponry_testbed::{ports, program::Running, shared};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{World, is_true, reason, wait_operator_ready};

/// An operator with an admin API.
struct Admin {
    world: World,
    port: u16,
    _operator: Running,
}

/// A response of the admin API.
struct Response {
    status: u16,
    is_problem: bool,
    challenge: Option<String>,
    body: Value,
}

impl Response {
    fn detail(&self) -> &str {
        self.body["detail"].as_str().unwrap_or_default()
    }
}

impl Admin {
    async fn start(args: &[&str]) -> Result<Self> {
        let world = World::shared().await?;
        let (port, monitor) = (ports::free()?, ports::free()?);
        let operator = start_operator(&world, port, monitor, args)?;
        wait_operator_ready(monitor).await?;
        Ok(Self { world, port, _operator: operator })
    }

    /// A token of a new service account, with or without permission to create events.
    fn token(&self, name: &str, may_create: bool) -> Result<String> {
        let namespace = ["--namespace", self.world.namespace()];
        let kubectl = |args: &[&str]| shared::kubectl(&[args, &namespace].concat());
        kubectl(&["create", "serviceaccount", name])?;
        if may_create {
            kubectl(&["create", "role", name, "--verb=create", "--resource=couponevents.couponry.dev"])?;
            let account = format!("--serviceaccount={}:{name}", self.world.namespace());
            kubectl(&["create", "rolebinding", name, &format!("--role={name}"), &account])?;
        }
        Ok(kubectl(&["create", "token", name])?.trim().to_owned())
    }

    async fn post(&self, token: &str, body: &Value) -> Result<Response> {
        let headers = format!("Authorization: Bearer {token}\r\nContent-Type: application/json\r\n");
        self.send("POST /coupons/preload", &headers, body.to_string().as_bytes()).await
    }

    async fn send(&self, line: &str, headers: &str, body: &[u8]) -> Result<Response> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        let length = body.len();
        let head = format!(
            "{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n"
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body).await?;
        let mut response = String::new();
        stream.read_to_string(&mut response).await?;
        let (head, body) = response.split_once("\r\n\r\n").context("no response")?;
        Ok(Response {
            status: head.split(' ').nth(1).context("no status")?.parse()?,
            is_problem: head.to_lowercase().contains("content-type: application/problem+json"),
            challenge: head.lines().find_map(|line| line.strip_prefix("www-authenticate: ")).map(str::to_owned),
            body: serde_json::from_str(body).with_context(|| format!("not JSON: {response}"))?,
        })
    }
}

fn start_operator(world: &World, port: u16, monitor: u16, args: &[&str]) -> Result<Running> {
    let admin = format!("127.0.0.1:{port}");
    world.operator_program_with_admin(monitor, &admin).args(args).start()
}

fn event(name: &str) -> Value {
    json!({
        "eventId": name, "couponPolicyName": "Summer sale", "totalCouponCount": 10,
        "discountPolicies": [
            {"type": "PERCENT", "value": 10, "allocationPercentage": 70},
            {"type": "AMOUNT", "value": 5000, "allocationPercentage": 30},
        ],
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn preload_with_permission_creates_event_once() -> Result<()> {
    let admin = Admin::start(&[]).await?;
    let token = admin.token("editor", true)?;
    let created = admin.post(&token, &event("summer")).await?;
    assert_eq!((created.status, &created.body["created"]), (202, &json!(true)), "{}", created.body);
    let uid = admin.world.uid("summer").await?.to_string();
    let expected =
        |created| json!({"eventId": "summer", "uid": uid, "namespace": admin.world.namespace(), "created": created});
    assert_eq!(created.body, expected(true));
    admin.world.wait("summer", "open", |status| is_true(status, "Open")).await?;
    admin.world.check_generated_stock("summer", &[("PERCENT:10", 7), ("AMOUNT:5000", 3)]).await?;
    let object = admin.world.get("summer").await?;
    let requested_by = &object.metadata.annotations.unwrap_or_default()["couponry.dev/requested-by"];
    assert_eq!(*requested_by, format!("system:serviceaccount:{}:editor", admin.world.namespace()));
    let managers = object.metadata.managed_fields.unwrap_or_default();
    ensure!(managers.iter().any(|fields| fields.manager.as_deref() == Some("couponry-admin")), "{managers:?}");

    let repeated = admin.post(&token, &event("summer")).await?;
    assert_eq!((repeated.status, repeated.body), (202, expected(false)));
    let mut other = event("summer");
    other["totalCouponCount"] = json!(11);
    let other = admin.post(&token, &other).await?;
    assert_eq!((other.status, other.is_problem), (409, true));
    ensure!(other.detail().contains("the event summer already exists"), "{}", other.body);
    assert_eq!(admin.world.get("summer").await?.spec.total_count, 10);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn preload_with_window_schedules_event() -> Result<()> {
    let admin = Admin::start(&[]).await?;
    let token = admin.token("editor", true)?;
    let mut scheduled = event("winter");
    scheduled["startTime"] = json!("2100-01-01T00:00:00Z");
    scheduled["endTime"] = json!("2100-01-02T09:00:00+09:00");
    for _ in 0..2 {
        let response = admin.post(&token, &scheduled).await?;
        assert_eq!(response.status, 202, "{}", response.body);
    }
    admin.world.wait("winter", "scheduled", |status| reason(status, "Open") == "Scheduled").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn preload_without_permission_is_rejected() -> Result<()> {
    let admin = Admin::start(&[]).await?;
    let body = event("none").to_string();
    let json = "Content-Type: application/json\r\n";
    let anonymous = admin.send("POST /coupons/preload", json, body.as_bytes()).await?;
    assert_eq!((anonymous.status, anonymous.is_problem), (401, true));
    assert_eq!(anonymous.challenge.as_deref(), Some(r#"Bearer realm="couponry""#));
    let unknown = admin.post("not-a-token", &event("none")).await?;
    assert_eq!((unknown.status, unknown.is_problem), (401, true));
    assert_eq!(unknown.challenge.as_deref(), Some(r#"Bearer realm="couponry", error="invalid_token""#));
    let basic =
        admin.send("POST /coupons/preload", &format!("Authorization: Basic eA==\r\n{json}"), body.as_bytes()).await?;
    assert_eq!(basic.status, 401);
    assert_eq!(basic.challenge, anonymous.challenge);
    let guest = admin.post(&admin.token("guest", false)?, &event("none")).await?;
    assert_eq!((guest.status, guest.is_problem), (403, true));
    assert_eq!(guest.challenge, None, "authenticating again does not help");
    let namespace = admin.world.namespace();
    let words = format!(
        "system:serviceaccount:{namespace}:guest is not allowed to create couponevents in the namespace {namespace}"
    );
    assert_eq!(guest.detail(), words);

    // Permission in another namespace does not apply here.
    let other = Admin::start(&[]).await?;
    let foreign = admin.post(&other.token("editor", true)?, &event("none")).await?;
    assert_eq!(foreign.status, 403);
    ensure!(admin.world.events.get_opt("none").await?.is_none(), "an event was created without permission");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_preload_returns_cause() -> Result<()> {
    let admin = Admin::start(&[]).await?;
    let token = admin.token("editor", true)?;
    let bearer = format!("Authorization: Bearer {token}\r\n");
    let json = format!("{bearer}Content-Type: application/json\r\n");
    let path = "POST /coupons/preload";
    let complete = event("invalid").to_string();

    let large = vec![b' '; 10 * 1024 * 1024];
    for (line, headers, body, status, words) in [
        (path, &json, b"{\"eventId\": ".as_slice(), 400, "/openapi.json"),
        (path, &json, b"[]".as_slice(), 400, "expected an object"),
        (path, &json, b"{\"eventId\": \"invalid\"}".as_slice(), 400, "missing field"),
        (path, &bearer, complete.as_bytes(), 415, "Content-Type"),
        (path, &json, large.as_slice(), 413, "bytes"),
        ("GET /coupons/preload", &json, b"".as_slice(), 405, "/openapi.json"),
        ("POST /coupons/issue", &json, b"{}".as_slice(), 404, "/openapi.json"),
    ] {
        let response = admin.send(line, headers, body).await?;
        assert_eq!((response.status, response.is_problem), (status, true), "{line}: {}", response.body);
        ensure!(response.detail().contains(words), "{line}: {}", response.body);
    }

    let change = |path: &str, value: Value| {
        let mut body = event("invalid");
        *body.pointer_mut(path).expect("the field exists") = value;
        body
    };
    let mut ends_before_start = change("/totalCouponCount", json!(10));
    ends_before_start["startTime"] = json!("2100-01-02T00:00:00Z");
    ends_before_start["endTime"] = json!("2100-01-01T00:00:00Z");
    for (body, words) in [
        (
            change("/discountPolicies/0/allocationPercentage", json!(69)),
            "the allocationPercentage of all discounts must sum to 100",
        ),
        (change("/discountPolicies/0/value", json!(101)), "the value of a Percent discount must be from 1 to 100"),
        (change("/discountPolicies/0/type", json!("GIFT")), "Unsupported value: \"GIFT\""),
        (change("/totalCouponCount", json!(0)), "spec.totalCount"),
        (change("/totalCouponCount", json!(-5)), "spec.totalCount"),
        (change("/eventId", json!("Not a name")), "metadata.name"),
        (change("/eventId", json!("a".repeat(64))), "use at most 63 characters"),
        (ends_before_start, "endTime must be after startTime"),
    ] {
        let response = admin.post(&token, &body).await?;
        assert_eq!((response.status, response.is_problem), (422, true), "{}", response.body);
        ensure!(response.detail().contains(words), "{}", response.body);
    }
    let document = admin.send("GET /openapi.json", "", b"").await?;
    ensure!(document.status == 200 && document.body["paths"]["/coupons/preload"].is_object());
    ensure!(admin.world.events.get_opt("invalid").await?.is_none(), "an invalid request created an event");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn standby_operator_serves_preload() -> Result<()> {
    let admin = Admin::start(&["--leader-elect", "--identity", "leader"]).await?;
    let (port, monitor) = (ports::free()?, ports::free()?);
    let standby = start_operator(&admin.world, port, monitor, &["--leader-elect", "--identity", "standby"])?;
    wait_operator_ready(monitor).await?;
    let token = admin.token("editor", true)?;
    let admin = Admin { port, _operator: standby, ..admin };
    let response = admin.post(&token, &event("summer")).await?;
    assert_eq!(response.status, 202, "{}", response.body);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_requests_do_not_block_others() -> Result<()> {
    let admin = Admin::start(&[]).await?;
    let token = admin.token("editor", true)?;
    let head = format!(
        "POST /coupons/preload HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/json\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n"
    );
    let mut slow = Vec::new();
    // More than the limit of concurrent requests. The status 100 means that the request is authenticated.
    for _ in 0..20 {
        let mut stream = TcpStream::connect(("127.0.0.1", admin.port)).await?;
        stream.write_all(head.as_bytes()).await?;
        let mut response = [0; 12];
        stream.read_exact(&mut response).await?;
        assert_eq!(String::from_utf8_lossy(&response), "HTTP/1.1 100");
        slow.push(stream);
    }
    let created = admin.post(&token, &event("summer")).await?;
    assert_eq!(created.status, 202, "{}", created.body);
    Ok(())
}
