//! Tests the transfer protocol for lost and duplicated coupons, in thousands of small random events.
//!
//! A run draws its parameters from a seed: shards, issuers with pending batches, movers, operators, consumers. In
//! each step one of them performs one action. Any call may be executed late or twice, or lose its reply; any process
//! may stop between two steps; a shard may return to an earlier state, or lose all data. The invariants are checked
//! after each step:
//!
//! - each coupon is in exactly one place: not yet loaded, in one queue, in one transfer, or issued to one user;
//! - no two records have the same coupon or the same user, and a response with a coupon is never withdrawn;
//! - `SOLD_OUT` is returned only if all shards were empty at one instant, at most `SOLD_OUT_TTL` steps ago.
//!
//! At the end faults stop, and new users of some of the shards send requests until they receive `SOLD_OUT`. By then
//! every coupon must be recorded.
//!
//! A [`Flaw`] removes one part of the design. The invariants must detect each of them.

mod call;
mod database;
mod invariants;
mod issuer;
mod mover;
mod operator;
mod recovery;
mod shard;
mod simulation;

pub use simulation::run;

/// How long a shard may return `SOLD_OUT` after all shards were seen empty (steps).
const SOLD_OUT_TTL: u64 = 120;

/// The part which is removed from the design.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flaw {
    /// None.
    #[default]
    None,
    /// The target does not compare the number of a transfer.
    NoTransferNumber,
    /// The transit record is deleted before the target has the coupons.
    DeleteTransitFirst,
    /// A shard receives transfers that started before a recovery.
    NoEpoch,
    /// A shard is restored to its initial share, without the coupons moved since.
    IgnoreMoves,
    /// `SOLD_OUT` is allowed after a single observation of each shard.
    SingleObservation,
    /// `SOLD_OUT` is allowed forever once it was allowed.
    NoSoldOutExpiry,
}

/// Counts over a run, to show that each kind of action took place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Recorded coupons.
    pub recorded: usize,
    /// Received transfers.
    pub transfers: usize,
    /// Calls executed late or twice.
    pub late: usize,
    /// Shards that lost data.
    pub data_losses: usize,
    /// Started recoveries.
    pub recoveries: usize,
    /// Coupons put back into the queue.
    pub returned: usize,
    /// Responds with `SOLD_OUT`.
    pub sold_out: usize,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        let Self { recorded, transfers, late, data_losses, recoveries, returned, sold_out } = other;
        self.recorded += recorded;
        self.transfers += transfers;
        self.late += late;
        self.data_losses += data_losses;
        self.recoveries += recoveries;
        self.returned += returned;
        self.sold_out += sold_out;
    }
}
