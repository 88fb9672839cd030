//! Runs pages in a real Chromium, through chromedriver, for the tests of pages.
//!
//! # Guarantees
//! - Each [`Browser`] has its own ports and an empty profile, and ends with the test.
//! - A missing program fails the test with the command that installs it.
//!
//! # Caveats
//! Chromium runs without its sandbox, because tests may run as root: it only opens pages of this machine.

mod accessibility;
mod driver_client;

use std::{
    ops::Deref,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use couponry_testbed::{
    Process, ports,
    process::Launch,
    programs::{chromedriver, chromium, require},
    scratch::Scratch,
};
use serde_json::{Value, json};
pub use thirtyfour;
use thirtyfour::{CapabilitiesHelper as _, ChromiumLikeCapabilities as _, DesiredCapabilities, WebDriver};

use crate::driver_client::DriverClient;

/// Flags of Chromium. The pipe to its driver ends Chromium when the driver ends, even after SIGKILL.
const FLAGS: [&str; 11] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
];
/// Long enough for a machine that compiles at the same time.
const DEADLINE: Duration = Duration::from_mins(2);
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// A Chromium with one window. Dereferences to [`WebDriver`], which finds elements, clicks and types.
#[derive(Debug)]
pub struct Browser {
    // Dropped in this order: the driver closes Chromium, then its process ends, then the profile is removed.
    driver: WebDriver,
    process: Process,
    _scratch: Scratch,
}

impl Browser {
    /// Starts Chromium with an empty page of 1280 x 800 pixels.
    pub async fn start() -> Result<Self> {
        Self::start_with(&[]).await
    }

    /// Starts it with additional flags, such as `--lang=ko`.
    pub async fn start_with(flags: &[&str]) -> Result<Self> {
        let program = require(chromedriver(), "chromedriver")?;
        let chromium = require(chromium(), "chromium")?;
        let scratch = Scratch::new("browser")?;
        let port = ports::free()?;
        let log = scratch.path().join("chromedriver.log");
        let launch = Launch::new("chromedriver", program, log)
            .args([format!("--port={port}")])
            .clean_env()
            .env("HOME", scratch.path())
            .dir(scratch.path());
        let process = Process::start(launch)?;
        process.wait_ready(|| ports::accepts(port))?;

        let mut capabilities = DesiredCapabilities::chrome();
        capabilities.set_binary(chromium.to_str().context("the path of chromium is not UTF-8")?)?;
        for flag in FLAGS.iter().chain(flags) {
            capabilities.add_arg(flag)?;
        }
        capabilities.add_arg(&format!("--user-data-dir={}", scratch.path().join("profile").display()))?;
        capabilities.set("goog:loggingPrefs", json!({"browser": "ALL"}))?;
        let driver = WebDriver::builder(format!("http://127.0.0.1:{port}"), capabilities).client(DriverClient::new());
        let driver = driver.await.with_context(|| format!("cannot start Chromium:\n{}", process.log_tail()))?;
        let browser = Self { driver, process, _scratch: scratch };
        browser.resize(1280, 800).await?;
        Ok(browser)
    }

    /// The process of the driver; Chromium is its child.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// The value of a JavaScript expression; a promise is awaited.
    pub async fn evaluate(&self, expression: &str) -> Result<Value> {
        let result = self.driver.execute(format!("return ({expression});"), Vec::new()).await;
        Ok(result.with_context(|| format!("cannot evaluate {expression}"))?.json().clone())
    }

    /// Waits until a JavaScript expression has a value other than false, null, 0 and "", and returns it. Fails with the
    /// text of the page.
    pub async fn wait_for(&self, expression: &str) -> Result<Value> {
        let started = Instant::now();
        let wanted = format!("(() => {{ try {{ return ({expression}); }} catch {{ return null; }} }})()");
        loop {
            let value = self.evaluate(&wanted).await?;
            if ![json!(false), json!(null), json!(0), json!("")].contains(&value) {
                return Ok(value);
            }
            if started.elapsed() > DEADLINE {
                let text = self.evaluate("document.body.innerText").await?;
                bail!("{expression} did not become true; the page shows:\n{}", text.as_str().unwrap_or_default());
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Waits until the page shows this text.
    pub async fn wait_for_text(&self, text: &str) -> Result<()> {
        self.wait_for(&format!("document.body.innerText.includes({})", json!(text))).await.map(drop)
    }

    /// Sets the size of the page, independently of the size of the window: 360 x 740 is a phone.
    pub async fn resize(&self, width: u32, height: u32) -> Result<()> {
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.devtools("Emulation.setDeviceMetricsOverride", metrics).await.map(drop)
    }

    /// Sets the value of `prefers-color-scheme`: `light` or `dark`.
    pub async fn prefer_color_scheme(&self, scheme: &str) -> Result<()> {
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.devtools("Emulation.setEmulatedMedia", features).await.map(drop)
    }

    /// Sends a command of the protocol of the developer tools, such as `Page.reload`.
    pub async fn devtools(&self, command: &str, params: Value) -> Result<Value> {
        self.driver.cdp().send_raw(command, params).await.with_context(|| format!("cannot run {command}"))
    }

    /// Writes the visible part of the page to a PNG file.
    pub async fn save_screenshot(&self, path: &Path) -> Result<()> {
        self.driver.screenshot(path).await.with_context(|| format!("cannot write {}", path.display()))
    }

    /// Messages of the console since the last call, such as violations of the content security policy and uncaught
    /// errors.
    pub async fn console(&self) -> Result<Vec<String>> {
        let entries = self.driver.get_log("browser").await.context("cannot read the console")?;
        Ok(entries.into_iter().map(|entry| format!("{}: {}", entry.level, entry.message)).collect())
    }

    /// Fails with the list of rules of axe-core that the page violates, in its current state.
    pub async fn check_accessibility(&self) -> Result<()> {
        let violations = accessibility::violations(&self.driver).await?;
        ensure!(violations.is_empty(), "axe-core found violations:\n{}", violations.join("\n"));
        Ok(())
    }
}

impl Deref for Browser {
    type Target = WebDriver;

    fn deref(&self) -> &WebDriver {
        &self.driver
    }
}
