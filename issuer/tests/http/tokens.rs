//! `--user-identity jwt`: valid and invalid tokens, and the rotation of keys.

use std::{
    fs,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    http::{HeaderMap, Request, StatusCode},
    routing::get,
};
use couponry_testbed::ports;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};

use crate::{
    support::{Issuer, Response, World, until},
    token_signer::{Signer, base64, claims, now},
};

/// An HTTP server of a JWKS.
struct JwksServer {
    port: u16,
    keys: Arc<Mutex<Vec<Value>>>,
    /// The `Authorization` header of the last request.
    authorization: Arc<Mutex<Option<String>>>,
    running: Mutex<Option<JoinHandle<()>>>,
}

impl JwksServer {
    fn new(signers: &[&Signer]) -> Self {
        let port = ports::free().unwrap();
        let server = Self { port, keys: Arc::default(), authorization: Arc::default(), running: Mutex::default() };
        server.serve(signers);
        server
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/jwks", self.port)
    }

    fn serve(&self, signers: &[&Signer]) {
        *self.keys.lock().unwrap() = signers.iter().map(|signer| signer.jwk()).collect();
    }

    async fn start(&self) {
        let (keys, authorization) = (self.keys.clone(), self.authorization.clone());
        let response = move |headers: HeaderMap| async move {
            let value = headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
            *authorization.lock().unwrap() = value;
            json!({ "keys": *keys.lock().unwrap() }).to_string()
        };
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.unwrap();
        let router = Router::new().route("/jwks", get(response));
        *self.running.lock().unwrap() = Some(tokio::spawn(async { axum::serve(listener, router).await.unwrap() }));
    }

    async fn stop(&self) {
        let running = self.running.lock().unwrap().take().unwrap();
        running.abort();
        let _ = running.await;
    }
}

/// A file with a JWKS, removed on drop.
pub(crate) struct JwksFile(pub(crate) PathBuf);

impl JwksFile {
    pub(crate) fn new(world: &World, signers: &[&Signer]) -> Self {
        let file = Self(std::env::temp_dir().join(format!("jwks-{}.json", world.uid)));
        file.write(signers);
        file
    }

    fn write(&self, signers: &[&Signer]) {
        let keys: Vec<_> = signers.iter().map(|signer| signer.jwk()).collect();
        // Atomically, like the kubelet.
        let new = self.0.with_extension("new");
        fs::write(&new, json!({ "keys": keys }).to_string()).unwrap();
        fs::rename(new, &self.0).unwrap();
    }
}

impl Drop for JwksFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

const TRUSTED: [&str; 4] = ["--jwt-issuer", "https://login.example", "--jwt-audience", "coupons"];

fn flags<'a>(keys: &[&'a str]) -> Vec<&'a str> {
    [&["--user-identity", "jwt"], keys, &TRUSTED].concat()
}

async fn issue(issuer: &Issuer, token: &str) -> Response {
    issue_with_header(issuer, &format!("Bearer {token}")).await
}

async fn issue_with_header(issuer: &Issuer, authorization: &str) -> Response {
    let request = Request::post("/").header("Content-Type", "application/json").header("Authorization", authorization);
    issuer.send(request, "/coupons/issue", r#"{"eventId":"summer"}"#).await
}

fn assert_rejected(response: &Response, case: &str, detail: &str) {
    assert_eq!(response.status, StatusCode::UNAUTHORIZED, "{case}: {}", response.json);
    assert_eq!(response.json["type"], "https://couponry.dev/problems/unauthorized", "{case}");
    assert!(response.headers["www-authenticate"].to_str().unwrap().starts_with("Bearer "), "{case}");
    assert!(response.json["detail"].as_str().unwrap().contains(detail), "{case}: {}", response.json);
}

#[tokio::test]
async fn tokens_of_every_algorithm_authenticate_their_user() {
    let world = World::shared().await.open(20).await;
    let (rsa, es256, es384, ed) = (Signer::rsa("r"), Signer::es256("e2"), Signer::es384("e3"), Signer::ed("d"));
    let server = JwksServer::new(&[&rsa, &es256, &es384, &ed]);
    server.start().await;
    let issuer = world.ready_issuer(&flags(&["--jwt-jwks-url", &server.url()])).await;
    for (signer, algorithm) in
        [(&rsa, "RS256"), (&rsa, "RS512"), (&rsa, "PS256"), (&es256, "ES256"), (&es384, "ES384"), (&ed, "EdDSA")]
    {
        let token = signer.token(algorithm, algorithm);
        let response = issue(&issuer, &token).await;
        assert!(response.succeeded(), "{algorithm}: {}", response.json);
        let own = Request::get("/").header("Authorization", format!("bearer {token}"));
        let lookup = issuer.send(own, &format!("/coupons/summer/users/{algorithm}"), "").await;
        assert_eq!((lookup.status, &lookup.json["userId"]), (StatusCode::OK, &json!(algorithm)), "{}", lookup.json);
    }
    // The token of a user gives no access to other users.
    let token = rsa.token("RS256", "u1");
    let signed = |request: axum::http::request::Builder| request.header("Authorization", format!("Bearer {token}"));
    let post = signed(Request::post("/")).header("Content-Type", "application/json");
    let other = issuer.send(post, "/coupons/issue", r#"{"eventId":"summer","userId":"u2"}"#).await;
    assert_eq!(other.status, StatusCode::BAD_REQUEST, "{}", other.json);
    let other = issuer.send(signed(Request::get("/")), "/coupons/summer/users/ES256", "").await;
    assert_eq!(other.status, StatusCode::BAD_REQUEST, "{}", other.json);
    let post = signed(Request::post("/")).header("Content-Type", "application/json");
    assert!(issuer.send(post, "/coupons/issue", r#"{"eventId":"summer","userId":"u1"}"#).await.succeeded());
    assert_rejected(&issuer.get("/coupons/summer/users/u1").await, "a lookup without a token", "Bearer TOKEN");
    // The event itself is public.
    assert_eq!(issuer.get("/coupons/summer").await.status, StatusCode::OK);
}

#[tokio::test]
async fn invalid_token_returns_401_with_the_reason() {
    let world = World::shared().await.open(10).await;
    let (rsa, es, untrusted) = (Signer::rsa("r"), Signer::es256("e"), Signer::es256("e"));
    let server = JwksServer::new(&[&rsa, &es]);
    server.start().await;
    let issuer = world.ready_issuer(&flags(&["--jwt-jwks-url", &server.url(), "--jwt-refresh-seconds", "1"])).await;
    let header = json!({"alg": "RS256", "kid": "r"});
    let with = |claim: &str, value: Value| {
        let mut claims = claims("u1");
        claims[claim] = value;
        rsa.sign(&header, &claims)
    };
    let without = |claim: &str| {
        let mut claims = claims("u1");
        claims.as_object_mut().unwrap().remove(claim);
        rsa.sign(&header, &claims)
    };
    let signed_by = |signer: &Signer, header: Value| signer.sign(&header, &claims("u1"));
    let valid = rsa.token("RS256", "u1");
    let (message, signature) = valid.rsplit_once('.').unwrap();
    let (head, _) = message.split_once('.').unwrap();
    let forged = Signer::secret("r", rsa.public_bytes());
    let forged_ec = Signer::secret("e", es.public_bytes());
    for (case, token, detail) in [
        ("expired", with("exp", json!(now() - 100)), "expired"),
        ("not yet valid", with("nbf", json!(now() + 1000)), "not valid yet"),
        ("never expires", without("exp"), "`exp`"),
        ("exp is a string", with("exp", json!("tomorrow")), "`exp`"),
        ("nbf is a string", with("nbf", json!("yesterday")), "`nbf`"),
        ("another issuer", with("iss", json!("https://evil.example")), "(iss)"),
        ("no issuer", without("iss"), "`iss`"),
        ("another audience", with("aud", json!(["shop"])), "(aud)"),
        ("no audience", without("aud"), "`aud`"),
        ("no user", without("sub"), "no claim `sub`"),
        ("the user is a number", with("sub", json!(5)), "not a string"),
        ("an empty user", with("sub", json!("")), "empty"),
        ("a user with a line break", with("sub", json!("a\nb")), "control character"),
        ("a user who is too long", with("sub", json!("x".repeat(257))), "256 bytes"),
        ("alg none", signed_by(&rsa, json!({"alg": "none", "kid": "r"})), "not a JWT"),
        ("alg none in capitals", signed_by(&rsa, json!({"alg": "NONE", "kid": "r"})), "not a JWT"),
        ("no alg", signed_by(&rsa, json!({"kid": "r"})), "not a JWT"),
        ("HMAC with the public key", signed_by(&forged, json!({"alg": "HS256", "kid": "r"})), "algorithm"),
        ("HMAC with the public point", signed_by(&forged_ec, json!({"alg": "HS256", "kid": "e"})), "algorithm"),
        ("HMAC without a key id", signed_by(&forged, json!({"alg": "HS256"})), "algorithm"),
        ("another key's algorithm", signed_by(&es, json!({"alg": "ES256", "kid": "r"})), "algorithm"),
        ("another curve's algorithm", signed_by(&es, json!({"alg": "ES384", "kid": "e"})), "algorithm"),
        ("an untrusted key with a known id", signed_by(&untrusted, json!({"alg": "ES256", "kid": "e"})), "signature"),
        ("an unknown key", signed_by(&es, json!({"alg": "ES256", "kid": "x"})), "unknown"),
        (
            "a key in the token",
            signed_by(&untrusted, json!({"alg": "ES256", "kid": "x", "jwk": untrusted.jwk()})),
            "unknown",
        ),
        ("a critical extension", signed_by(&rsa, json!({"alg": "RS256", "kid": "r", "crit": ["exp"]})), "not a JWT"),
        ("no signature", format!("{message}."), "signature"),
        ("claims of another token", format!("{head}.{}.{signature}", base64(claims("u2").to_string())), "signature"),
        ("not JSON", format!("{}.{}.{signature}", base64("x"), base64("y")), "not a JWT"),
        ("two parts", message.to_owned(), "not a JWT"),
        ("four parts", format!("{valid}.x"), "not a JWT"),
        ("garbage", "garbage".to_owned(), "not a JWT"),
        ("too long", "x".repeat(20_000), "not a JWT"),
    ] {
        let mut response = None;
        until("the keys may be fetched for an unknown key", async || {
            let last = response.insert(issue(&issuer, &token).await);
            last.status != StatusCode::SERVICE_UNAVAILABLE
        })
        .await;
        assert_rejected(&response.unwrap(), case, detail);
    }
    for (case, header) in [("another scheme", "Basic dTE6cA=="), ("nothing", ""), ("the token alone", valid.as_str())] {
        assert_rejected(&issue_with_header(&issuer, header).await, case, "Authorization: Bearer");
    }
    assert_rejected(&issuer.issue("u1").await, "no token", "Authorization: Bearer");
    let two_tokens = Request::post("/").header("Content-Type", "application/json");
    let two_tokens = two_tokens.header("Authorization", format!("Bearer {valid}")).header("Authorization", "Bearer x");
    let two_tokens = issuer.send(two_tokens, "/coupons/issue", r#"{"eventId":"summer"}"#).await;
    assert_rejected(&two_tokens, "two tokens", "more than one");

    assert_eq!(world.redis_store.observe(&world.event).await.unwrap().unwrap().available, 10, "no coupon was issued");
    assert!(issue(&issuer, &valid).await.succeeded());
    let metrics = issuer.metrics().await;
    for reason in ["expired", "algorithm", "signature", "unknown_key", "no_token", "malformed", "user", "audience"] {
        let line = format!(r#"couponry_issuer_authentication_failures_total{{reason="{reason}"}}"#);
        assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn key_rotation_is_applied_without_a_restart() {
    let world = World::shared().await.open(10).await;
    let (old, new) = (Signer::es256("old"), Signer::rsa("new"));
    let server = JwksServer::new(&[&old]);
    // The server is not available yet.
    let issuer = world.issuer(&flags(&["--jwt-jwks-url", &server.url(), "--jwt-refresh-seconds", "1"]));
    until("only the keys are missing", async || {
        let (status, text) = issuer.readiness().await;
        status == 503
            && text.starts_with("jwks: cannot fetch the JWKS")
            && !text.contains("redis")
            && !text.contains("kafka")
    })
    .await;
    let early = issue(&issuer, &old.token("ES256", "u1")).await;
    assert_eq!(early.status, StatusCode::SERVICE_UNAVAILABLE, "{}", early.json);
    server.start().await;
    until("the issuer is ready", async || issuer.readiness().await.0 == 200).await;
    assert!(issue(&issuer, &old.token("ES256", "u1")).await.succeeded());

    // A key is added, then the old one is removed.
    server.serve(&[&old, &new]);
    until("the new key is accepted", async || issue(&issuer, &new.token("RS256", "u2")).await.status == StatusCode::OK)
        .await;
    assert_eq!(issue(&issuer, &old.token("ES256", "u1")).await.reason(), "DUPLICATE");
    server.serve(&[&new]);
    until("the old key is rejected", async || {
        issue(&issuer, &old.token("ES256", "u1")).await.status == StatusCode::UNAUTHORIZED
    })
    .await;

    // During an outage, and with an unusable JWKS, the known keys stay in use.
    server.stop().await;
    until("the outage is logged", async || issuer.running.log().matches("cannot refresh the JWKS").count() > 2).await;
    let (status, text) = issuer.readiness().await;
    assert!(status == 200 && text.starts_with("ok\njwks: cannot fetch the JWKS"), "{status} {text}");
    let metrics = issuer.metrics().await;
    assert!(metrics.contains("couponry_issuer_dependency_available{dependency=\"jwks\"} 0"), "{metrics}");
    assert_eq!(issue(&issuer, &new.token("RS256", "u2")).await.reason(), "DUPLICATE");
    let before = issuer.unavailable_responses().await;
    assert!(before.contains_key("jwks_unavailable"), "{before:?}");
    let unknown = issue(&issuer, &old.token("ES256", "u1")).await;
    assert_eq!(unknown.status, StatusCode::SERVICE_UNAVAILABLE, "the key may be new: {}", unknown.json);
    let after = issuer.unavailable_responses().await;
    assert_eq!(after.values().sum::<u64>(), before.values().sum::<u64>() + 1, "{after:?}");
    server.serve(&[]);
    server.start().await;
    until("the unusable JWKS is logged", async || issuer.running.log().contains("no supported key")).await;
    assert_eq!(issue(&issuer, &new.token("RS256", "u2")).await.reason(), "DUPLICATE");
}

/// A new key may have been published after the last fetch, so its tokens must not be rejected for good.
#[tokio::test]
async fn unknown_key_shortly_after_a_fetch_returns_503_until_the_next_one() {
    let world = World::shared().await.open(10).await;
    let (old, new, forged) = (Signer::es256("old"), Signer::es256("new"), Signer::es256("forged"));
    let server = JwksServer::new(&[&old]);
    server.start().await;
    let issuer = world.ready_issuer(&flags(&["--jwt-jwks-url", &server.url()])).await;
    // This token causes a fetch, unless the first one was less than ten seconds ago.
    let _ = issue(&issuer, &forged.token("ES256", "u1")).await;
    server.serve(&[&old, &new]);
    let early = issue(&issuer, &new.token("ES256", "u1")).await;
    assert_eq!(early.status, StatusCode::SERVICE_UNAVAILABLE, "{}", early.json);
    let wait: u64 = early.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=13).contains(&wait), "{wait}");
    assert!(early.json["detail"].as_str().unwrap().contains("kid"), "{}", early.json);
    let reason = r#"couponry_issuer_authentication_failures_total{reason="refresh_limited"}"#;
    assert!(issuer.metrics().await.contains(reason));
    assert!(issuer.unavailable_responses().await.contains_key("refresh_limited"));
    until("the key is fetched", async || {
        let response = issue(&issuer, &new.token("ES256", "u1")).await;
        assert_ne!(response.status, StatusCode::UNAUTHORIZED, "{}", response.json);
        response.status == StatusCode::OK
    })
    .await;
    until("an unknown key is rejected by a fetch of its own", async || {
        issue(&issuer, &forged.token("ES256", "u1")).await.status == StatusCode::UNAUTHORIZED
    })
    .await;
}

#[tokio::test]
async fn password_of_jwks_url_is_sent_and_not_logged() {
    let world = World::shared().await.open(10).await;
    let key = Signer::es256("e");
    let server = JwksServer::new(&[&key]);
    let url = format!("http://me:s3c%40ret@127.0.0.1:{}/jwks?access_token=t0ken", server.port);
    let issuer = world.issuer(&flags(&["--jwt-jwks-url", &url, "--log", "debug"]));
    until("the outage is logged", async || issuer.running.log().contains("cannot refresh the JWKS")).await;
    server.start().await;
    until("the issuer is ready", async || issuer.readiness().await.0 == 200).await;
    assert!(issue(&issuer, &key.token("ES256", "u1")).await.succeeded());
    // "me:s3c@ret"
    assert_eq!(server.authorization.lock().unwrap().as_deref(), Some("Basic bWU6czNjQHJldA=="));
    let invalid = [format!("{url} x"), "ftp://me:s3cret@127.0.0.1/?t0ken".to_owned(), "s3cret".to_owned()];
    let mut logs = vec![issuer.running.log(), issuer.readiness().await.1, issuer.metrics().await];
    for url in &invalid {
        let issuer = world.issuer(&flags(&["--jwt-jwks-url", url]));
        until("the flag is rejected", async || issuer.running.log().contains("not of the form http://host/path")).await;
        logs.push(issuer.running.log());
    }
    for log in logs {
        assert!(!log.contains("s3c") && !log.contains("t0ken") && !log.contains("bWU6"), "{log}");
    }
}

#[tokio::test]
async fn ignored_keys_of_a_jwks_are_logged_and_counted() {
    let world = World::shared().await;
    let key = Signer::es256("e");
    let server = JwksServer::new(&[&key]);
    server.keys.lock().unwrap().extend([
        json!({"kty": "EC", "crv": "P-521", "x": "AA", "y": "AA", "kid": "curve"}),
        json!({"kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "short"}),
        json!({"kty": "oct", "k": "AAAA", "kid": "secret"}),
    ]);
    server.start().await;
    let issuer = world.ready_issuer(&flags(&["--jwt-jwks-url", &server.url(), "--jwt-refresh-seconds", "1"])).await;
    let metrics = issuer.metrics().await;
    for line in [r#"couponry_issuer_jwks_keys{state="usable"} 1"#, r#"couponry_issuer_jwks_keys{state="ignored"} 3"#] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    let log = issuer.running.log();
    for (id, reason) in [("curve", "not supported"), ("short", "2048 bits"), ("secret", "only accepted from a file")] {
        let is_logged = |line: &str| line.contains("ignored a key") && line.contains(id) && line.contains(reason);
        assert!(log.lines().any(is_logged), "{id} is not in {log}");
    }
    // The list is logged again only when it changes.
    server.keys.lock().unwrap().pop();
    until("the change is applied", async || {
        issuer.metrics().await.contains(r#"couponry_issuer_jwks_keys{state="ignored"} 2"#)
    })
    .await;
    assert_eq!(issuer.running.log().matches("ignored a key of the JWKS").count(), 5);
}

#[tokio::test]
async fn changed_jwks_file_is_reloaded() {
    let world = World::shared().await.open(20).await;
    let (first, second) = (Signer::secret("1", [1; 64]), Signer::secret("2", [2; 64]));
    let file = JwksFile::new(&world, &[&first]);
    let path = file.0.display().to_string();
    let issuer = world.ready_issuer(&flags(&["--jwt-jwks-file", &path, "--jwt-user-claim", "uid"])).await;
    let token = |signer: &Signer, algorithm: &str, kid: Option<&str>, user: &str| {
        let mut claims = claims("another user");
        claims["uid"] = json!(user);
        signer.sign(&json!({"alg": algorithm, "kid": kid}), &claims)
    };
    for algorithm in ["HS256", "HS384", "HS512"] {
        assert!(issue(&issuer, &token(&first, algorithm, Some("1"), algorithm)).await.succeeded());
        // Without a key id, because only one key is possible.
        assert_eq!(issue(&issuer, &token(&first, algorithm, None, algorithm)).await.reason(), "DUPLICATE");
    }
    file.write(&[&first, &second]);
    let with_second = token(&second, "HS256", Some("2"), "u2");
    until("the second key is accepted", async || issue(&issuer, &with_second).await.status == StatusCode::OK).await;
    assert_rejected(&issue(&issuer, &token(&second, "HS256", None, "u2")).await, "no kid, two keys", "several");
    file.write(&[&second]);
    let with_first = token(&first, "HS256", Some("1"), "HS256");
    until("the first key is rejected", async || issue(&issuer, &with_first).await.status == StatusCode::UNAUTHORIZED)
        .await;
    assert_eq!(issue(&issuer, &with_second).await.reason(), "DUPLICATE");
}

#[tokio::test]
async fn token_with_audience_is_rejected_without_configured_audience() {
    let world = World::shared().await.open(10).await;
    let signer = Signer::es256("e");
    let file = JwksFile::new(&world, &[&signer]);
    let path = file.0.display().to_string();
    let issuer = world.ready_issuer(&["--user-identity", "jwt", "--jwt-jwks-file", &path]).await;
    let token = |audience: Option<Value>| {
        let mut claims = claims("u1");
        claims.as_object_mut().unwrap().remove("aud");
        if let Some(audience) = audience {
            claims["aud"] = audience;
        }
        signer.sign(&json!({"alg": "ES256", "kid": "e"}), &claims)
    };
    for audience in [json!("shop"), json!(["shop"]), json!([]), json!(7), json!({"a": 1}), json!(null), json!([7])] {
        assert_rejected(&issue(&issuer, &token(Some(audience.clone()))).await, &audience.to_string(), "(aud)");
    }
    assert!(issue(&issuer, &token(None)).await.succeeded());
}

#[tokio::test]
async fn all_keys_with_the_same_id_are_tried() {
    let world = World::shared().await.open(10).await;
    let (first, second, untrusted) = (Signer::es256("same"), Signer::es256("same"), Signer::es256("same"));
    let file = JwksFile::new(&world, &[&first, &second]);
    let path = file.0.display().to_string();
    let issuer = world.ready_issuer(&flags(&["--jwt-jwks-file", &path])).await;
    assert!(issue(&issuer, &first.token("ES256", "u1")).await.succeeded());
    assert!(issue(&issuer, &second.token("ES256", "u2")).await.succeeded());
    assert_rejected(
        &issue(&issuer, &untrusted.token("ES256", "u3")).await,
        "an untrusted key with the same id",
        "signature",
    );
    let mut expired = claims("u4");
    expired["exp"] = json!(now() - 100);
    let expired = second.sign(&json!({"alg": "ES256", "kid": "same"}), &expired);
    assert_rejected(&issue(&issuer, &expired).await, "the reason is that of the matching key", "expired");
}

#[tokio::test]
async fn contradicting_identity_flags_are_rejected_at_startup() {
    let world = World::shared().await;
    for (flags, message) in [
        (&["--user-identity", "jwt"][..], "requires either --jwt-jwks-url or --jwt-jwks-file"),
        (&["--jwt-jwks-url", "http://127.0.0.1/"], "require --user-identity jwt"),
        (&["--user-identity", "jwt", "--jwt-jwks-url", "ftp://127.0.0.1/"], "not of the form http://host/path"),
    ] {
        let issuer = world.issuer(flags);
        until("the flags are rejected", async || issuer.running.log().contains(message)).await;
    }
}
