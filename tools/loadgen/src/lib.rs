//! Drives the issue endpoint the way a crowd does, keeps every answer, and checks afterwards that the promises held.
//!
//! - [`drive`] asks: many users over kept connections, some of them more than once, each attempt a line of the
//!   [`history`]. [`summary`] says how it went.
//! - [`readers`] fetch what Redis, Kafka and Postgres hold of an event.
//! - [`checker`] compares the two. It has no I/O, so that broken histories can be made by hand to test it.
//!
//! The program `loadgen` is `run` (the first) and `check` (the other two); tests of other crates use the modules directly.

pub mod checker;
pub mod client;
pub mod crowd;
pub mod drive;
pub mod history;
pub mod progress;
pub mod readers;
pub mod summary;
