//! What a check found.

use std::fmt::Write as _;

use serde::Serialize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum Severity {
    Ok,
    Warn,
    Fail,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct CheckResult {
    pub(super) severity: Severity,
    about: String,
    pub(super) found: String,
    /// What to do; empty if nothing is to be done.
    advice: String,
}

impl CheckResult {
    pub(super) fn new(
        severity: Severity,
        about: impl Into<String>,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self { severity, about: about.into(), found: found.into(), advice: advice.into() }
    }

    pub(super) fn ok(about: impl Into<String>, found: impl Into<String>) -> Self {
        Self::new(Severity::Ok, about, found, "")
    }

    pub(super) fn warn(about: impl Into<String>, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(Severity::Warn, about, found, advice)
    }

    pub(super) fn fail(about: impl Into<String>, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(Severity::Fail, about, found, advice)
    }
}

/// A table with one line per result and one per advice.
pub(super) fn table(results: &[CheckResult]) -> String {
    let width = results.iter().map(|result| result.about.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for CheckResult { severity, about, found, advice } in results {
        let severity = match severity {
            Severity::Ok => "OK",
            Severity::Warn => "WARN",
            Severity::Fail => "FAIL",
        };
        writeln!(text, "{severity:<4}  {about:<width$}  {found}").expect("writing to a String does not fail");
        if !advice.is_empty() {
            writeln!(text, "      {:width$}  → {advice}", "").expect("writing to a String does not fail");
        }
    }
    text
}
