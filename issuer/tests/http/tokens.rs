//! `--user-identity jwt`: who is believed, and who is not.

use std::{
    fs,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    http::{Request, StatusCode},
    routing::get,
};
use couponry_testbed::ports;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};

use crate::{
    signer::{Signer, base64, claims, now},
    support::{Answer, Issuer, World, until},
};

/// A server of keys.
struct KeyServer {
    port: u16,
    keys: Arc<Mutex<Vec<Value>>>,
    running: Mutex<Option<JoinHandle<()>>>,
}

impl KeyServer {
    fn new(signers: &[&Signer]) -> Self {
        let server = Self { port: ports::free().unwrap(), keys: Arc::default(), running: Mutex::default() };
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
        let keys = self.keys.clone();
        let answer = move || async move { json!({ "keys": *keys.lock().unwrap() }).to_string() };
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.unwrap();
        let router = Router::new().route("/jwks", get(answer));
        *self.running.lock().unwrap() = Some(tokio::spawn(async { axum::serve(listener, router).await.unwrap() }));
    }

    async fn stop(&self) {
        let running = self.running.lock().unwrap().take().unwrap();
        running.abort();
        let _ = running.await;
    }
}

/// A file of keys, gone with it.
pub(crate) struct KeyFile(pub(crate) PathBuf);

impl KeyFile {
    pub(crate) fn new(world: &World, signers: &[&Signer]) -> Self {
        let file = Self(std::env::temp_dir().join(format!("jwks-{}.json", world.uid)));
        file.write(signers);
        file
    }

    fn write(&self, signers: &[&Signer]) {
        let keys: Vec<_> = signers.iter().map(|signer| signer.jwk()).collect();
        // As a kubelet does it: in one step.
        let new = self.0.with_extension("new");
        fs::write(&new, json!({ "keys": keys }).to_string()).unwrap();
        fs::rename(new, &self.0).unwrap();
    }
}

impl Drop for KeyFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

const TRUST: [&str; 4] = ["--jwt-issuer", "https://login.example", "--jwt-audience", "coupons"];

fn flags<'a>(keys: &[&'a str]) -> Vec<&'a str> {
    [&["--user-identity", "jwt"], keys, &TRUST].concat()
}

async fn ask(issuer: &Issuer, token: &str) -> Answer {
    with_header(issuer, &format!("Bearer {token}")).await
}

async fn with_header(issuer: &Issuer, authorization: &str) -> Answer {
    let request = Request::post("/").header("Content-Type", "application/json").header("Authorization", authorization);
    issuer.send(request, "/coupons/issue", r#"{"eventId":"summer"}"#).await
}

fn assert_refused(answer: &Answer, what: &str, detail: &str) {
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{what}: {}", answer.json);
    assert_eq!(answer.json["type"], "urn:couponry:problem:unauthorized", "{what}");
    assert!(answer.headers["www-authenticate"].to_str().unwrap().starts_with("Bearer "), "{what}");
    assert!(answer.json["detail"].as_str().unwrap().contains(detail), "{what}: {}", answer.json);
}

#[tokio::test]
async fn tokens_of_every_kind_name_their_user() {
    let world = World::shared().await.open(20).await;
    let (rsa, es256, es384, ed) = (Signer::rsa("r"), Signer::es256("e2"), Signer::es384("e3"), Signer::ed("d"));
    let server = KeyServer::new(&[&rsa, &es256, &es384, &ed]);
    server.start().await;
    let issuer = world.ready_issuer(&flags(&["--jwt-jwks-url", &server.url()])).await;
    for (signer, algorithm) in
        [(&rsa, "RS256"), (&rsa, "RS512"), (&rsa, "PS256"), (&es256, "ES256"), (&es384, "ES384"), (&ed, "EdDSA")]
    {
        let token = signer.token(algorithm, algorithm);
        let answer = ask(&issuer, &token).await;
        assert!(answer.succeeded(), "{algorithm}: {}", answer.json);
        let own = Request::get("/").header("Authorization", format!("bearer {token}"));
        let held = issuer.send(own, &format!("/coupons/summer/users/{algorithm}"), "").await;
        assert_eq!((held.status, &held.json["userId"]), (StatusCode::OK, &json!(algorithm)), "{}", held.json);
    }
    // Nobody else's: neither to ask for, nor to look at.
    let token = rsa.token("RS256", "u1");
    let signed = |request: axum::http::request::Builder| request.header("Authorization", format!("Bearer {token}"));
    let post = signed(Request::post("/")).header("Content-Type", "application/json");
    let other = issuer.send(post, "/coupons/issue", r#"{"eventId":"summer","userId":"u2"}"#).await;
    assert_eq!(other.status, StatusCode::BAD_REQUEST, "{}", other.json);
    let other = issuer.send(signed(Request::get("/")), "/coupons/summer/users/ES256", "").await;
    assert_eq!(other.status, StatusCode::BAD_REQUEST, "{}", other.json);
    let post = signed(Request::post("/")).header("Content-Type", "application/json");
    assert!(issuer.send(post, "/coupons/issue", r#"{"eventId":"summer","userId":"u1"}"#).await.succeeded());
    assert_refused(&issuer.get("/coupons/summer/users/u1").await, "a look without a token", "Bearer TOKEN");
    // The event is no secret.
    assert_eq!(issuer.get("/coupons/summer").await.status, StatusCode::OK);
}

#[tokio::test]
async fn tokens_that_prove_nothing_are_refused_with_the_reason() {
    let world = World::shared().await.open(10).await;
    let (rsa, es, stranger) = (Signer::rsa("r"), Signer::es256("e"), Signer::es256("e"));
    let server = KeyServer::new(&[&rsa, &es]);
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
    let good = rsa.token("RS256", "u1");
    let (message, signature) = good.rsplit_once('.').unwrap();
    let (head, _) = message.split_once('.').unwrap();
    let forged = Signer::secret("r", rsa.public_bytes());
    let forged_ec = Signer::secret("e", es.public_bytes());
    for (what, token, detail) in [
        ("expired", with("exp", json!(now() - 100)), "expired"),
        ("not yet valid", with("nbf", json!(now() + 1000)), "not valid yet"),
        ("never expires", without("exp"), "`exp`"),
        ("expires in words", with("exp", json!("tomorrow")), "`exp`"),
        ("begins in words", with("nbf", json!("yesterday")), "`nbf`"),
        ("another issuer", with("iss", json!("https://evil.example")), "(iss)"),
        ("no issuer", without("iss"), "`iss`"),
        ("another audience", with("aud", json!(["shop"])), "(aud)"),
        ("no audience", without("aud"), "`aud`"),
        ("no user", without("sub"), "no claim `sub`"),
        ("a number for a user", with("sub", json!(5)), "not a text"),
        ("an empty user", with("sub", json!("")), "empty"),
        ("a user with a line break", with("sub", json!("a\nb")), "control character"),
        ("a user who is too long", with("sub", json!("x".repeat(257))), "256 bytes"),
        ("alg none", signed_by(&rsa, json!({"alg": "none", "kid": "r"})), "not a JWT"),
        ("alg none in capitals", signed_by(&rsa, json!({"alg": "NONE", "kid": "r"})), "not a JWT"),
        ("no alg", signed_by(&rsa, json!({"kid": "r"})), "not a JWT"),
        ("HMAC with the public key", signed_by(&forged, json!({"alg": "HS256", "kid": "r"})), "algorithm"),
        ("HMAC with the public point", signed_by(&forged_ec, json!({"alg": "HS256", "kid": "e"})), "algorithm"),
        ("HMAC without a name", signed_by(&forged, json!({"alg": "HS256"})), "algorithm"),
        ("another key's algorithm", signed_by(&es, json!({"alg": "ES256", "kid": "r"})), "algorithm"),
        ("another curve's algorithm", signed_by(&es, json!({"alg": "ES384", "kid": "e"})), "algorithm"),
        ("a stranger with the key's name", signed_by(&stranger, json!({"alg": "ES256", "kid": "e"})), "signature"),
        ("an unknown key", signed_by(&es, json!({"alg": "ES256", "kid": "x"})), "not known"),
        (
            "a key in the token",
            signed_by(&stranger, json!({"alg": "ES256", "kid": "x", "jwk": stranger.jwk()})),
            "not known",
        ),
        ("something critical", signed_by(&rsa, json!({"alg": "RS256", "kid": "r", "crit": ["exp"]})), "not a JWT"),
        ("no signature", format!("{message}."), "signature"),
        ("another's claims", format!("{head}.{}.{signature}", base64(claims("u2").to_string())), "signature"),
        ("no JSON", format!("{}.{}.{signature}", base64("x"), base64("y")), "not a JWT"),
        ("two parts", message.to_owned(), "not a JWT"),
        ("four parts", format!("{good}.x"), "not a JWT"),
        ("garbage", "garbage".to_owned(), "not a JWT"),
        ("too much", "x".repeat(20_000), "not a JWT"),
    ] {
        assert_refused(&ask(&issuer, &token).await, what, detail);
    }
    for (what, header) in [("another scheme", "Basic dTE6cA=="), ("nothing", ""), ("the token alone", good.as_str())] {
        assert_refused(&with_header(&issuer, header).await, what, "Authorization: Bearer");
    }
    assert_refused(&issuer.issue("u1").await, "no token", "Authorization: Bearer");
    let twice = Request::post("/").header("Content-Type", "application/json");
    let twice = twice.header("Authorization", format!("Bearer {good}")).header("Authorization", "Bearer x");
    let twice = issuer.send(twice, "/coupons/issue", r#"{"eventId":"summer"}"#).await;
    assert_refused(&twice, "two tokens", "more than one");

    assert_eq!(world.stock.observe(&world.event).await.unwrap().unwrap().available, 10, "nothing was given");
    assert!(ask(&issuer, &good).await.succeeded());
    let metrics = issuer.metrics().await;
    for reason in ["expired", "algorithm", "signature", "unknown_key", "no_token", "malformed", "user", "audience"] {
        let line = format!(r#"couponry_issuer_authentication_failures_total{{reason="{reason}"}}"#);
        assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn keys_come_and_go_without_a_restart() {
    let world = World::shared().await.open(10).await;
    let (old, new) = (Signer::es256("old"), Signer::rsa("new"));
    let server = KeyServer::new(&[&old]);
    // Not there yet.
    let issuer = world.issuer(&flags(&["--jwt-jwks-url", &server.url(), "--jwt-refresh-seconds", "1"]));
    until("only the keys are missing", async || {
        let (status, text) = issuer.readiness().await;
        status == 503 && text.starts_with("jwt keys: cannot ask") && !text.contains("redis") && !text.contains("kafka")
    })
    .await;
    let early = ask(&issuer, &old.token("ES256", "u1")).await;
    assert_eq!(early.status, StatusCode::SERVICE_UNAVAILABLE, "{}", early.json);
    server.start().await;
    until("the issuer is ready", async || issuer.readiness().await.0 == 200).await;
    assert!(ask(&issuer, &old.token("ES256", "u1")).await.succeeded());

    // One more key, then only that one.
    server.serve(&[&old, &new]);
    until("the new key is taken", async || ask(&issuer, &new.token("RS256", "u2")).await.status == StatusCode::OK)
        .await;
    assert_eq!(ask(&issuer, &old.token("ES256", "u1")).await.reason(), "DUPLICATE");
    server.serve(&[&new]);
    until("the old key is refused", async || {
        ask(&issuer, &old.token("ES256", "u1")).await.status == StatusCode::UNAUTHORIZED
    })
    .await;

    // Away, and what it says is no use: the keys stay.
    server.stop().await;
    until("the issuer notices", async || issuer.running.log().matches("cannot read the keys").count() > 2).await;
    assert_eq!(issuer.readiness().await.0, 200);
    assert_eq!(ask(&issuer, &new.token("RS256", "u2")).await.reason(), "DUPLICATE");
    let unknown = ask(&issuer, &old.token("ES256", "u1")).await;
    assert_eq!(unknown.status, StatusCode::SERVICE_UNAVAILABLE, "it may be a new one: {}", unknown.json);
    server.serve(&[]);
    server.start().await;
    until("the issuer notices", async || issuer.running.log().contains("no key in it can be used")).await;
    assert_eq!(ask(&issuer, &new.token("RS256", "u2")).await.reason(), "DUPLICATE");
}

#[tokio::test]
async fn keys_in_a_file_are_read_again_when_it_changes() {
    let world = World::shared().await.open(20).await;
    let (first, second) = (Signer::secret("1", [1; 64]), Signer::secret("2", [2; 64]));
    let file = KeyFile::new(&world, &[&first]);
    let path = file.0.display().to_string();
    let issuer = world.ready_issuer(&flags(&["--jwt-jwks-file", &path, "--jwt-user-claim", "uid"])).await;
    let token = |signer: &Signer, algorithm: &str, kid: Option<&str>, user: &str| {
        let mut claims = claims("not me");
        claims["uid"] = json!(user);
        signer.sign(&json!({"alg": algorithm, "kid": kid}), &claims)
    };
    for algorithm in ["HS256", "HS384", "HS512"] {
        assert!(ask(&issuer, &token(&first, algorithm, Some("1"), algorithm)).await.succeeded());
        // There is only one that it can be.
        assert_eq!(ask(&issuer, &token(&first, algorithm, None, algorithm)).await.reason(), "DUPLICATE");
    }
    file.write(&[&first, &second]);
    let with_second = token(&second, "HS256", Some("2"), "u2");
    until("the second key is taken", async || ask(&issuer, &with_second).await.status == StatusCode::OK).await;
    assert_refused(&ask(&issuer, &token(&second, "HS256", None, "u2")).await, "no kid, two keys", "several");
    file.write(&[&second]);
    let with_first = token(&first, "HS256", Some("1"), "HS256");
    until("the first is refused", async || ask(&issuer, &with_first).await.status == StatusCode::UNAUTHORIZED).await;
    assert_eq!(ask(&issuer, &with_second).await.reason(), "DUPLICATE");
}

#[tokio::test]
async fn a_token_that_is_for_somebody_is_refused_where_nobody_is_named() {
    let world = World::shared().await.open(10).await;
    let signer = Signer::es256("e");
    let file = KeyFile::new(&world, &[&signer]);
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
        assert_refused(&ask(&issuer, &token(Some(audience.clone()))).await, &audience.to_string(), "(aud)");
    }
    assert!(ask(&issuer, &token(None)).await.succeeded());
}

#[tokio::test]
async fn keys_of_one_name_are_all_tried() {
    let world = World::shared().await.open(10).await;
    let (first, second, stranger) = (Signer::es256("same"), Signer::es256("same"), Signer::es256("same"));
    let file = KeyFile::new(&world, &[&first, &second]);
    let path = file.0.display().to_string();
    let issuer = world.ready_issuer(&flags(&["--jwt-jwks-file", &path])).await;
    assert!(ask(&issuer, &first.token("ES256", "u1")).await.succeeded());
    assert!(ask(&issuer, &second.token("ES256", "u2")).await.succeeded());
    assert_refused(&ask(&issuer, &stranger.token("ES256", "u3")).await, "a third", "signature");
    let mut expired = claims("u4");
    expired["exp"] = json!(now() - 100);
    let expired = second.sign(&json!({"alg": "ES256", "kid": "same"}), &expired);
    assert_refused(&ask(&issuer, &expired).await, "what is wrong is said of the key that fits", "expired");
}

#[tokio::test]
async fn flags_that_do_not_go_together_are_named() {
    let world = World::shared().await;
    for (flags, what) in [
        (&["--user-identity", "jwt"][..], "needs either --jwt-jwks-url or --jwt-jwks-file"),
        (&["--jwt-jwks-url", "http://127.0.0.1/"], "need --user-identity jwt"),
        (&["--user-identity", "jwt", "--jwt-jwks-url", "ftp://127.0.0.1/"], "not of the form http://host/path"),
    ] {
        let issuer = world.issuer(flags);
        until("the issuer says why not", async || issuer.running.log().contains(what)).await;
    }
}
