//! Compares what Redis, Kafka and Postgres hold of one event, and says in plain words what differs.
//!
//! - [`Stores::audit`] reads all three and gives a [`Report`]. The event may be running: what is on its way from one store to
//!   the next is counted as [`InFlight`], and is no difference.
//! - [`comparison`] is the part without I/O. It keeps 9 bytes for each coupon and 9 more for each that is recorded, and in full
//!   only what does not fit together.
//!
//! The stores are read against the current: Postgres first, then Kafka, then Redis. So whatever a later store has, an earlier
//! one must have had before, and only the opposite may still be on its way: that is looked at again, until it has arrived or
//! nothing is on its way any more.
//!
//! Times are milliseconds since the Unix epoch.

pub mod comparison;
mod difference;
mod prints;
mod report;
mod second_look;
mod stores;

pub use difference::{Difference, Place};
pub use report::{Counts, Differences, InFlight, Report, Verdict};
pub use stores::{AuditError, Stores};

use couponry_domain::{Discount, IssuedRecord, UserId, code::CouponCode};

/// One coupon in one user's hands, as a store has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Held {
    /// Whose it is.
    pub user: UserId,
    /// Which it is.
    pub coupon: CouponCode,
    /// What it is worth.
    pub discount: Discount,
    /// When Redis gave it.
    pub issued_at: i64,
}

impl From<IssuedRecord> for Held {
    fn from(record: IssuedRecord) -> Self {
        let IssuedRecord { event_id: _, event_uid: _, user_id: user, coupon, discount, issued_at } = record;
        Self { user, coupon, discount, issued_at }
    }
}

impl From<couponry_postgres::Issuance> for Held {
    fn from(issuance: couponry_postgres::Issuance) -> Self {
        let couponry_postgres::Issuance { user_id: user, coupon, discount, issued_at, recorded_at: _ } = issuance;
        Self { user, coupon, discount, issued_at }
    }
}

impl Held {
    /// What Redis has of this user.
    #[must_use]
    pub fn by(user: UserId, holding: &couponry_redis::Holding) -> Self {
        let couponry_redis::Holding { coupon, discount, issued_at, status: _ } = holding;
        Self { user, coupon: coupon.clone(), discount: *discount, issued_at: *issued_at }
    }
}
