//! How a crowd fares with several shards: a discrete-event model with the costs that were measured.
//!
//! Requests come at random (Poisson) to random issuers, for users that are spread over the shards by their hash. An issuer has one
//! call under way to each shard, and collects meanwhile; a shard is one core that serves one call after the other. Whoever finds
//! their shard dry is asked for again until the mover has brought coupons, or has found that all shards are dry.
//!
//! Not in the model: HTTP, TLS, the issuers' own work, Kafka, the consumers' settlements.

mod cost;
mod placement;
mod queueing;

pub use placement::{most_on_a_node, tag};
pub use queueing::simulate;

/// What is simulated.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Shards, each a core of Redis.
    pub shards: usize,
    /// Issuers.
    pub issuers: usize,
    /// Requests per second.
    pub rate: f64,
    /// Requests in all.
    pub requests: usize,
    /// Coupons.
    pub stock: usize,
    /// The share of requests that come for the first shard, beside its part of the others.
    pub heat: f64,
    /// A shard with fewer coupons than this is brought more before it is dry.
    pub low_water: usize,
}

/// What came out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Findings {
    /// Users in a call, on average, while there are coupons.
    pub batch: f64,
    /// Share of the time in which a core of Redis works, while there are coupons and requests come.
    pub utilisation: f64,
    /// Half of the users who got a coupon heard of it within this time (milliseconds).
    pub given_p50: f64,
    /// The same for 99 of 100.
    pub given_p99: f64,
    /// Half of those who got none heard of it within this time (milliseconds).
    pub refused_p50: f64,
    /// The same for 99 of 100.
    pub refused_p99: f64,
    /// Transfers.
    pub moves: usize,
    /// Coupons that were moved.
    pub moved: usize,
    /// Users who heard `SOLD_OUT`.
    pub refused: usize,
    /// How many of them found their shard dry before it was known that all are.
    pub held_back: usize,
    /// Users who got a coupon after they had found their shard dry.
    pub rescued: usize,
    /// From the first shard that was dry until it was known that all are (milliseconds).
    pub end_game: f64,
    /// Coupons that nobody got.
    pub left: usize,
}
