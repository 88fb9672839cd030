//! Checks of accessibility with axe-core.

use std::fs;

use anyhow::{Context as _, Result};
use couponry_testbed::programs::{AXE, require};
use serde_json::Value;
use thirtyfour::WebDriver;

const RUN: &str = "return axe.run(document, {resultTypes: ['violations']}).then(found => found.violations);";

/// Runs axe-core in the page. Returns a line per violated rule with the elements concerned.
pub(crate) async fn violations(driver: &WebDriver) -> Result<Vec<String>> {
    let script = require(AXE.find(), "axe-core")?;
    let script = fs::read_to_string(&script).with_context(|| format!("cannot read {}", script.display()))?;
    // Scripts of the driver are not subject to the content security policy of the page.
    driver.execute(script, Vec::new()).await.context("cannot load axe-core into the page")?;
    let found = driver.execute(RUN, Vec::new()).await.context("cannot run axe-core")?;
    Ok(found.json().as_array().context("axe-core returned no list")?.iter().map(describe).collect())
}

fn describe(violation: &Value) -> String {
    let elements = violation["nodes"].as_array().into_iter().flatten();
    let elements: Vec<String> =
        elements.map(|node| format!("  {}: {}", node["html"], node["failureSummary"])).collect();
    format!("{} ({}): {}\n{}", violation["id"], violation["impact"], violation["help"], elements.join("\n"))
}
