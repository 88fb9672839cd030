//! The event page in a real browser.

use std::path::PathBuf;

use axum::http::Request;
use couponry_browser::{
    Browser,
    thirtyfour::{By, Key},
};
use couponry_domain::{Acknowledge, AdmissionKey, Gate, Release, Seed, Uuid, Window};
use couponry_redis::GateSettings;
use couponry_testbed::{Redis, Toxiproxy, ports, scratch::Scratch, toxiproxy::Toxic};
use serde_json::json;

use crate::support::{World, until};

const FAR: i64 = 4_000_000_000_000;

/// A browser on the page of the event at this port.
pub(crate) async fn open(port: u16, event: &str, flags: &[&str]) -> Browser {
    let browser = Browser::start_with(flags).await.unwrap();
    browser.goto(format!("http://127.0.0.1:{port}/coupons/{event}/page")).await.unwrap();
    browser
}

/// Fails if the page violates rules of accessibility, in both color schemes, or can be scrolled sideways on a phone.
pub(crate) async fn check_layout(browser: &Browser) {
    for scheme in ["dark", "light"] {
        browser.prefer_color_scheme(scheme).await.unwrap();
        browser.check_accessibility().await.unwrap();
    }
    browser.resize(320, 640).await.unwrap();
    browser.wait_for("document.documentElement.scrollWidth <= 320").await.unwrap();
    browser.resize(1280, 800).await.unwrap();
}

/// Fails if the console has messages, such as violations of the content security policy.
pub(crate) async fn check_console(browser: &Browser) {
    let messages = browser.console().await.unwrap();
    assert!(messages.is_empty(), "{messages:#?}");
}

/// Writes a picture for the documentation to the directory `COUPONRY_SCREENSHOTS`, if it is set.
async fn picture(browser: &Browser, name: &str) {
    if let Some(directory) = std::env::var_os("COUPONRY_SCREENSHOTS") {
        let path = PathBuf::from(directory).join(name);
        browser.resize(480, 560).await.unwrap();
        browser.save_screenshot(&path).await.unwrap();
        browser.resize(1280, 800).await.unwrap();
    }
}

pub(crate) async fn type_user(browser: &Browser, user: &str) {
    let input = browser.find(By::Id("user-id")).await.unwrap();
    input.clear().await.unwrap();
    input.send_keys(user).await.unwrap();
}

pub(crate) async fn press_get(browser: &Browser) {
    browser.find(By::Id("get")).await.unwrap().click().await.unwrap();
}

pub(crate) fn now() -> i64 {
    let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(time.as_millis()).unwrap()
}

pub(crate) async fn code(browser: &Browser) -> String {
    browser.wait_for("document.getElementById('code').innerText").await.unwrap().as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn page_counts_down_and_shows_the_coupon_of_the_user() {
    let world = World::shared().await.open(100).await;
    world.gate(Gate::Open, Window { start: Some(FAR), end: None }, Acknowledge::Redis).await;
    let issuer = world.ready_issuer(&["--page"]).await;
    let browser = open(issuer.listen, "summer", &[]).await;
    browser.wait_for_text("Starts in").await.unwrap();
    browser
        .wait_for(r"/^\d+\u00a0d \d\d:\d\d:\d\d$/.test(document.getElementById('countdown').innerText)")
        .await
        .unwrap();
    assert_eq!(browser.evaluate("document.getElementById('get').hidden").await.unwrap(), json!(true));
    check_layout(&browser).await;

    // The clock of Redis decides, and it is that of this machine. Far from the start, the page reads the event every 15
    // to 25 seconds.
    world.gate(Gate::Open, Window { start: Some(now() + 45_000), end: None }, Acknowledge::Redis).await;
    browser.wait_for("/^00:[0-4]\\d$/.test(document.getElementById('countdown').innerText)").await.unwrap();
    picture(&browser, "page-countdown.png").await;
    browser.wait_for_text("Get my coupon").await.unwrap();
    check_layout(&browser).await;
    picture(&browser, "page-open.png").await;

    // Without a user, the field receives the focus and nothing is requested.
    press_get(&browser).await;
    browser.wait_for("document.activeElement.id === 'user-id'").await.unwrap();
    let other = browser.new_tab().await.unwrap();
    let first = browser.window().await.unwrap();
    browser.switch_to_window(other.clone()).await.unwrap();
    browser.goto(format!("http://127.0.0.1:{}/coupons/summer/page", issuer.listen)).await.unwrap();
    browser.wait_for_text("Get my coupon").await.unwrap();
    type_user(&browser, "kim").await;
    browser.switch_to_window(first).await.unwrap();
    // By the keyboard alone.
    type_user(&browser, "kim").await;
    browser.active_element().await.unwrap().send_keys(Key::Tab + "").await.unwrap();
    browser.active_element().await.unwrap().send_keys(Key::Enter + "").await.unwrap();
    let coupon = code(&browser).await;
    assert_eq!(issuer.issue("kim").await.coupon(), coupon);
    browser.wait_for_text("10 % off").await.unwrap();
    browser.wait_for("document.activeElement.id === 'copy'").await.unwrap();
    browser.find(By::Id("copy")).await.unwrap().click().await.unwrap();
    browser.wait_for_text("Copied.").await.unwrap();
    check_layout(&browser).await;
    picture(&browser, "page-coupon.png").await;
    check_console(&browser).await;

    // The other tab shows it without a request.
    browser.switch_to_window(other).await.unwrap();
    assert_eq!(code(&browser).await, coupon);
    // After a reload, the same user receives the same coupon.
    browser.refresh().await.unwrap();
    browser.wait_for_text("Get my coupon").await.unwrap();
    press_get(&browser).await;
    assert_eq!(code(&browser).await, coupon);
}

#[tokio::test(flavor = "multi_thread")]
async fn page_shows_each_state_of_the_event() {
    let world = World::shared().await.open(1).await;
    let issuer = world.ready_issuer(&["--page"]).await;
    let browser = open(issuer.listen, "summer", &["--accept-lang=ko"]).await;
    browser.wait_for("document.documentElement.lang === 'ko'").await.unwrap();
    browser.wait_for_text("쿠폰 받기").await.unwrap();
    for (gate, window, text) in [
        (Gate::Paused, Window::default(), "잠시 쉬어 갑니다"),
        (Gate::Loading, Window::default(), "곧 쿠폰을 받으실 수 있습니다"),
        (Gate::Open, Window { start: None, end: Some(1000) }, "이벤트가 종료되었습니다"),
        (Gate::Open, Window::default(), "지금 쿠폰을 받으실 수 있습니다"),
    ] {
        world.gate(gate, window, Acknowledge::Redis).await;
        browser.wait_for_text(text).await.unwrap();
        check_layout(&browser).await;
    }
    assert!(issuer.issue("first").await.succeeded());
    browser.wait_for_text("쿠폰이 모두 소진되었습니다").await.unwrap();
    check_layout(&browser).await;
    // A holder still sees the coupon, another user does not.
    type_user(&browser, "second").await;
    press_get(&browser).await;
    until("the request was answered", async || issuer.metrics().await.contains("outcome=\"sold_out\"} 1")).await;
    browser.wait_for_text("쿠폰이 모두 소진되었습니다").await.unwrap();
    type_user(&browser, "first").await;
    press_get(&browser).await;
    assert_eq!(code(&browser).await, issuer.issue("first").await.coupon());
    check_console(&browser).await;

    browser.goto(format!("http://127.0.0.1:{}/coupons/winter/page", issuer.listen)).await.unwrap();
    browser.wait_for_text("존재하지 않는 이벤트입니다").await.unwrap();
    check_layout(&browser).await;
    // A page that was open before its event was created: it reads less often, and when the user returns.
    World { event: "winter".parse().unwrap(), uid: Uuid::new_v4(), ..world }.open(1).await;
    browser.evaluate("document.dispatchEvent(new Event('visibilitychange'))").await.unwrap();
    browser.wait_for_text("지금 쿠폰을 받으실 수 있습니다").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn page_requests_the_coupon_when_the_user_is_admitted() {
    let world = World::shared().await.open(10).await;
    let key = AdmissionKey::of(&Seed::from([7; 32]));
    let (start, ramp_seconds) = (now(), 120);
    let wait = |user: &str| key.admitted_at(start, ramp_seconds, &user.parse().unwrap()) - start;
    let user =
        (0..1000).map(|number| format!("u{number}")).find(|user| (60_000..65_000).contains(&wait(user))).unwrap();
    let settings = GateSettings {
        gate: Gate::Open,
        window: Window { start: Some(start), end: None },
        acknowledge: Acknowledge::Redis,
        validity: None,
        release: Release { ramp_seconds: Some(ramp_seconds), ..Release::default() },
        admission_key: Some(key.clone()),
        generation: 2,
        stock_epoch: 0,
        total: 10,
    };
    world.redis_store.set_gate(&world.event, world.uid, &settings).await.unwrap();
    let issuer = world.ready_issuer(&["--page"]).await;
    let browser = open(issuer.listen, "summer", &[]).await;
    browser.wait_for_text("Get my coupon").await.unwrap();
    type_user(&browser, &user).await;
    press_get(&browser).await;
    browser.wait_for_text("You are in line.").await.unwrap();
    check_layout(&browser).await;
    assert!(code(&browser).await.len() > 10);
    assert!(now() >= start + wait(&user));
    check_console(&browser).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn page_repeats_a_request_whose_response_is_lost() {
    let world = World::shared().await.open(10).await;
    let issuer = world.ready_issuer(&["--page"]).await;
    let toxiproxy = Toxiproxy::start().unwrap();
    let port = ports::free().unwrap();
    toxiproxy.add_proxy("issuer", port, issuer.listen).unwrap();
    let browser = open(port, "summer", &[]).await;
    browser.wait_for_text("Get my coupon").await.unwrap();
    type_user(&browser, "kim").await;
    toxiproxy.inject("issuer", Toxic::Unanswered).unwrap();
    press_get(&browser).await;
    until("the issuer has issued the coupon", async || {
        world.redis_store.observe(&world.event).await.unwrap().unwrap().issued == 1
    })
    .await;
    toxiproxy.inject("issuer", Toxic::Cut).unwrap();
    browser.wait_for_text("No connection. Trying again.").await.unwrap();
    browser.wait_for("/^\\d+ s$/.test(document.getElementById('retry-seconds').innerText)").await.unwrap();
    browser.check_accessibility().await.unwrap();
    toxiproxy.reset().unwrap();
    assert_eq!(code(&browser).await, issuer.issue("kim").await.coupon());
    assert_eq!(world.redis_store.observe(&world.event).await.unwrap().unwrap().issued, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn page_waits_while_redis_is_unavailable() {
    let redis = Redis::start().unwrap();
    let world = World::on(redis.url(), couponry_testbed::shared::kafka()).await.open(10).await;
    let issuer = world.ready_issuer(&["--page"]).await;
    let browser = open(issuer.listen, "summer", &[]).await;
    browser.wait_for_text("Get my coupon").await.unwrap();
    type_user(&browser, "kim").await;
    redis.pause().unwrap();
    press_get(&browser).await;
    browser.wait_for_text("Many people are here. Trying again.").await.unwrap();
    redis.resume().unwrap();
    assert!(code(&browser).await.len() > 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn page_has_configured_texts_and_asks_to_sign_in() {
    let world = World::shared().await.open(10).await;
    let scratch = Scratch::new("page").unwrap();
    let file = scratch.path().join("page.json");
    let config = json!({
        "texts": {"en": {"title": "Summer <b>sale</b>"}},
        "colors": {"light": {"accent": "#008000"}},
    });
    std::fs::write(&file, config.to_string()).unwrap();
    let flags = ["--page", "--page-config", file.to_str().unwrap(), "--user-identity", "header:X-User-Id"];
    let issuer = world.ready_issuer(&flags).await;
    let browser = open(issuer.listen, "summer", &[]).await;
    browser.wait_for_text("Summer <b>sale</b>").await.unwrap();
    browser.wait_for_text("Get my coupon").await.unwrap();
    let color = "getComputedStyle(document.getElementById('get')).backgroundColor";
    assert_eq!(browser.evaluate(color).await.unwrap(), json!("rgb(0, 128, 0)"));
    assert_eq!(browser.evaluate("document.getElementById('user').hidden").await.unwrap(), json!(true));
    press_get(&browser).await;
    browser.wait_for_text("Please sign in, then reload this page.").await.unwrap();
    check_layout(&browser).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn page_is_served_only_if_enabled_and_cannot_be_embedded() {
    let world = World::shared().await.open(1).await;
    let without = world.ready_issuer(&[]).await;
    assert_eq!(without.get("/coupons/summer/page").await.status, 404);
    let issuer = world.ready_issuer(&["--page"]).await;
    for file in ["", "/page.js", "/client.js", "/style.css", "/colors.css", "/icon.svg", "/config.json"] {
        let path = format!("/coupons/summer/page{file}");
        let (status, headers) = issuer.head(&path).await;
        assert_eq!(status, 200, "{path}");
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
        assert_eq!(headers["x-content-type-options"], "nosniff");
        assert_eq!(headers["cache-control"], "public, max-age=60");
        let refused = issuer.send(Request::put("/"), &path, "").await;
        assert_eq!((refused.status.as_u16(), &refused.json["status"]), (405, &json!(405)), "{path}");
    }
    assert_eq!(issuer.head("/coupons/summer/page/texts.json").await.0, 404);
    assert_eq!(issuer.get("/coupons/Not%20a%20name/page").await.status, 400);
}
