//! The steps of a plan.

use couponry_domain::{CouponBatch, Gate, Uuid};
use couponry_redis::GateSettings;

use crate::blocker::Blocker;

/// A change to one of the stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Register the event in Postgres, or update its generation and policy name there.
    Register,
    /// Generate these coupons in Postgres.
    GenerateStock(CouponBatch),
    /// Create the metadata of the event in Redis.
    Prepare,
    /// Mark Redis as verified without a recovery, because no coupon can have been issued yet, or none is left in Redis.
    MarkVerified,
    /// Verify that Redis has lost nothing, or restore it from Postgres.
    Recover,
    /// Copy the coupons with these ordinals (`to` is exclusive) from Postgres to Redis.
    Load { from: u64, to: u64 },
    /// Store in Postgres the earliest time at which coupons may be issued, and the start of the window (milliseconds
    /// since the Unix epoch). `is_final`: coupons can be issued at once, or have been issued, so the opening cannot be
    /// withdrawn.
    ScheduleOpening { at: i64, start: Option<i64>, is_final: bool },
    /// Reset the gate, if Redis confirms that the event has not opened, and withdraw the opening in Postgres.
    WithdrawOpening,
    /// Record issuances that Redis holds and Postgres does not have, although no record of them is in flight.
    RecordStranded,
    /// Set gate and window in Redis.
    SetGate(GateSettings),
    /// Close the gate of a deleted event with the same name.
    ClosePredecessor(Uuid, GateSettings),
    /// Remove the keys of a previous stock epoch from Redis.
    RemoveStockEpoch(u32),
    /// Remove the keys of a deleted event with the same name from Redis.
    RemovePredecessor(Uuid),
    /// Delete the coupons in Postgres and begin the next stock epoch.
    DiscardStock,
    /// Remove the coupons of a finished event from Redis.
    Retire,
}

impl Step {
    /// How many coupons the step generates or loads.
    pub(super) fn preload_size(&self) -> u64 {
        match self {
            Self::GenerateStock(batch) => batch.len(),
            Self::Load { from, to } => to - from,
            _ => 0,
        }
    }

    /// For logs and spans.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Register => "Register",
            Self::GenerateStock(_) => "GenerateStock",
            Self::Prepare => "Prepare",
            Self::MarkVerified => "MarkVerified",
            Self::Recover => "Recover",
            Self::Load { .. } => "Load",
            Self::ScheduleOpening { .. } => "ScheduleOpening",
            Self::WithdrawOpening => "WithdrawOpening",
            Self::RecordStranded => "RecordStranded",
            Self::SetGate(_) => "SetGate",
            Self::ClosePredecessor(..) => "ClosePredecessor",
            Self::RemoveStockEpoch(_) => "RemoveStockEpoch",
            Self::RemovePredecessor(_) => "RemovePredecessor",
            Self::DiscardStock => "DiscardStock",
            Self::Retire => "Retire",
        }
    }

    /// Whether users may receive coupons after this step.
    pub(super) fn opens(&self) -> bool {
        matches!(self, Self::SetGate(settings) if settings.gate == Gate::Open)
    }
}

/// What to do next about an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    Apply(Step),
    /// The stores match the manifest, or a newer operator is responsible for the event.
    Done,
    /// The codes of these coupons have to be imported; otherwise as [`Plan::Done`].
    AwaitCodes(CouponBatch),
    /// The stores do not match the manifest, and no step can change that.
    Blocked(Blocker),
}

impl Plan {
    pub(super) fn blocked(reason: &'static str, message: impl Into<String>) -> Self {
        Self::Blocked(Blocker::new(reason, message))
    }
}
