//! Compares the data of one event in Redis, Kafka and Postgres, and reports every discrepancy.
//!
//! [`Stores::audit`] returns a [`Report`]. The event may be running: coupons in flight from one store to the next are
//! counted as [`InFlight`], and are not discrepancies.
//!
//! The stores are read against the direction of the data: Postgres first, then Kafka, then Redis. Whatever Postgres
//! has, Kafka and Redis must have had before. Only data that is missing further down the pipeline may be in flight: it
//! is checked again until it is there, or until the outbox and the consumers have no backlog.
//!
//! It needs 9 bytes of memory for each coupon and 9 more for each recorded one; only entries that did not match on the
//! first read (suspects) are kept in full.
//!
//! Times are milliseconds since the Unix epoch.

mod audit;
mod comparison;
mod current_state;
mod discrepancy;
mod error;
mod fingerprint_set;
mod recheck;
mod report;
mod stores;

pub use discrepancy::{Discrepancy, Place, Remedy};
pub use error::AuditError;
pub use report::{Counts, Discrepancies, InFlight, Report, Verdict};
pub use stores::Stores;
