//! `POST /coupons/preload`, with tokens of real service accounts.

use anyhow::{Context as _, Result, ensure};
use couponry_testbed::{ports, program::Running, shared};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::stage::{Stage, eventually, holds};

/// An operator with its admin port.
struct Admin {
    stage: Stage,
    port: u16,
    _operator: Running,
}

/// What it answered.
struct Answer {
    status: u16,
    is_problem: bool,
    challenge: Option<String>,
    body: Value,
}

impl Answer {
    fn detail(&self) -> &str {
        self.body["detail"].as_str().unwrap_or_default()
    }
}

impl Admin {
    async fn start(more: &[&str]) -> Result<Self> {
        let stage = Stage::new().await?;
        let (port, monitor) = (ports::free()?, ports::free()?);
        let operator = start(&stage, port, monitor, more)?;
        ready(monitor).await?;
        Ok(Self { stage, port, _operator: operator })
    }

    /// A token of a new service account, which may create events or may not.
    fn token(&self, name: &str, may_create: bool) -> Result<String> {
        let namespace = ["--namespace", self.stage.namespace()];
        let kubectl = |args: &[&str]| shared::kubectl(&[args, &namespace].concat());
        kubectl(&["create", "serviceaccount", name])?;
        if may_create {
            kubectl(&["create", "role", name, "--verb=create", "--resource=couponevents.couponry.dev"])?;
            let account = format!("--serviceaccount={}:{name}", self.stage.namespace());
            kubectl(&["create", "rolebinding", name, &format!("--role={name}"), &account])?;
        }
        Ok(kubectl(&["create", "token", name])?.trim().to_owned())
    }

    async fn post(&self, token: &str, body: &Value) -> Result<Answer> {
        let headers = format!("Authorization: Bearer {token}\r\nContent-Type: application/json\r\n");
        self.ask("POST /coupons/preload", &headers, body.to_string().as_bytes()).await
    }

    async fn ask(&self, line: &str, headers: &str, body: &[u8]) -> Result<Answer> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        let length = body.len();
        let head = format!(
            "{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n"
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
        Ok(Answer {
            status: head.split(' ').nth(1).context("no status")?.parse()?,
            is_problem: head.to_lowercase().contains("content-type: application/problem+json"),
            challenge: head.lines().find_map(|line| line.strip_prefix("www-authenticate: ")).map(str::to_owned),
            body: serde_json::from_str(body).with_context(|| format!("not JSON: {answer}"))?,
        })
    }
}

fn start(stage: &Stage, port: u16, monitor: u16, more: &[&str]) -> Result<Running> {
    let admin = format!("127.0.0.1:{port}");
    stage.program_with_admin(monitor, &admin).args(more).start()
}

async fn ready(monitor: u16) -> Result<()> {
    eventually("the operator is ready", async || {
        Ok(crate::stage::monitor(monitor, "/readyz").await.is_some_and(|(status, _)| status == 200))
    })
    .await
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
async fn who_may_create_events_gets_one_and_asking_again_changes_nothing() -> Result<()> {
    let admin = Admin::start(&[]).await?;
    let token = admin.token("clerk", true)?;
    let made = admin.post(&token, &event("summer")).await?;
    assert_eq!((made.status, &made.body["created"]), (202, &json!(true)), "{}", made.body);
    let uid = admin.stage.uid("summer").await?.to_string();
    let expected =
        |created| json!({"eventId": "summer", "uid": uid, "namespace": admin.stage.namespace(), "created": created});
    assert_eq!(made.body, expected(true));
    admin.stage.wait("summer", "open", |status| holds(status, "Open")).await?;
    admin.stage.check_whole("summer", &[("PERCENT:10", 7), ("AMOUNT:5000", 3)]).await?;
    let object = admin.stage.get("summer").await?;
    let by = &object.metadata.annotations.unwrap_or_default()["couponry.dev/requested-by"];
    assert_eq!(*by, format!("system:serviceaccount:{}:clerk", admin.stage.namespace()));
    let managers = object.metadata.managed_fields.unwrap_or_default();
    ensure!(managers.iter().any(|fields| fields.manager.as_deref() == Some("couponry-admin")), "{managers:?}");

    let again = admin.post(&token, &event("summer")).await?;
    assert_eq!((again.status, again.body), (202, expected(false)));
    let mut other = event("summer");
    other["totalCouponCount"] = json!(11);
    let other = admin.post(&token, &other).await?;
    assert_eq!((other.status, other.is_problem), (409, true));
    ensure!(other.detail().contains("the event summer already exists"), "{}", other.body);
    assert_eq!(admin.stage.get("summer").await?.spec.total_count, 10);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_can_be_given() -> Result<()> {
    let admin = Admin::start(&[]).await?;
    let token = admin.token("clerk", true)?;
    let mut scheduled = event("winter");
    scheduled["startTime"] = json!("2100-01-01T00:00:00Z");
    scheduled["endTime"] = json!("2100-01-02T09:00:00+09:00");
    for _ in 0..2 {
        let answer = admin.post(&token, &scheduled).await?;
        assert_eq!(answer.status, 202, "{}", answer.body);
    }
    admin.stage.wait("winter", "scheduled", |status| crate::stage::reason(status, "Open") == "Scheduled").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_gets_none() -> Result<()> {
    let admin = Admin::start(&[]).await?;
    let body = event("none").to_string();
    let json = "Content-Type: application/json\r\n";
    let nobody = admin.ask("POST /coupons/preload", json, body.as_bytes()).await?;
    assert_eq!((nobody.status, nobody.is_problem), (401, true));
    assert_eq!(nobody.challenge.as_deref(), Some(r#"Bearer realm="couponry""#));
    let unknown = admin.post("not-a-token", &event("none")).await?;
    assert_eq!((unknown.status, unknown.is_problem), (401, true));
    assert_eq!(unknown.challenge.as_deref(), Some(r#"Bearer realm="couponry", error="invalid_token""#));
    let basic =
        admin.ask("POST /coupons/preload", &format!("Authorization: Basic eA==\r\n{json}"), body.as_bytes()).await?;
    assert_eq!(basic.status, 401);
    assert_eq!(basic.challenge, nobody.challenge);
    let guest = admin.post(&admin.token("guest", false)?, &event("none")).await?;
    assert_eq!((guest.status, guest.is_problem), (403, true));
    assert_eq!(guest.challenge, None, "signing in again would not help");
    let namespace = admin.stage.namespace();
    let words =
        format!("system:serviceaccount:{namespace}:guest may not create couponevents in the namespace {namespace}");
    assert_eq!(guest.detail(), words);

    // Who may elsewhere may not here.
    let other = Admin::start(&[]).await?;
    let stranger = admin.post(&other.token("clerk", true)?, &event("none")).await?;
    assert_eq!(stranger.status, 403);
    ensure!(admin.stage.events.get_opt("none").await?.is_none(), "somebody got one");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_request_is_said() -> Result<()> {
    let admin = Admin::start(&[]).await?;
    let token = admin.token("clerk", true)?;
    let bearer = format!("Authorization: Bearer {token}\r\n");
    let json = format!("{bearer}Content-Type: application/json\r\n");
    let path = "POST /coupons/preload";
    let whole = event("wrong").to_string();

    let large = vec![b' '; 10 * 1024 * 1024];
    for (line, headers, body, status, words) in [
        (path, &json, b"{\"eventId\": ".as_slice(), 400, "/openapi.json"),
        (path, &json, b"[]".as_slice(), 400, "expected an object"),
        (path, &json, b"{\"eventId\": \"wrong\"}".as_slice(), 400, "missing field"),
        (path, &bearer, whole.as_bytes(), 415, "Content-Type"),
        (path, &json, large.as_slice(), 413, "bytes"),
        ("GET /coupons/preload", &json, b"".as_slice(), 405, "/openapi.json"),
        ("POST /coupons/issue", &json, b"{}".as_slice(), 404, "/openapi.json"),
    ] {
        let answer = admin.ask(line, headers, body).await?;
        assert_eq!((answer.status, answer.is_problem), (status, true), "{line}: {}", answer.body);
        ensure!(answer.detail().contains(words), "{line}: {}", answer.body);
    }

    let change = |path: &str, value: Value| {
        let mut body = event("wrong");
        *body.pointer_mut(path).expect("it is there") = value;
        body
    };
    let mut ends_first = change("/totalCouponCount", json!(10));
    ends_first["startTime"] = json!("2100-01-02T00:00:00Z");
    ends_first["endTime"] = json!("2100-01-01T00:00:00Z");
    for (body, words) in [
        (
            change("/discountPolicies/0/allocationPercentage", json!(69)),
            "the allocationPercentage of all discounts must sum to 100",
        ),
        (change("/discountPolicies/0/value", json!(101)), "a Percent discount has a value from 1 to 100"),
        (change("/discountPolicies/0/type", json!("GIFT")), "Unsupported value: \"GIFT\""),
        (change("/totalCouponCount", json!(0)), "spec.totalCount"),
        (change("/totalCouponCount", json!(-5)), "spec.totalCount"),
        (change("/eventId", json!("Not a name")), "metadata.name"),
        (change("/eventId", json!("a".repeat(64))), "use at most 63 characters"),
        (ends_first, "endTime must be after startTime"),
    ] {
        let answer = admin.post(&token, &body).await?;
        assert_eq!((answer.status, answer.is_problem), (422, true), "{}", answer.body);
        ensure!(answer.detail().contains(words), "{}", answer.body);
    }
    let document = admin.ask("GET /openapi.json", "", b"").await?;
    ensure!(document.status == 200 && document.body["paths"]["/coupons/preload"].is_object());
    ensure!(admin.stage.events.get_opt("wrong").await?.is_none(), "one of them was taken");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_stands_by_serves_it_as_well() -> Result<()> {
    let admin = Admin::start(&["--leader-elect", "--identity", "leader"]).await?;
    let (port, monitor) = (ports::free()?, ports::free()?);
    let standby = start(&admin.stage, port, monitor, &["--leader-elect", "--identity", "standby"])?;
    ready(monitor).await?;
    let token = admin.token("clerk", true)?;
    let asked = Admin { port, _operator: standby, ..admin };
    let answer = asked.post(&token, &event("summer")).await?;
    assert_eq!(answer.status, 202, "{}", answer.body);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sends_slowly_keeps_no_other_out() -> Result<()> {
    let admin = Admin::start(&[]).await?;
    let token = admin.token("clerk", true)?;
    let head = format!(
        "POST /coupons/preload HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/json\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n"
    );
    let mut slow = Vec::new();
    // More than are worked on at once, and each is known for who it is by then.
    for _ in 0..20 {
        let mut stream = TcpStream::connect(("127.0.0.1", admin.port)).await?;
        stream.write_all(head.as_bytes()).await?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await?;
        assert_eq!(String::from_utf8_lossy(&answer), "HTTP/1.1 100");
        slow.push(stream);
    }
    let made = admin.post(&token, &event("summer")).await?;
    assert_eq!(made.status, 202, "{}", made.body);
    Ok(())
}
