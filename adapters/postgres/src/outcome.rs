//! The outcome of recording an issuance.

use couponry_domain::IssuedCoupon;

/// The outcome for one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordOutcome {
    /// It was recorded.
    Recorded,
    /// This user and this coupon had been recorded together before.
    AlreadyRecorded,
    /// It can never be recorded.
    Rejected(Rejection),
    /// Neither was it recorded, nor is there a proof that it never can be. Recording has to be retried later.
    Deferred(Deferral),
}

/// Why a record can be neither recorded nor rejected yet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Deferral {
    /// No coupons of the event were generated, or its stock was discarded.
    #[error("the stock of the event is not generated")]
    StockNotGenerated,
    /// Coupons were generated, but their table does not exist.
    #[error("the table with the coupons of the event does not exist")]
    StockMissing,
    /// Another session holds a lock on the table or on rows of the event.
    #[error("another session locks the coupons or the issuances of the event")]
    Locked,
    /// The event has no such coupon, but its stock does not have all coupons that were generated.
    #[error("the event has no such coupon, but its stock is not complete: {found} of {generated} coupons exist")]
    StockIncomplete {
        /// The number of generated coupons.
        generated: u64,
        /// The number of coupons in the table.
        found: u64,
    },
}

/// Why a record can never be recorded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// No event has this uid and name.
    #[error("the event does not exist")]
    UnknownEvent,
    /// The event does not have this coupon, and its stock is complete.
    #[error("the event has no such coupon")]
    UnknownCoupon,
    /// The coupon has another discount.
    #[error("the coupon has another discount")]
    DiscountMismatch,
    /// Another user has the coupon.
    #[error("another user has the coupon")]
    CouponHeldByAnother,
    /// The user has another coupon of the event.
    #[error("the user has another coupon")]
    UserHoldsAnother {
        /// The coupon that is recorded for the user.
        recorded: IssuedCoupon,
        /// Whether the coupon of the record exists with this discount and has no holder.
        record_coupon_is_free: bool,
    },
    /// `issuedAt` is before 1970 or after the year 9999.
    #[error("issuedAt is out of range")]
    IssuedAtOutOfRange,
    /// The issuance is from before the record cutoff of a recovery.
    #[error("it was issued before the record cutoff")]
    BeforeRecordCutoff,
}

impl Rejection {
    /// A short name for metrics and headers.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::UnknownEvent => "unknown_event",
            Self::UnknownCoupon => "unknown_coupon",
            Self::DiscountMismatch => "discount_mismatch",
            Self::CouponHeldByAnother => "coupon_held_by_another",
            Self::UserHoldsAnother { .. } => "user_holds_another",
            Self::IssuedAtOutOfRange => "issued_at_out_of_range",
            Self::BeforeRecordCutoff => "before_record_cutoff",
        }
    }
}
