//! The history of the voids of administrators: a line of JSON for each run of `couponry-operator void`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

/// A run of the command. Times are in microseconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VoidAttempt {
    /// The coupon.
    pub coupon: String,
    /// When the command was started.
    pub invoked: i64,
    /// When it ended.
    pub finished: i64,
    /// Its result.
    pub outcome: VoidOutcome,
}

/// The result of the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum VoidOutcome {
    /// The coupon is voided, by this or an earlier run.
    Voided,
    /// Nothing was changed, because the coupon is redeemed.
    Redeemed,
    /// Nothing was changed, because the coupon has no user.
    NoUser,
    /// The command has failed, so the coupon may be voided or not.
    Unknown,
}

impl VoidAttempt {
    /// Whether the coupon may be voided because of it.
    #[must_use]
    pub fn may_have_changed(&self) -> bool {
        matches!(self.outcome, VoidOutcome::Voided | VoidOutcome::Unknown)
    }
}

/// Reads a history.
pub fn read(path: &Path) -> Result<Vec<VoidAttempt>> {
    let failed = || format!("cannot read the history {}", path.display());
    let text = fs::read_to_string(path).with_context(failed)?;
    text.lines().map(|line| serde_json::from_str(line).with_context(failed)).collect()
}
