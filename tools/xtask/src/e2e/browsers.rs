//! What browsers of users see through the ingress: the event page, the cacheable state of the event, admission and
//! drops.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use couponry_testbed::progress::Step;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::curl::{Response, request};
use super::environment::Environment;
use super::lifecycle::manifest_with;
use crate::cluster_backends::{SHOP_ORIGIN, TITLE};

const EVENT: &str = "browsers";
const TOTAL: u64 = 10;
const HELD_BACK: u64 = 7;

pub(super) fn run(environment: &Environment) -> Result<()> {
    let now = SystemTime::now();
    let drop_at = Timestamp::try_from(now + Duration::from_hours(24))?;
    let drops = json!({"drops": [{"at": drop_at.strftime("%FT%TZ").to_string(), "count": HELD_BACK}]});
    environment.apply_event(EVENT, &manifest_with(EVENT, TOTAL, &drops))?;
    check_page(environment)?;
    check_state(environment)?;
    check_drop(environment)?;
    check_admission(environment, Timestamp::try_from(now)?)?;
    environment.kubectl.run(&["delete", &format!("couponevent/{EVENT}"), "--timeout=120s"]).map(drop)
}

/// The page with the texts of the chart's values.
fn check_page(environment: &Environment) -> Result<()> {
    let step = Step::start("opening the event page");
    let page = format!("{}/coupons/{EVENT}/page", environment.ingress());
    for (path, content_type, part) in [
        ("", "text/html", "<script"),
        ("/page.js", "text/javascript", "import"),
        ("/client.js", "text/javascript", "export"),
        ("/style.css", "text/css", "{"),
        ("/config.json", "application/json", TITLE),
    ] {
        let response = Response::of(&format!("{page}{path}"), &[])?;
        ensure!(
            response.status == 200
                && response.header("content-type").is_some_and(|value| value.starts_with(content_type))
                && response.body.contains(part),
            "the page{path}: {response:?}"
        );
        let policy = response.header("content-security-policy").unwrap_or_default();
        ensure!(!path.is_empty() || policy.starts_with("default-src 'none'"), "the policy of the page: {policy}");
    }
    step.done();
    Ok(())
}

/// The state of the event for pages of the shop's origin, and for a browser that has it already.
fn check_state(environment: &Environment) -> Result<()> {
    let step = Step::start("reading the state of the event from a page of another origin");
    let url = format!("{}/coupons/{EVENT}", environment.ingress());
    let origin = format!("Origin: {SHOP_ORIGIN}");
    let response = Response::of(&url, &["-H", &origin])?;
    let state: Value = serde_json::from_str(&response.body).with_context(|| format!("invalid state: {response:?}"))?;
    ensure!(
        response.status == 200
            && response.header("cache-control") == Some("public, max-age=1")
            && response.header("access-control-allow-origin") == Some(SHOP_ORIGIN)
            && state["serverTime"].is_string()
            && state["nextDropAt"].is_string(),
        "the state of the event: {response:?}"
    );
    let preflight = Response::of(
        &format!("{}/coupons/issue", environment.ingress()),
        &["-X", "OPTIONS", "-H", &origin, "-H", "Access-Control-Request-Method: POST"],
    )?;
    ensure!(
        preflight.status == 204 && preflight.header("access-control-allow-origin") == Some(SHOP_ORIGIN),
        "the preflight request: {preflight:?}"
    );
    let foreign = Response::of(&url, &["-H", "Origin: https://evil.example"])?;
    ensure!(foreign.header("access-control-allow-origin").is_none(), "a page of a foreign origin: {foreign:?}");
    step.done();
    Ok(())
}

/// The coupons before the drop sell out, and the others wait for their time.
fn check_drop(environment: &Environment) -> Result<()> {
    let step = Step::start("requesting more coupons than there are before the drop");
    for number in 0..TOTAL - HELD_BACK {
        let response = environment.issue(EVENT, &format!("user-{number}"))?;
        ensure!(response["success"] == true && response["hasCoupon"] == true, "user {number}: {response}");
    }
    let repeated = environment.issue(EVENT, "user-0")?;
    ensure!(repeated["reason"] == "DUPLICATE" && repeated["hasCoupon"] == true, "user 0 again: {repeated}");
    let url = format!("{}/coupons/issue", environment.ingress());
    let body = json!({"userId": "late", "eventId": EVENT});
    let (_, english) = request(&url, None, &[], Some(&body))?;
    let (_, korean) = request(&url, None, &[("Accept-Language", "ko-KR")], Some(&body))?;
    for response in [&english, &korean] {
        ensure!(response["reason"] == "SOLD_OUT" && response["nextDropAt"].is_string(), "a late user: {response}");
    }
    ensure!(english["message"] != korean["message"], "the message has one language only: {english}");
    step.done();
    Ok(())
}

/// Users who are not admitted yet receive the time at which they will be.
fn check_admission(environment: &Environment, now: Timestamp) -> Result<()> {
    const RAMP_SECONDS: u64 = 3600;
    const USERS: u32 = 20;
    let event = "admission";
    let admission =
        json!({"startTime": now.strftime("%FT%TZ").to_string(), "admission": {"rampSeconds": RAMP_SECONDS}});
    environment.apply_event(event, &manifest_with(event, 100, &admission))?;
    let step = Step::start("requesting coupons while users are admitted over an hour");
    let mut waiting = 0;
    for number in 0..USERS {
        let response = environment.issue(event, &format!("user-{number}"))?;
        if response["reason"] == "WAIT" {
            let admitted_at: Timestamp =
                response["admittedAt"].as_str().context("WAIT without admittedAt")?.parse().context("admittedAt")?;
            ensure!(admitted_at > now, "user {number} waits until a time before the start: {response}");
            waiting += 1;
        } else {
            ensure!(response["success"] == true, "user {number}: {response}");
        }
    }
    // Each user is admitted within the first minutes of the hour with a probability of a few percent.
    ensure!(waiting > 0, "all of {USERS} users were admitted at once");
    step.done_with(&format!("{waiting} of {USERS} users wait"));
    environment.kubectl.run(&["delete", &format!("couponevent/{event}"), "--timeout=120s"]).map(drop)
}
