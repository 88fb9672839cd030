//! One hot event over several slots of a Redis Cluster, as `docs/adr/0018-shards.md` designs it.
//!
//! - [`exactness`] runs the design step by step, with crashes, late and repeated messages and shards that forget, and checks
//!   after each step that no coupon is lost or in two places.
//! - [`throughput`] counts: batches, load and waiting times for a crowd, from the costs that were measured.
//!
//! Everything is drawn from a seed: the same seed gives the same run.

pub mod exactness;
pub mod throughput;
