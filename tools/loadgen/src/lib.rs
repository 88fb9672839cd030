//! Load generator and consistency checker.
//!
//! - [`driver`] sends a [`workload`] to the issuers and logs every attempt in a [`history`]. [`summary`] displays the
//!   results.
//! - [`checkout`] uses issued coupons at redeemers, with a history of its own.
//! - [`readers`] reads the data of an event from Redis, Kafka and Postgres.
//! - [`checker`] compares the history with the data. It does no I/O, so tests can feed it violations.
//!
//! The program `loadgen` is made of `run`, `redeem` and `check`, and of `measure`, `measure_uses`, `control` and
//! `textbook` for `cargo xtask bench`.

pub mod checker;
pub mod checkout;
pub mod client;
pub mod connection;
mod deferred;
pub mod driver;
pub mod history;
pub mod latencies;
pub mod outcome;
pub mod pacer;
pub mod progress;
pub mod readers;
pub mod summary;
pub mod workload;
