//! Brings the stores to the state that a manifest specifies, and reports the status.
//!
//! One reconciliation ([`event`]) goes through these modules in this order:
//!
//! 0. [`restrict_gate`]: pauses or closes an open event at once.
//! 1. [`finalizer`]: adds the finalizer, and cleans up a deleted event.
//! 2. [`desired_state`]: reads the manifest.
//! 3. [`observe`]: reads the stores. Uses [`drain`] to wait before a recovery, and [`recording`].
//!    Then [`voids`] are applied to the store that has fewer.
//! 4. [`plan`]: decides on the next [`step`], without I/O. Uses [`balance`], [`state`] and [`gate`].
//! 5. [`execute`]: applies the step, for a preload after [`event`] has acquired a permit from [`preload_queue`]. Uses
//!    [`recover`], [`set_comparison`], [`stranded_issuances`] and [`topic_records`].
//! 6. [`status`] computes the status without I/O, [`status_writer`] writes it.
//!
//! Items 3 to 5 repeat until [`plan`] returns no further step; [`idle`] skips them while nothing changes.
//! [`manifest_change`] ends a long step early. [`invalid_object`] handles objects that do not match the schema.
//!
//! # Guarantees
//! Reconciliation is level-triggered: each starts from the observed state, and it may be interrupted anywhere.

mod balance;
pub(crate) mod desired_state;
pub(crate) mod drain;
pub(crate) mod error;
pub(crate) mod event;
mod execute;
pub(crate) mod finalizer;
mod gate;
pub(crate) mod idle;
pub(crate) mod invalid_object;
mod manifest_change;
mod merge_conditions;
mod observe;
mod opening;
mod plan;
pub(crate) mod preload_queue;
mod progress;
pub(crate) mod recording;
mod recover;
pub(crate) mod restrict_gate;
mod set_comparison;
mod state;
mod status;
mod status_writer;
mod step;
pub(crate) mod stranded_issuances;
pub(crate) mod timing;
pub(crate) mod topic_records;
pub(crate) mod void_comparisons;
pub(crate) mod voids;
