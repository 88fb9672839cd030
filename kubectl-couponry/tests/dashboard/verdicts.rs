//! Go, no-go or unknown, for each state that an operator reports.

use couponry_testbed::{pods::PodOf, ports, shared};
use serde_json::json;

use crate::support::{Dashboard, manifest, namespace, open_event, spec};

#[tokio::test(flavor = "multi_thread")]
async fn verdict_of_event_that_cannot_issue_is_never_go() {
    let namespace = namespace();
    shared::kubectl_with(&["apply", "-f", "-"], &manifest(&namespace, "summer", &spec("Sale", 10))).unwrap();
    let dashboard = Dashboard::start(&shared::kubeconfig(), &namespace);
    let browser = dashboard.open().await;
    open_event(&browser, "summer").await;
    let shows = |text: &str| format!("document.querySelector('#verdict').textContent.startsWith('{text}')");

    set_state(&namespace, "Open");
    browser.wait_for(&shows("No-go: No issuer is running")).await.unwrap();
    let monitor_port = ports::free().unwrap();
    PodOf { name: "issuer", component: "issuer", monitor_port }.create(&shared::kubeconfig(), &namespace).unwrap();
    browser.wait_for(&shows("Unknown: The check has not run")).await.unwrap();
    for (state, verdict) in [
        ("Paused", "No-go: The event is paused"),
        ("SoldOut", "No-go: All coupons are issued"),
        ("Ended", "No-go: The event has ended"),
        ("Closed", "No-go: The event is closed"),
        ("Held", "No-go: The event is held: Reported."),
        ("BackendUnavailable", "No-go: Issuing is blocked: Backend unavailable"),
        ("Loading", "Unknown: The check has not run"),
    ] {
        set_state(&namespace, state);
        browser.wait_for(&shows(verdict)).await.unwrap();
    }
    // The operator has not reported the hold yet.
    set_state(&namespace, "Open");
    let hold = ["annotate", "ce", "summer", "-n", &namespace, "couponry.dev/hold=prices are being corrected"];
    shared::kubectl(&hold).unwrap();
    browser.wait_for(&shows("No-go: The event is held: prices are being corrected")).await.unwrap();
    shared::kubectl(&["annotate", "ce", "summer", "-n", &namespace, "couponry.dev/hold-"]).unwrap();
    let past = r#"{"spec":{"endTime":"2026-01-01T00:00:00Z"}}"#;
    shared::kubectl(&["patch", "ce", "summer", "-n", &namespace, "--type=merge", "-p", past]).unwrap();
    browser.wait_for(&shows("No-go: The event has ended")).await.unwrap();
}

/// Reports this reason of `Open`, and otherwise what an operator reports of a healthy event.
fn set_state(namespace: &str, state: &str) {
    let condition = |type_: &str, status: &str, reason: &str| {
        json!({"type": type_, "status": status, "reason": reason, "message": "Reported.",
               "lastTransitionTime": "2026-01-01T00:00:00Z"})
    };
    let conditions = [
        condition("Open", if state == "Open" { "True" } else { "False" }, state),
        condition("Stalled", "False", "NotStalled"),
        condition("Preloaded", "True", "StockComplete"),
        condition("Balanced", "True", "CountsMatch"),
        condition("Durable", "True", "WritesSynced"),
    ];
    let status = json!({"status": {"observedGeneration": 1, "conditions": conditions}}).to_string();
    let patch = ["patch", "ce", "summer", "-n", namespace, "--subresource=status", "--type=merge", "-p", &status];
    shared::kubectl(&patch).unwrap();
}
