//! Why a record was not inserted.

use couponry_domain::IssuedCoupon;
use sqlx::{Row as _, postgres::PgRow};

use crate::{
    outcome::{RecordOutcome, Rejection},
    row::{self, InvalidRow},
};

/// The state of the event, the coupon and the user of a record.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a column of the query")]
pub(crate) struct RecordState {
    event_exists: bool,
    is_before_cutoff: bool,
    coupon_exists: bool,
    same_discount: bool,
    /// The holder of the coupon.
    holder: Option<String>,
    /// The coupon that the user has.
    user_coupon: Option<IssuedCoupon>,
}

impl RecordState {
    /// Reads the state and the position of its record.
    pub(crate) fn from_row(row: &PgRow) -> Result<(i64, Self), InvalidRow> {
        let user_coupon = match row.try_get::<Option<i64>, _>("issued_at")? {
            Some(issued_at) => {
                let (user_id, coupon) = (row::parsed(row, "user_id")?, row::parsed(row, "code")?);
                Some(IssuedCoupon { user_id, coupon, discount: row::discount(row)?, issued_at })
            }
            None => None,
        };
        let state = Self {
            event_exists: row.try_get("event_exists")?,
            is_before_cutoff: row.try_get("is_before_cutoff")?,
            coupon_exists: row.try_get("coupon_exists")?,
            same_discount: row.try_get("same_discount")?,
            holder: row.try_get("holder")?,
            user_coupon,
        };
        Ok((row.try_get("position")?, state))
    }

    /// The outcome for a record of this user. None: nothing prevents the record (any more), so it has to be retried.
    pub(crate) fn outcome(self, user: &str) -> Option<RecordOutcome> {
        let rejection = match self {
            Self { event_exists: false, .. } => Rejection::UnknownEvent,
            Self { holder: Some(holder), .. } if holder == user => return Some(RecordOutcome::AlreadyRecorded),
            Self { is_before_cutoff: true, .. } => Rejection::BeforeRecordCutoff,
            // Precedes every defect of the coupon: the user's entry in Redis has to be replaced by this coupon.
            Self { user_coupon: Some(issued), same_discount, holder, .. } => {
                let record_coupon_is_free = same_discount && holder.is_none();
                Rejection::UserHoldsAnother { issued, record_coupon_is_free }
            }
            Self { coupon_exists: false, .. } => Rejection::UnknownCoupon,
            Self { same_discount: false, .. } => Rejection::DiscountMismatch,
            Self { holder: Some(_), .. } => Rejection::CouponHeldByAnother,
            Self { holder: None, user_coupon: None, .. } => return None,
        };
        Some(RecordOutcome::Rejected(rejection))
    }
}

#[cfg(test)]
mod tests {
    use couponry_domain::{Discount, DiscountType};

    use super::*;

    #[test]
    fn outcome_matches_record_state() {
        let other = IssuedCoupon {
            user_id: "u1".parse().unwrap(),
            coupon: "B".parse().unwrap(),
            discount: Discount { kind: DiscountType::Amount, value: 5 },
            issued_at: 7,
        };
        let free = RecordState {
            event_exists: true,
            is_before_cutoff: false,
            coupon_exists: true,
            same_discount: true,
            holder: None,
            user_coupon: None,
        };
        let user_coupon = Some(other.clone());
        let by = |holder: &str| Some(holder.to_owned());
        let rejected = |rejection| Some(RecordOutcome::Rejected(rejection));
        let another =
            |is_free| rejected(Rejection::UserHoldsAnother { issued: other.clone(), record_coupon_is_free: is_free });
        let unknown_coupon = RecordState { coupon_exists: false, same_discount: false, ..free.clone() };
        let recorded = RecordState { holder: by("u1"), ..free.clone() };
        let cases = [
            (free.clone(), None),
            (RecordState { event_exists: false, ..free.clone() }, rejected(Rejection::UnknownEvent)),
            (unknown_coupon.clone(), rejected(Rejection::UnknownCoupon)),
            (RecordState { same_discount: false, ..free.clone() }, rejected(Rejection::DiscountMismatch)),
            (
                RecordState { user_coupon: user_coupon.clone(), ..recorded.clone() },
                Some(RecordOutcome::AlreadyRecorded),
            ),
            (RecordState { is_before_cutoff: true, ..free.clone() }, rejected(Rejection::BeforeRecordCutoff)),
            (RecordState { is_before_cutoff: true, ..recorded }, Some(RecordOutcome::AlreadyRecorded)),
            (RecordState { holder: by("u2"), ..free.clone() }, rejected(Rejection::CouponHeldByAnother)),
            (RecordState { user_coupon: user_coupon.clone(), ..free.clone() }, another(true)),
            (RecordState { holder: by("u2"), user_coupon: user_coupon.clone(), ..free.clone() }, another(false)),
            (RecordState { same_discount: false, user_coupon: user_coupon.clone(), ..free }, another(false)),
            (RecordState { user_coupon, ..unknown_coupon }, another(false)),
        ];
        for (state, outcome) in cases {
            assert_eq!(state.clone().outcome("u1"), outcome, "{state:?}");
        }
    }
}
