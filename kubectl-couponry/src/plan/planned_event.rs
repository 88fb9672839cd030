//! What one manifest would do.

use couponry_crds::CouponEvent;

use super::{estimate::Estimate, findings::Findings};

/// What one manifest would do.
pub(super) struct PlannedEvent {
    /// As the API server would store it, or as it is in the file.
    pub(super) event: CouponEvent,
    pub(super) estimate: Estimate,
    pub(super) findings: Findings,
    /// None: the API server has not checked it.
    pub(super) namespace: Option<String>,
}
