//! Whether moving stock between shards keeps the promises, tried in thousands of small events.
//!
//! A run draws a world from its seed: shards, issuers with batches under way, movers, operators, the consumers. Each step lets one
//! of them do one thing. Any call may be carried out late, twice, or unheard; any process may end between two steps; a shard may
//! go back to an earlier state, or to nothing. After each step the invariants are looked at:
//!
//! - each coupon is in one place: to be loaded, in one queue, on its way, or with one user;
//! - no two records name one coupon or one user, and what a user was told is never taken back;
//! - `SOLD_OUT` is said only if all shards were dry at one instant, at most a lease before.
//!
//! At the end everything is healed, and new users of only some shards ask, until each hears `SOLD_OUT`: then every coupon must be
//! recorded.
//!
//! [`Flaw`]s break the design on purpose. The same invariants must find each of them.

mod call;
mod database;
mod invariants;
mod issuer;
mod mover;
mod operator;
mod shard;
mod world;

use world::World;

/// For how long a shard may say `SOLD_OUT` after it was found that all are dry (steps).
const LEASE: u64 = 120;

/// What is left out of the design.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flaw {
    /// Nothing.
    #[default]
    None,
    /// The taker does not compare the number of a transfer.
    NoNumber,
    /// The transit record goes before the taker has the coupons.
    ForgetFirst,
    /// A shard takes what was on its way before a recovery.
    NoEpoch,
    /// A shard that forgot is restored to what was dealt to it, as if nothing had been moved.
    ByDealAlone,
    /// `SOLD_OUT` after a single look at each shard.
    OneLook,
    /// `SOLD_OUT` for ever, once it was found.
    LastingMark,
}

/// What happened in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Coupons recorded.
    pub recorded: usize,
    /// Transfers that arrived.
    pub moves: usize,
    /// Calls that were carried out late or twice.
    pub late: usize,
    /// Shards that forgot.
    pub forgotten: usize,
    /// Recoveries that were begun.
    pub recoveries: usize,
    /// Coupons that came back.
    pub returned: usize,
    /// Answers `SOLD_OUT`.
    pub sold_out: usize,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        let Self { recorded, moves, late, forgotten, recoveries, returned, sold_out } = other;
        self.recorded += recorded;
        self.moves += moves;
        self.late += late;
        self.forgotten += forgotten;
        self.recoveries += recoveries;
        self.returned += returned;
        self.sold_out += sold_out;
    }
}

/// Runs one event.
///
/// # Errors
/// What was broken, and at which step.
pub fn run(seed: u64, flaw: Flaw) -> Result<Tally, String> {
    World::new(seed, flaw).run().map_err(|what| format!("seed {seed}: {what}"))
}
