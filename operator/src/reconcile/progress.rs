//! Progress of a reconciliation.

use std::time::Duration;

use couponry_domain::{CouponBatch, EventName};

use crate::{blocker::Blocker, reconcile::step::Step};

/// How often a long step reports its progress.
pub(super) const REPORT_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Coupons are being generated or loaded. The message contains their number.
    Preloading(String),
    /// Codes have to be imported. The message contains their number.
    AwaitingCodes(String),
    /// The stores match the manifest.
    Done,
    Blocked(Blocker),
}

impl Progress {
    /// The progress before `step`. None: the step takes no noticeable time.
    pub(super) fn before(step: &Step) -> Option<Self> {
        match step {
            Step::GenerateStock(batch) => Some(Self::generated(0, batch.len())),
            Step::Load { from, to } => Some(Self::loaded(*from, *to)),
            _ => None,
        }
    }

    pub(super) fn waiting() -> Self {
        Self::Preloading("Waiting until other large preloads have finished.".to_owned())
    }

    pub(super) fn generated(done: u64, total: u64) -> Self {
        Self::Preloading(format!("{done} of {total} coupons are generated in Postgres."))
    }

    pub(super) fn loaded(done: u64, total: u64) -> Self {
        Self::Preloading(format!("{done} of {total} coupons are loaded into Redis."))
    }

    pub(super) fn awaiting_codes(event: &EventName, batch: &CouponBatch) -> Self {
        let counts = batch.counts.iter().filter(|(_, count)| *count > 0);
        let counts: Vec<String> = counts.map(|(discount, count)| format!("{count} of {discount}")).collect();
        Self::AwaitingCodes(format!(
            "{} codes have to be imported ({}). Run `kubectl couponry import {event} FILE`.",
            batch.len(),
            counts.join(", ")
        ))
    }

    pub(super) fn message(&self) -> &str {
        match self {
            Self::Preloading(message) | Self::AwaitingCodes(message) | Self::Blocked(Blocker { message, .. }) => {
                message
            }
            Self::Done => "",
        }
    }
}
