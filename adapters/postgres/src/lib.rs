//! The coupons and issuances of an event in Postgres, the one source of truth for which coupons exist and who has them.
//!
//! - [`Database::register`] and [`Database::preload`] make the stock of an event, each in one transaction: killed at any
//!   instant, they leave nothing behind, and can be called again.
//! - [`Database::record`] writes down issuances. Any record may be recorded again, by anyone, at the same time.
//! - [`Database::migrate`] makes the tables.
//!
//! Every call may be dropped at any await without harm to the connections that the others use.
//! Times are milliseconds since the Unix epoch.

mod connection;
mod error;
mod event;
mod inspect;
mod issuance;
mod opening;
mod partition;
mod preload;
mod record;
mod row;
mod record_cutoff;

pub use connection::Database;
pub use error::{DatabaseError, Operation};
pub use event::{NewEvent, StoredEvent};
pub use inspect::{CouponStatus, SchemaVersion};
pub use issuance::Issuance;
pub use record::{Recording, Refusal};
