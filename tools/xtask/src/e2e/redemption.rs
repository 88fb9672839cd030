//! A shop redeems coupons with the tokens of its service accounts.

use std::process::Stdio;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use couponry_testbed::database::psql;
use couponry_testbed::progress::Step;
use serde_json::{Value, json};

use super::curl::request;
use super::environment::Environment;
use super::lifecycle::manifest;
use crate::cluster_backends::NAMESPACE;

const EVENT: &str = "redemption";
const AUDIENCE: &str = "couponry-redeemer";
/// How often the uses of coupons are looked for in Kafka.
const POLL: Duration = Duration::from_millis(500);
const POLLS: u32 = 120;

pub(super) fn run(environment: &Environment) -> Result<()> {
    let Environment { kubectl, .. } = environment;
    environment.apply_event(EVENT, &manifest(EVENT, 10))?;
    let of_anna = coupon(environment, "anna")?;

    let step = Step::start("creating the service accounts of a shop");
    for account in ["checkout", "stranger"] {
        kubectl.run(&["create", "serviceaccount", account])?;
    }
    let account = format!("--serviceaccount={NAMESPACE}:checkout");
    kubectl.run(&["create", "rolebinding", "checkout", "--role=couponry-redeem", &account])?;
    let token = |account: &str, flags: &[&str]| -> Result<String> {
        Ok(kubectl.run(&[&["create", "token", account], flags].concat())?.trim().to_owned())
    };
    let audience = ["--audience", AUDIENCE];
    let checkout = token("checkout", &audience)?;
    let tokens = [
        ("no token", None, 401),
        ("a token for another audience", Some(token("checkout", &[])?), 401),
        ("a token of an account without the Role", Some(token("stranger", &audience)?), 403),
    ];
    step.done();

    let redeemer = environment.service("couponry-redeemer")?;
    let post =
        |token: Option<&str>, operation: &str, key: &str, body: &Value| post(&redeemer, token, operation, key, body);
    let step = Step::start("redeeming a coupon");
    for (name, token, expected) in &tokens {
        let (status, response) = post(token.as_deref(), "redeem", "1", &of_anna)?;
        ensure!(status == *expected, "{name}: {status} {response}");
    }
    let mut of_another_order = of_anna.clone();
    of_another_order["orderId"] = json!("another");
    let mut first = Value::Null;
    for (operation, key, body, expected) in [
        ("reserve", "1", &of_anna, (200, "RESERVED")),
        ("redeem", "2", &of_another_order, (409, "https://couponry.dev/problems/coupon-reserved")),
        ("redeem", "3", &of_anna, (200, "REDEEMED")),
        ("redeem", "3", &of_anna, (200, "REDEEMED")),
        ("redeem", "4", &of_anna, (409, "https://couponry.dev/problems/coupon-redeemed-by-order")),
        ("redeem", "5", &of_another_order, (409, "https://couponry.dev/problems/coupon-redeemed")),
        ("redeem", "3", &of_another_order, (422, "https://couponry.dev/problems/idempotency-key-reused")),
    ] {
        let (status, response) = post(Some(&checkout), operation, key, body)?;
        let result = response["state"].as_str().or(response["type"].as_str()).unwrap_or_default();
        ensure!((status, result) == expected, "{operation} with the key {key}: {status} {response}");
        if (operation, status) == ("redeem", 200) {
            ensure!(first.is_null() || first == response, "{first} and then {response}");
            first = response;
        }
    }
    let path = format!("{redeemer}/redemptions/{EVENT}/{}", of_anna["couponKey"].as_str().unwrap_or_default());
    let (_, history) = request(&path, Some(&checkout), &[], None)?;
    let callers =
        history["history"].as_array().map(|all| all.iter().map(|it| it["caller"].clone()).collect::<Vec<_>>());
    let caller = json!(format!("system:serviceaccount:{NAMESPACE}:checkout"));
    ensure!(callers == Some(vec![caller.clone(), caller]), "the history has other callers: {history}");
    step.done();

    void_coupons(environment, &redeemer, &checkout)?;
    let exported = environment.couponry_text(&["export", EVENT, "redemptions"])?;
    let has_row = |user: &str, kind: &str| exported.lines().any(|row| row.contains(user) && row.contains(kind));
    ensure!(has_row("anna", "REDEEMED") && has_row("carl", "VOIDED"), "the exported redemptions: {exported}");

    let of_bert = coupon(environment, "bert")?;
    let step = Step::start("restarting the redeemers while a coupon is reserved and released");
    let requests = thread::scope(|scope| -> Result<u32> {
        let restart = scope.spawn(|| -> Result<String> {
            kubectl.run(&["rollout", "restart", "deployment/couponry-redeemer"])?;
            kubectl.run(&["rollout", "status", "deployment/couponry-redeemer", "--timeout=180s"])
        });
        let mut requests = 0;
        while !restart.is_finished() {
            for operation in ["reserve", "release"] {
                let key = format!("bert-{requests}");
                let (status, response) = post(Some(&checkout), operation, &key, &of_bert)?;
                ensure!(status == 200, "{operation} during the restart: {status} {response}");
                requests += 1;
            }
        }
        restart.join().map_err(|_| anyhow!("the restart panicked"))??;
        Ok(requests)
    })?;
    step.done_with(&format!("all of {requests} requests during the restart of the redeemers were successful"));

    let step = Step::start("waiting until Kafka has the uses of the coupons");
    let unsent = || psql(&environment.backends.postgres.url(), "SELECT count(*) FROM coupon_use_outbox");
    let mut polls = 0;
    while unsent()? != "0" {
        ensure!(polls < POLLS, "{} uses of coupons were not sent", unsent()?);
        thread::sleep(POLL);
        polls += 1;
    }
    step.done();
    kubectl.run(&["delete", &format!("couponevent/{EVENT}"), "--timeout=120s"]).map(drop)
}

/// Voids the coupon of a user: no redeemer accepts it any more, and the user receives no other one. The coupon of anna
/// is redeemed.
fn void_coupons(environment: &Environment, redeemer: &str, token: &str) -> Result<()> {
    let of_carl = coupon(environment, "carl")?;
    let step = Step::start("voiding coupons");
    let void = |user: &str| environment.couponry(&["void", EVENT, "--user", user, "--reason", "fraud"], Stdio::null());
    let refused = void("anna")?;
    ensure!(
        refused.status.code() == Some(1) && refused.stdout.contains("so it cannot be voided"),
        "the void of a redeemed coupon: {refused:?}"
    );
    for expected in ["voided the coupon", "was voided before"] {
        let voided = void("carl")?;
        ensure!(voided.status.success() && voided.stdout.contains(expected), "{expected:?} is missing: {voided:?}");
        let response = environment.issue(EVENT, "carl")?;
        ensure!(
            response["reason"] == "VOIDED" && response["success"] == false,
            "the response to the user of a voided coupon: {response}"
        );
        for operation in ["reserve", "redeem"] {
            let (status, response) = post(redeemer, Some(token), operation, &format!("carl-{operation}"), &of_carl)?;
            ensure!(
                status == 409 && response["type"] == "https://couponry.dev/problems/coupon-voided",
                "{operation} of a voided coupon: {status} {response}"
            );
        }
    }
    let path = format!("{redeemer}/redemptions/{EVENT}/{}", of_carl["couponKey"].as_str().unwrap_or_default());
    let (_, view) = request(&path, Some(token), &[], None)?;
    ensure!(view["state"] == "VOIDED" && !view["history"][0]["caller"].is_null(), "the voided coupon: {view}");
    step.done();
    Ok(())
}

/// Issues a coupon, and returns the body of a request to use it.
fn coupon(environment: &Environment, user: &str) -> Result<Value> {
    let issued = environment.issue(EVENT, user)?;
    ensure!(issued["success"] == true, "{user} did not receive a coupon: {issued}");
    Ok(json!({"eventId": EVENT, "couponKey": issued["couponKey"], "userId": user, "orderId": format!("order-{user}")}))
}

/// Sends a request to change a coupon.
fn post(redeemer: &str, token: Option<&str>, operation: &str, key: &str, body: &Value) -> Result<(u16, Value)> {
    request(&format!("{redeemer}/redemptions/{operation}"), token, &[("Idempotency-Key", key)], Some(body))
}

impl Environment {
    /// The URL of a Service, which this host can reach.
    fn service(&self, name: &str) -> Result<String> {
        let spec = self.kubectl.get(&["service", name])?["spec"].clone();
        let address = spec["clusterIP"].as_str().context("the Service has no address")?;
        Ok(format!("http://{address}:{}", spec["ports"][0]["port"]))
    }
}
