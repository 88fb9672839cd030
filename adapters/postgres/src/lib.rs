//! The coupons and issuances of events in Postgres, the source of truth for which coupons exist and who has them.
//!
//! - [`Database::register`] and [`Database::generate_coupons`] create an event and its coupons.
//! - [`Database::begin_code_import`] imports its coupons instead.
//! - [`Database::record`] records issuances.
//! - [`Database::use_coupon`] reserves, redeems and releases an issued coupon; [`Database::void_coupon`] withdraws it.
//! - [`Database::sale_figures`] summarizes the recorded issuances of an event.
//! - [`Database::migrate`] creates the tables.
//!
//! Times are milliseconds since the Unix epoch.
//!
//! # Guarantees
//! - Registering, generating and importing are one transaction each: a process that is killed leaves no partial result,
//!   and the call can be repeated.
//! - Recording is idempotent: any record may be recorded again, also concurrently.
//! - A record is rejected only for what a query has found, never for what it has not found, unless the same snapshot
//!   proves that the stock is complete. Otherwise it is deferred.
//! - A statement for one event never takes a lock that recording for another event waits for, and never scans another
//!   event's table.
//! - Every future may be dropped at any await: the connections of other calls are not affected, and Postgres cancels
//!   its statement within a second or two.

mod classification;
mod code_import;
mod connection;
mod coupon_use;
mod coupon_use_outbox;
mod coupons;
mod deletion;
mod erase;
mod error;
mod event;
mod generate;
mod installation;
mod issuance;
mod opening;
mod outcome;
mod record;
mod record_again;
mod record_cutoff;
mod retained_events;
mod row;
mod sale;
mod schema;
mod session_settings;
mod stock_table;
mod void;

pub use code_import::{CodeFile, CodeImport, CodeLine, ImportOutcome, ImportedCodes};
pub use connection::Database;
pub use coupon_use::{
    CouponLookup, CouponSnapshot, FoundEvent, HolderUse, MAX_HISTORY, UseCounts, UseOutcome, UseRequest,
};
pub use coupon_use_outbox::{PendingUses, SendOutcome};
pub use coupons::CouponWithHolder;
pub use erase::{KnownEvent, PendingErasure};
pub use error::{DatabaseError, DriverError, Operation};
pub use event::{NewEvent, StoredEvent};
pub use installation::{Installation, Owner};
pub use issuance::Issuance;
pub use outcome::{Deferral, RecordOutcome, Rejection};
pub use retained_events::RetainedEvent;
pub use sale::{SaleCurve, SaleFigures};
pub use schema::{SchemaVersion, ServerSettings};
pub use void::VoidOutcome;
