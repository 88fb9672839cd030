//! Changes of the manifest while a long step is in progress.
//!
//! An event has one reconciliation at a time, so a step of minutes would delay a pause of the same event.

use couponry_crds::{CouponEvent, IssuingMode};
use couponry_runtime::error_chain;

use crate::{
    context::Context,
    reconcile::{
        desired_state::DesiredState, error::ReconcileError, observe::ObservedState, restrict_gate::restrict_gate,
        status_writer::StatusWriter,
    },
};

/// Reads the manifest again, and pauses or closes the gate if it requires this. Returns whether it differs from
/// `desired`.
pub(super) async fn is_changed(desired: &DesiredState, context: &Context, writer: &mut StatusWriter<'_>) -> bool {
    match writer.refresh().await {
        Ok(()) => {}
        Err(ReconcileError::Conflict) => return true,
        Err(error) => {
            tracing::warn!(error = error_chain(&error), "cannot read whether the manifest has changed");
            return false;
        }
    }
    let event = writer.event();
    if event.event_uid() != Some(desired.uid) {
        return true;
    }
    // A hold does not change the generation.
    let is_changed = event.stored_generation() != desired.generation || event.hold() != desired.hold;
    if is_changed {
        restrict_gate(event, context).await;
    }
    is_changed
}

/// Like [`is_changed`], for a step that cannot continue where it ended. Returns whether its result is not needed any
/// more.
pub(super) async fn is_superseded(
    desired: &DesiredState,
    observed: &ObservedState,
    context: &Context,
    writer: &mut StatusWriter<'_>,
) -> bool {
    is_changed(desired, context, writer).await && !needs_stock(writer.event(), desired, observed)
}

/// Whether the changed event needs the stock that is being generated.
fn needs_stock(event: &CouponEvent, desired: &DesiredState, observed: &ObservedState) -> bool {
    let Ok(changed) = DesiredState::from_manifest(event) else { return false };
    let has_opening = observed.stored.as_ref().is_some_and(|stored| stored.opens_at.is_some());
    let is_same_stock =
        (changed.total, &changed.shares, &changed.format) == (desired.total, &desired.shares, &desired.format);
    changed.uid == desired.uid
        && changed.code_source == desired.code_source
        && event.metadata.deletion_timestamp.is_none()
        && changed.issuance != IssuingMode::Closed
        && (has_opening || is_same_stock)
}
