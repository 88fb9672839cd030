//! The browser itself: it shows pages, reports their faults, and ends with its owner.

use std::{fs, path::Path};

use couponry_browser::{Browser, thirtyfour::By};

fn page(body: &str) -> String {
    format!("data:text/html,<!doctype html><html lang=en><title>page</title><main><h1>Page</h1>{body}</main></html>")
}

#[tokio::test(flavor = "multi_thread")]
async fn page_is_shown_and_its_faults_are_reported() {
    let browser = Browser::start().await.unwrap();
    let button = "<button onclick=\"this.textContent='clicked';console.error('noted')\">Go</button>";
    browser.goto(page(button)).await.unwrap();
    browser.check_accessibility().await.unwrap();
    browser.find(By::Tag("button")).await.unwrap().click().await.unwrap();
    browser.wait_for_text("clicked").await.unwrap();
    let console = browser.console().await.unwrap();
    assert!(console.iter().any(|line| line.contains("noted")), "{console:?}");

    browser.resize(360, 740).await.unwrap();
    browser.prefer_color_scheme("dark").await.unwrap();
    let seen = "[innerWidth, matchMedia('(prefers-color-scheme: dark)').matches]";
    assert_eq!(browser.evaluate(seen).await.unwrap(), serde_json::json!([360, true]));

    browser.goto(page("<img src=x>")).await.unwrap();
    let violations = browser.check_accessibility().await.unwrap_err().to_string();
    assert!(violations.contains("image-alt"), "{violations}");
}

#[tokio::test(flavor = "multi_thread")]
async fn chromium_ends_with_its_driver() {
    let browser = Browser::start().await.unwrap();
    let driver = browser.process().pid().unwrap();
    let threads = fs::read_dir(format!("/proc/{driver}/task")).unwrap().flatten();
    let children = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let children: Vec<String> =
        children.flat_map(|pids| pids.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect();
    assert!(!children.is_empty());
    drop(browser);
    for child in children {
        assert!(fs::read_link(Path::new("/proc").join(&child).join("exe")).is_err(), "{child} is running");
    }
}
