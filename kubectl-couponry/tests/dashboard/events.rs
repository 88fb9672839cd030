//! What the dashboard shows, and what its buttons do.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use couponry_browser::Browser;
use couponry_testbed::shared;
use jiff::{SignedDuration, Timestamp};

use crate::support::{
    Dashboard, Installation, click, confirm, manifest, namespace, picture, spec, takes_pictures, type_into,
};

const SUMMER: &str = "policyName: Summer sale, totalCount: 100000, currency: EUR, discounts: \
     [{type: Percent, value: 10, allocationPercentage: 70}, {type: Amount, value: 500, allocationPercentage: 30}]";

const RATE_IS_POSITIVE: &str = "/^[0-9,.]*[1-9]/.test(document.querySelectorAll('#figures strong')[2].textContent)";

const WINTER: &str = "{policyName: Winter sale, totalCount: 500, startTime: '2098-12-01T00:00:00Z', \
     discounts: [{type: Percent, value: 20, allocationPercentage: 100}]}";

#[tokio::test(flavor = "multi_thread")]
async fn events_are_shown_live_and_changed_by_buttons() {
    let installation = Arc::new(Installation::start());
    let end = Timestamp::now() + SignedDuration::from_hours(75);
    installation.apply("summer", &format!("{{{SUMMER}, endTime: '{end:.0}'}}"));
    installation.apply("winter", WINTER);
    let dashboard = Dashboard::start(&shared::kubeconfig(), &installation.namespace);
    let browser = dashboard.open().await;
    let address = browser.current_url().await.unwrap();
    assert_eq!((address.path(), address.query()), ("/", None), "the token is not in the address");

    browser.wait_for_text("Summer sale").await.unwrap();
    browser.wait_for_text(&format!("{} on 127.0.0.1", installation.namespace)).await.unwrap();
    browser
        .wait_for("[...document.querySelectorAll('.card')].some(it => /summer\\s+Open/.test(it.innerText))")
        .await
        .unwrap();
    browser.wait_for_text("opens in").await.unwrap();
    installation.apply("late", &spec("Applied later", 5));
    browser.wait_for_text("Applied later").await.unwrap();
    installation.delete("late");
    browser.wait_for("!document.body.innerText.includes('Applied later')").await.unwrap();

    // Issues coupons until the end of the test.
    let is_over = Arc::new(AtomicBool::new(false));
    let load = std::thread::spawn({
        let (installation, is_over) = (installation.clone(), is_over.clone());
        move || {
            for user in 0..90_000 {
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
                // Some responses are errors while the issuer starts; what it has done is shown by its metrics.
                let _ = installation.request_coupon("summer", user - user % 9 / 8);
                let wave = (f64::from(user) / 900.0).sin() * 1.2 + 1.6;
                std::thread::sleep(Duration::from_secs_f64(wave / 1000.0));
            }
        }
    });
    click(&browser, "a[href='#/summer']").await;
    browser.wait_for("/[1-9]/.test(document.querySelector('#figures strong').textContent)").await.unwrap();
    browser.wait_for("document.querySelector('#outcomes').innerText.includes('already had a coupon')").await.unwrap();
    browser
        .wait_for("document.querySelector('#latency-plot .legend strong').textContent.includes('ms')")
        .await
        .unwrap();
    browser.wait_for("document.querySelector('#issued-plot path.line')").await.unwrap();
    browser.wait_for("document.querySelector('#pipeline').innerText.includes('Consumer lag')").await.unwrap();
    // One number for one thing.
    let same = "document.querySelectorAll('#figures strong')[2].textContent \
                === document.querySelector('#issued-plot .legend strong').textContent";
    browser.wait_for(&format!("{RATE_IS_POSITIVE} && {same}")).await.unwrap();
    for text in ["10 % off 70,000", "€5.00 off 30,000", "1 of 1 issuers are ready", "Preload completed"] {
        browser.wait_for_text(text).await.unwrap();
    }
    for scheme in ["light", "dark"] {
        browser.prefer_color_scheme(scheme).await.unwrap();
        browser.check_accessibility().await.unwrap();
    }

    browser.wait_for(&verdict("Unknown: The check has not run")).await.unwrap();
    show_rate_without_operator(&browser, &installation).await;

    // It requires a kubelet.
    click(&browser, "#check").await;
    browser.wait_for_text("The check could not run: ").await.unwrap();
    browser.wait_for(&verdict("Unknown: The check could not run")).await.unwrap();
    show_check(&browser, &installation).await;
    if takes_pictures() {
        take_pictures(&browser).await;
    }

    click(&browser, "[data-action=pause]").await;
    type_into(&browser, "#dialog-name", "winter").await;
    click(&browser, "#dialog-submit").await;
    browser.wait_for_text("Type summer to confirm.").await.unwrap();
    browser.check_accessibility().await.unwrap();
    type_into(&browser, "#dialog-name", "summer").await;
    click(&browser, "#dialog-submit").await;
    let state = |state: &str| format!("document.querySelector('#event-state').textContent === '{state}'");
    browser.wait_for(&state("Paused")).await.unwrap();
    browser.wait_for(&verdict("No-go: The event is paused")).await.unwrap();
    confirm(&browser, "resume", "summer").await;
    browser.wait_for(&state("Open")).await.unwrap();

    click(&browser, "[data-action=topup]").await;
    type_into(&browser, "#dialog-name", "summer").await;
    click(&browser, "#dialog-submit").await;
    browser.wait_for_text("enter the number of coupons to add").await.unwrap();
    type_into(&browser, "#dialog-count", "1000").await;
    click(&browser, "#dialog-submit").await;
    browser.wait_for_text("of 101,000").await.unwrap();

    is_over.store(true, Ordering::Relaxed);
    load.join().unwrap();
    click(&browser, "[data-action=close]").await;
    browser.wait_for_text("Closing is final").await.unwrap();
    type_into(&browser, "#dialog-name", "summer").await;
    click(&browser, "#dialog-submit").await;
    browser.wait_for(&state("Closed")).await.unwrap();
    browser.wait_for(&verdict("No-go: The event is closed")).await.unwrap();
    browser
        .wait_for("[...document.querySelectorAll('#actions button')].every(button => button.disabled)")
        .await
        .unwrap();

    installation.delete("summer");
    browser.wait_for_text("summer was deleted. This is what it was before.").await.unwrap();
    let console = browser.console().await.unwrap();
    let rejected = |line: &String| line.contains("422 (Unprocessable");
    assert!(console.iter().all(rejected), "{console:#?}");
}

/// Without new counts, which the operator writes, the rate is still that of the issuers.
async fn show_rate_without_operator(browser: &Browser, installation: &Installation) {
    browser
        .wait_for("document.querySelector('#verdict').textContent === 'Unknown: The check has not run'")
        .await
        .unwrap();
    installation.pause_operator();
    let counts = "document.querySelector('#figures-source').textContent.split('. ')[0]";
    let (before, shown) =
        (browser.evaluate(counts).await.unwrap(), "document.querySelector('#figures-source').textContent");
    for _ in 0..5 {
        let source = browser.evaluate(shown).await.unwrap();
        browser.wait_for(&format!("{RATE_IS_POSITIVE} && {shown} !== {source}")).await.unwrap();
    }
    let same_counts = format!("{counts} === {before}");
    installation.resume_operator();
    browser.wait_for(&format!("!({same_counts})")).await.unwrap();
}

/// Passes what the operator's check reports to the page, as the dashboard would receive it from the pod.
async fn show_check(browser: &Browser, installation: &Installation) {
    let report = installation.check();
    let replace = format!(
        "(() => {{ const original = window.fetch; window.fetch = async (path, options) => path === '/api/check' \
         ? new Response({}) : original(path, options); return true; }})()",
        serde_json::json!(report)
    );
    browser.evaluate(&replace).await.unwrap();
    click(browser, "#check").await;
    browser.wait_for_text("The check at ").await.unwrap();
    browser.wait_for("document.querySelector('#verdict').textContent === 'Go'").await.unwrap();
    browser.check_accessibility().await.unwrap();
}

fn verdict(text: &str) -> String {
    format!("document.querySelector('#verdict').textContent.startsWith('{text}')")
}

/// After minutes of load, for a plot with a shape.
async fn take_pictures(browser: &Browser) {
    tokio::time::sleep(Duration::from_mins(2)).await;
    browser.prefer_color_scheme("light").await.unwrap();
    browser.resize(1280, 1500).await.unwrap();
    browser.evaluate("window.scrollTo(0, 0)").await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    picture(browser, "dashboard-event.png").await;
    browser.prefer_color_scheme("dark").await.unwrap();
    browser.resize(360, 740).await.unwrap();
    browser.evaluate("window.scrollTo(0, 0)").await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    picture(browser, "dashboard-phone.png").await;
    browser.resize(1280, 800).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_events_with_any_names_fit_a_phone() {
    let namespace = namespace();
    let names = ["مهرجان الصيف 2026", "여름 할인 🎟", &"W".repeat(200), "<script>alert(1)</script>"];
    let events = (0..200).map(|number| {
        let policy_name = names.get(number).copied().unwrap_or("Sale");
        let name = if number == 0 { "x".repeat(63) } else { format!("event-{number}") };
        manifest(&namespace, &name, &spec(policy_name, 10))
    });
    shared::kubectl_with(&["apply", "-f", "-"], &events.collect::<Vec<_>>().join("\n---\n")).unwrap();
    let dashboard = Dashboard::start(&shared::kubeconfig(), &namespace);
    let browser = dashboard.open().await;
    browser.wait_for("document.querySelectorAll('.card').length === 200").await.unwrap();
    browser.wait_for_text("No issuer is running").await.unwrap();
    for name in &names[1..] {
        browser.wait_for_text(name).await.unwrap();
    }
    browser.resize(360, 740).await.unwrap();
    browser.wait_for("document.documentElement.scrollWidth <= innerWidth").await.unwrap();
    browser.check_accessibility().await.unwrap();
    type_into(&browser, "#filter", "event-17").await;
    browser.wait_for("document.querySelectorAll('.card').length === 11").await.unwrap();
    type_into(&browser, "#filter", "xxx").await;
    browser.wait_for("document.querySelectorAll('.card').length === 1").await.unwrap();
    click(&browser, ".card a").await;
    browser.wait_for(&verdict("No-go: No issuer is running")).await.unwrap();
    browser.wait_for_text("No operator has observed this event yet.").await.unwrap();
    browser.wait_for("document.documentElement.scrollWidth <= innerWidth").await.unwrap();
    browser.check_accessibility().await.unwrap();
    assert_eq!(browser.console().await.unwrap(), Vec::<String>::new());
}
