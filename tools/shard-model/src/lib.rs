//! Models one event over several slots of a Redis Cluster, as designed in `docs/adr/0018-shards.md`. The design is
//! not built.
//!
//! - [`exactness`] runs the protocol step by step, with crashes, late and repeated calls and shards that lose data,
//!   and checks after each step that no coupon is lost or duplicated.
//! - [`throughput`] estimates batch sizes, load and latency from measured costs.
//!
//! All random choices come from a seed: the same seed gives the same run.

pub mod exactness;
pub mod throughput;
