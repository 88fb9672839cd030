//! Why a record was not inserted.

use couponry_domain::{IssuedCoupon, PseudonymKey, UserId};
use sqlx::{Row as _, postgres::PgRow};

use crate::{
    outcome::{Deferral, RecordOutcome, Rejection},
    row::{self, InvalidRow},
};

/// The state of the event, the coupon and the user of a record.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a column of the query")]
pub(crate) struct RecordState {
    event_exists: bool,
    /// The number of coupons that were generated.
    generated: u64,
    is_before_cutoff: bool,
    coupon_exists: bool,
    same_discount: bool,
    /// The holder of the coupon.
    holder: Option<String>,
    /// Set if the holder was erased.
    pseudonym_key: Option<PseudonymKey>,
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
            generated: row::count(row, "generated")?,
            is_before_cutoff: row.try_get("is_before_cutoff")?,
            coupon_exists: row.try_get("coupon_exists")?,
            same_discount: row.try_get("same_discount")?,
            holder: row.try_get("holder")?,
            pseudonym_key: row::seed_if_set(row, "seed")?.map(|seed| PseudonymKey::of(&seed)),
            user_coupon,
        };
        Ok((row.try_get("position")?, state))
    }

    /// What follows for the record of this user.
    pub(crate) fn conclusion(self, user: &UserId) -> Conclusion {
        let Self {
            event_exists,
            generated,
            is_before_cutoff,
            coupon_exists,
            same_discount,
            holder,
            user_coupon,
            pseudonym_key,
        } = self;
        let rejected = |rejection| Conclusion::Certain(RecordOutcome::Rejected(rejection));
        if !event_exists {
            return rejected(Rejection::UnknownEvent);
        }
        let pseudonym = pseudonym_key.map(|key| key.pseudonym(user));
        let is_holder = |holder: &str| holder == user.as_str() || pseudonym.is_some_and(|it| holder == it.as_str());
        if holder.as_deref().is_some_and(is_holder) {
            return Conclusion::Certain(RecordOutcome::AlreadyRecorded);
        }
        if is_before_cutoff {
            return rejected(Rejection::BeforeRecordCutoff);
        }
        if generated == 0 {
            return Conclusion::Certain(RecordOutcome::Deferred(Deferral::StockNotGenerated));
        }
        // Checked before the coupon of the record: whatever is wrong with that one, the user's entry in Redis has to be
        // replaced by the coupon that is recorded for the user.
        if let Some(recorded) = user_coupon {
            let record_coupon_is_free = same_discount && holder.is_none();
            let rejection = Rejection::UserHoldsAnother { recorded, record_coupon_is_free };
            return if coupon_exists { rejected(rejection) } else { Conclusion::IfStockIsComplete(rejection) };
        }
        match (coupon_exists, same_discount, holder) {
            (true, false, _) => rejected(Rejection::DiscountMismatch),
            (_, _, Some(_)) => rejected(Rejection::CouponHeldByAnother),
            (true, true, None) => Conclusion::Recordable,
            (false, _, None) => Conclusion::IfStockIsComplete(Rejection::UnknownCoupon),
        }
    }
}

/// What the state of a record implies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Conclusion {
    /// The outcome is certain.
    Certain(RecordOutcome),
    /// The coupon was not found. That alone is not a proof: it is rejected only if the stock has all its coupons.
    IfStockIsComplete(Rejection),
    /// Nothing prevents the record (any more), so it has to be retried.
    Recordable,
}

#[cfg(test)]
mod tests {
    use couponry_domain::{Discount, DiscountType, Seed};

    use super::*;

    #[test]
    fn conclusion_matches_record_state() {
        let other = IssuedCoupon {
            user_id: "u1".parse().unwrap(),
            coupon: "B".parse().unwrap(),
            discount: Discount { kind: DiscountType::Amount, value: 5 },
            issued_at: 7,
        };
        let free = RecordState {
            event_exists: true,
            generated: 10,
            is_before_cutoff: false,
            coupon_exists: true,
            same_discount: true,
            holder: None,
            pseudonym_key: None,
            user_coupon: None,
        };
        let user_coupon = Some(other.clone());
        let by = |holder: &str| Some(holder.to_owned());
        let rejected = |rejection| Conclusion::Certain(RecordOutcome::Rejected(rejection));
        let if_complete = Conclusion::IfStockIsComplete;
        let already_recorded = Conclusion::Certain(RecordOutcome::AlreadyRecorded);
        let deferred = Conclusion::Certain(RecordOutcome::Deferred(Deferral::StockNotGenerated));
        let another =
            |is_free| rejected(Rejection::UserHoldsAnother { recorded: other.clone(), record_coupon_is_free: is_free });
        let unknown_coupon = RecordState { coupon_exists: false, same_discount: false, ..free.clone() };
        let recorded = RecordState { holder: by("u1"), ..free.clone() };
        let user: UserId = "u1".parse().unwrap();
        let key = PseudonymKey::of(&Seed::from([7; 32]));
        let erased = |pseudonym: UserId| RecordState {
            holder: by(pseudonym.as_str()),
            pseudonym_key: Some(key.clone()),
            ..free.clone()
        };
        let cases = [
            (free.clone(), Conclusion::Recordable),
            (RecordState { event_exists: false, ..free.clone() }, rejected(Rejection::UnknownEvent)),
            (unknown_coupon.clone(), if_complete(Rejection::UnknownCoupon)),
            (RecordState { generated: 0, ..unknown_coupon.clone() }, deferred),
            (RecordState { holder: by("u2"), ..unknown_coupon.clone() }, rejected(Rejection::CouponHeldByAnother)),
            (RecordState { same_discount: false, ..free.clone() }, rejected(Rejection::DiscountMismatch)),
            (RecordState { user_coupon: user_coupon.clone(), ..recorded.clone() }, already_recorded.clone()),
            (RecordState { is_before_cutoff: true, ..free.clone() }, rejected(Rejection::BeforeRecordCutoff)),
            (RecordState { is_before_cutoff: true, ..recorded }, already_recorded.clone()),
            (RecordState { holder: by("u2"), ..free.clone() }, rejected(Rejection::CouponHeldByAnother)),
            (erased(key.pseudonym(&user)), already_recorded),
            (erased(key.pseudonym(&"u2".parse().unwrap())), rejected(Rejection::CouponHeldByAnother)),
            (RecordState { user_coupon: user_coupon.clone(), ..free.clone() }, another(true)),
            (RecordState { holder: by("u2"), user_coupon: user_coupon.clone(), ..free.clone() }, another(false)),
            (RecordState { same_discount: false, user_coupon: user_coupon.clone(), ..free }, another(false)),
            (
                RecordState { user_coupon, ..unknown_coupon },
                if_complete(Rejection::UserHoldsAnother { recorded: other.clone(), record_coupon_is_free: false }),
            ),
        ];
        for (state, conclusion) in cases {
            assert_eq!(state.clone().conclusion(&user), conclusion, "{state:?}");
        }
    }
}
