//! What the event page shows after a request of the user, in a real browser.

use couponry_browser::thirtyfour::By;
use couponry_domain::{Acknowledge, Discount, DiscountType, Gate, Release, Window};
use couponry_redis::{FencedWrite, GateSettings, Settlement, SettlementOutcome};
use couponry_testbed::scratch::Scratch;
use serde_json::json;

use crate::{
    page::{check_console, check_layout, code, now, open, press_get, type_user},
    support::{World, until},
    token_signer::Signer,
};

#[tokio::test(flavor = "multi_thread")]
async fn page_of_a_voided_coupon_refers_to_customer_service() {
    let world = World::shared().await.open(10).await;
    let issuer = world.ready_issuer(&["--page"]).await;
    let coupon = issuer.issue("kim").await.coupon().parse().unwrap();
    let void = Settlement { user: "kim".parse().unwrap(), coupon, outcome: SettlementOutcome::Voided };
    let settled = world.redis_store.settle(&world.event, world.uid, &[void]).await.unwrap();
    assert!(matches!(settled, FencedWrite::Applied(settled) if settled.voided == 1), "{settled:?}");

    let browser = open(issuer.listen, "summer", &[]).await;
    browser.wait_for_text("Get my coupon").await.unwrap();
    type_user(&browser, "kim").await;
    press_get(&browser).await;
    browser.wait_for_text("Your coupon was withdrawn. Please contact customer service.").await.unwrap();
    let hidden = "document.getElementById('coupon').hidden && document.getElementById('get').hidden";
    browser.wait_for(hidden).await.unwrap();
    check_layout(&browser).await;
    check_console(&browser).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn page_counts_down_to_the_next_drop_and_shows_a_coupon() {
    let world = World::shared().await.open(2).await;
    let drops = async |next: i64| {
        let settings = GateSettings {
            gate: Gate::Open,
            window: Window { start: Some(1000), end: None },
            acknowledge: Acknowledge::Redis,
            validity: None,
            release: Release { ramp_seconds: None, drops: format!("{next}:1,").parse().unwrap() },
            admission_key: None,
            generation: 2,
            stock_epoch: 0,
            total: 2,
        };
        world.redis_store.set_gate(&world.event, world.uid, &settings).await.unwrap();
    };
    drops(now() + 3_600_000).await;
    let issuer = world.ready_issuer(&["--page"]).await;
    assert!(issuer.issue("first").await.succeeded());
    let browser = open(issuer.listen, "summer", &[]).await;
    browser.wait_for_text("The next ones will be available in").await.unwrap();
    browser.wait_for("/^5\\d:\\d\\d$/.test(document.getElementById('countdown').innerText)").await.unwrap();
    check_layout(&browser).await;
    // Nothing is left for another user, and the countdown continues.
    type_user(&browser, "second").await;
    press_get(&browser).await;
    until("the request was answered", async || issuer.metrics().await.contains("outcome=\"sold_out\"} 1")).await;
    browser.wait_for_text("The next ones will be available in").await.unwrap();

    drops(now() + 15_000).await;
    browser.wait_for_text("Get my coupon").await.unwrap();
    press_get(&browser).await;
    assert_eq!(code(&browser).await, issuer.issue("second").await.coupon());
    check_console(&browser).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn page_shows_the_end_of_the_validity_in_the_time_zone_of_the_browser() {
    let world = World::shared().await.open(1).await;
    let validity = Some("2099-12-31T12:00:00Z UTC".parse().unwrap());
    world.gate_with_validity(Gate::Open, Window::default(), Acknowledge::Redis, validity).await;
    let issuer = world.ready_issuer(&["--page"]).await;
    let browser = open(issuer.listen, "summer", &["--accept-lang=en-US"]).await;
    browser.devtools("Emulation.setTimezoneOverride", json!({"timezoneId": "Asia/Seoul"})).await.unwrap();
    browser.wait_for_text("Get my coupon").await.unwrap();
    type_user(&browser, "kim").await;
    press_get(&browser).await;
    code(&browser).await;
    // The space before PM depends on the version of Chromium.
    browser.wait_for(r"/Valid until Dec 31, 2099, 9:00\sPM/.test(document.body.innerText)").await.unwrap();
    check_layout(&browser).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn page_shows_amounts_in_the_configured_currency() {
    let amount = Discount { kind: DiscountType::Amount, value: 500 };
    let world = World::shared().await.open_with(amount, 1).await;
    let scratch = Scratch::new("page").unwrap();
    let file = scratch.path().join("page.json");
    // The browser itself would show RSD without decimals.
    for (config, shown) in [
        (json!({"currency": "EUR"}), "€5.00 off"),
        (json!({"currency": "RSD"}), "RSD\u{a0}5.00 off"),
        (json!({"currency": "KWD"}), "KWD\u{a0}0.500 off"),
        (json!({"currency": "JPY"}), "¥500 off"),
        (json!({}), ""),
    ] {
        std::fs::write(&file, config.to_string()).unwrap();
        let issuer = world.ready_issuer(&["--page", "--page-config", file.to_str().unwrap()]).await;
        let browser = open(issuer.listen, "summer", &["--accept-lang=en-US"]).await;
        browser.wait_for("!document.getElementById('get').hidden").await.unwrap();
        type_user(&browser, "kim").await;
        press_get(&browser).await;
        code(&browser).await;
        let discount = browser.evaluate("document.getElementById('discount').innerText").await.unwrap();
        assert_eq!(discount, json!(shown), "{config}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn page_sends_the_token_of_its_address_and_removes_it() {
    let world = World::shared().await.open(10).await;
    let signer = Signer::es256("key");
    let scratch = Scratch::new("page").unwrap();
    let file = scratch.path().join("jwks.json");
    std::fs::write(&file, json!({"keys": [signer.jwk()]}).to_string()).unwrap();
    let keys = ["--page", "--user-identity", "jwt", "--jwt-jwks-file", file.to_str().unwrap()];
    let flags = [keys.as_slice(), &["--jwt-audience", "coupons"]].concat();
    let issuer = world.ready_issuer(&flags).await;
    let browser = open(issuer.listen, "summer", &[]).await;
    let page = format!("http://127.0.0.1:{}/coupons/summer/page", issuer.listen);
    let open_with = async |token: &str| {
        // Another fragment alone would not load the page.
        browser.goto("about:blank").await.unwrap();
        browser.goto(format!("{page}#token={token}")).await.unwrap();
        browser.wait_for_text("Get my coupon").await.unwrap();
        assert_eq!(browser.current_url().await.unwrap().as_str(), page);
        let stored = "JSON.stringify([localStorage, sessionStorage, history.state, document.cookie])";
        assert_eq!(browser.evaluate(stored).await.unwrap(), json!(r#"[{},{},null,""]"#));
        assert_eq!(browser.evaluate("document.getElementById('user').hidden").await.unwrap(), json!(true));
        press_get(&browser).await;
    };
    let token = signer.token("ES256", "kim");
    open_with(&token).await;
    let coupon = code(&browser).await;
    check_console(&browser).await;
    // It belongs to the user of the token.
    assert_eq!(world.records_in_kafka(1).await["kim"].issued.coupon.as_str(), coupon);
    open_with(&token).await;
    assert_eq!(code(&browser).await, coupon);

    open_with(&Signer::es256("key").token("ES256", "kim")).await;
    browser.wait_for_text("Please sign in, then reload this page.").await.unwrap();
    // After a reload, the page has no token.
    browser.refresh().await.unwrap();
    browser.wait_for_text("Get my coupon").await.unwrap();
    press_get(&browser).await;
    browser.wait_for_text("Please sign in, then reload this page.").await.unwrap();
    assert_eq!(world.redis_store.observe(&world.event).await.unwrap().unwrap().issued, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn page_shows_why_a_request_was_refused() {
    let world = World::shared().await.open(10).await;
    let issuer = world.ready_issuer(&["--page"]).await;
    let browser = open(issuer.listen, "summer", &[]).await;
    browser.wait_for_text("Get my coupon").await.unwrap();
    type_user(&browser, "k\u{200b}im").await;
    press_get(&browser).await;
    let refused = issuer.issue("k\u{200b}im").await;
    assert_eq!(refused.status, 400);
    let detail = refused.json["detail"].as_str().unwrap();
    browser.wait_for_text(&format!("The request was refused: {detail}")).await.unwrap();
    check_layout(&browser).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn page_asks_to_copy_the_code_if_the_browser_does_not() {
    let world = World::shared().await.open(10).await;
    let issuer = world.ready_issuer(&["--page"]).await;
    let browser = open(issuer.listen, "summer", &[]).await;
    browser.wait_for_text("Get my coupon").await.unwrap();
    type_user(&browser, "kim").await;
    press_get(&browser).await;
    code(&browser).await;
    // The permission is denied, and the older function has no effect, as in browsers that embed others.
    let permission = json!({"permission": {"name": "clipboard-write"}, "setting": "denied"});
    browser.devtools("Browser.setPermission", permission).await.unwrap();
    browser.evaluate("(document.execCommand = () => false) && true").await.unwrap();
    browser.find(By::Id("copy")).await.unwrap().click().await.unwrap();
    browser.wait_for_text("Please select and copy the code.").await.unwrap();
    check_layout(&browser).await;
}
