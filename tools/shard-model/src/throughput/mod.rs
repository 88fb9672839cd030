//! Latency and load of an event with several shards: a discrete-event model with measured costs.
//!
//! Requests arrive at random (Poisson) at random issuers; a hash assigns each user to a shard. An issuer has one call
//! in progress to each shard and collects requests meanwhile. A shard is one core which executes one call at a time.
//! A request whose shard is empty is retried until the mover has transferred coupons, or has found all shards empty.
//!
//! Not modelled: HTTP, TLS, the CPU time of issuers, Kafka, and the calls of the consumers.

mod cost;
mod placement;
mod simulation;

pub use placement::{most_on_a_node, tag};
pub use simulation::simulate;

/// Parameters of a run.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Shards; each is one core of Redis.
    pub shards: usize,
    /// Issuers.
    pub issuers: usize,
    /// Requests per second.
    pub rate: f64,
    /// Number of requests.
    pub requests: usize,
    /// Number of coupons.
    pub stock: usize,
    /// Share of the requests which go to the first shard in addition to its hash share.
    pub hot_share: f64,
    /// A shard with fewer coupons receives a transfer before it is empty.
    pub low_water_mark: usize,
}

/// Results of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Measurements {
    /// Mean users per call while coupons are available.
    pub mean_batch: f64,
    /// Mean utilisation of a Redis core while coupons are available.
    pub utilisation: f64,
    /// Median latency of requests that received a coupon (ms).
    pub issued_p50: f64,
    /// 99th percentile of the same (ms).
    pub issued_p99: f64,
    /// Median latency of requests that received `SOLD_OUT` (ms).
    pub sold_out_p50: f64,
    /// 99th percentile of the same (ms).
    pub sold_out_p99: f64,
    /// Number of transfers.
    pub transfers: usize,
    /// Number of transferred coupons.
    pub coupons_moved: usize,
    /// Requests that received `SOLD_OUT`.
    pub sold_out: usize,
    /// How many of them were retried first.
    pub sold_out_after_wait: usize,
    /// Requests that received a coupon after a retry.
    pub issued_after_wait: usize,
    /// From the first empty shard until all shards were known to be empty (ms).
    pub sold_out_delay: f64,
    /// Coupons that were not issued.
    pub unissued: usize,
}
