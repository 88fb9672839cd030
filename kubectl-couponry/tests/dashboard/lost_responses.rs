//! Responses of the API server that are lost, and events that are not those that were shown.

use std::sync::atomic::Ordering;

use couponry_testbed::shared;

use crate::{
    fault_proxy::FaultProxy,
    support::{Dashboard, click, confirm, manifest, namespace, open_event, spec, type_into},
};

const DIALOG_IS_CLOSED: &str = "!document.querySelector('#dialog').open";

fn apply(namespace: &str, name: &str, total: u64) {
    shared::kubectl_with(&["apply", "-f", "-"], &manifest(namespace, name, &spec("Sale", total))).unwrap();
}

fn total(namespace: &str, name: &str) -> String {
    shared::kubectl(&["get", "ce", name, "-n", namespace, "-o", "jsonpath={.spec.totalCount}"]).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn topup_without_a_response_is_applied_once() {
    let namespace = namespace();
    apply(&namespace, "summer", 10);
    let proxy = FaultProxy::start(&shared::kubeconfig());
    let dashboard = Dashboard::start(&proxy.kubeconfig, &namespace);
    let browser = dashboard.open().await;
    open_event(&browser, "summer").await;
    browser.wait_for_text("of 10").await.unwrap();

    proxy.faults.changes_are_unconfirmed.store(true, Ordering::Relaxed);
    click(&browser, "[data-action=topup]").await;
    type_into(&browser, "#dialog-count", "5").await;
    browser.wait_for_text("from 10 to 15 coupons").await.unwrap();
    type_into(&browser, "#dialog-name", "summer").await;
    click(&browser, "#dialog-submit").await;
    browser.wait_for_text("the API server has not confirmed the change of summer: it may be stored").await.unwrap();
    browser.wait_for_text("of 15").await.unwrap();
    // The user repeats it.
    proxy.faults.changes_are_unconfirmed.store(false, Ordering::Relaxed);
    click(&browser, "#dialog-submit").await;
    browser.wait_for(DIALOG_IS_CLOSED).await.unwrap();
    assert_eq!(total(&namespace, "summer"), "15");

    // Somebody else has added coupons since the dialog was opened.
    click(&browser, "[data-action=topup]").await;
    apply(&namespace, "summer", 30);
    browser.wait_for_text("of 30").await.unwrap();
    type_into(&browser, "#dialog-count", "5").await;
    type_into(&browser, "#dialog-name", "summer").await;
    click(&browser, "#dialog-submit").await;
    browser.wait_for_text("summer has 30 coupons now, not 15").await.unwrap();
    assert_eq!(total(&namespace, "summer"), "30");
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_watch_is_reported_while_other_requests_succeed() {
    let namespace = namespace();
    apply(&namespace, "summer", 10);
    let proxy = FaultProxy::start(&shared::kubeconfig());
    let dashboard = Dashboard::start(&proxy.kubeconfig, &namespace);
    let browser = dashboard.open().await;
    open_event(&browser, "summer").await;
    browser.wait_for_text("of 10").await.unwrap();

    proxy.faults.watch_is_silent.store(true, Ordering::Relaxed);
    browser.wait_for_text("No contact with the Kubernetes API server since").await.unwrap();
    browser.wait_for_text("Unknown: the dashboard has no current data").await.unwrap();
    proxy.faults.watch_is_silent.store(false, Ordering::Relaxed);
    browser.wait_for("!document.body.innerText.includes('No contact')").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn event_that_was_created_again_is_not_changed() {
    let namespace = namespace();
    apply(&namespace, "summer", 10);
    let dashboard = Dashboard::start(&shared::kubeconfig(), &namespace);
    let browser = dashboard.open().await;
    open_event(&browser, "summer").await;
    browser.wait_for_text("of 10").await.unwrap();
    click(&browser, "[data-action=close]").await;
    browser.wait_for_text("Close summer?").await.unwrap();
    shared::kubectl(&["delete", "ce", "summer", "-n", &namespace]).unwrap();
    apply(&namespace, "summer", 20);
    browser.wait_for("document.querySelector('#figures').textContent.includes('of 20')").await.unwrap();
    type_into(&browser, "#dialog-name", "summer").await;
    click(&browser, "#dialog-submit").await;
    browser.wait_for_text("summer was deleted and created again").await.unwrap();
    let issuance = ["get", "ce", "summer", "-n", &namespace, "-o", "jsonpath={.spec.issuance}"];
    assert_eq!(shared::kubectl(&issuance).unwrap(), "Auto");
    click(&browser, "#dialog-cancel").await;
    confirm(&browser, "close", "summer").await;
    browser.wait_for(DIALOG_IS_CLOSED).await.unwrap();
    assert_eq!(shared::kubectl(&issuance).unwrap(), "Closed");
}
