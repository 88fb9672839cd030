//! The life of an issued coupon: reserved, redeemed, released, voided.
//!
//! Pure rules: what a request does follows from the last entry of the coupon's history, its validity, and a time.
//!
//! # Guarantees
//! - A coupon is redeemed at most once: nothing follows a redemption, and nothing follows a void.
//! - While a coupon is reserved, only the order that has reserved it can change it.
//! - A released coupon, and one whose reservation has expired, can be used again by its holder.
//!
//! # Assumptions
//! The caller appends a decided entry only if the history has not changed since it was read, and reads the time from
//! the same clock for all requests.

use std::{fmt, str::FromStr};

use crate::{
    currency::Currency,
    names::{OrderId, UserId},
    record::IssuedCoupon,
    terms::DiscountConditions,
};

/// The longest reservation, in seconds.
pub const MAX_RESERVATION_SECONDS: u32 = 24 * 60 * 60;

/// What an entry of the history did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UseKind {
    /// An order has reserved the coupon, or renewed its reservation.
    Reserved,
    /// An order has redeemed the coupon.
    Redeemed,
    /// An order has released its reservation.
    Released,
    /// An administrator has voided the coupon.
    Voided,
}

impl UseKind {
    const ALL: [Self; 4] = [Self::Reserved, Self::Redeemed, Self::Released, Self::Voided];

    /// The name in HTTP and Postgres, such as `RESERVED`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reserved => "RESERVED",
            Self::Redeemed => "REDEEMED",
            Self::Released => "RELEASED",
            Self::Voided => "VOIDED",
        }
    }
}

impl fmt::Display for UseKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for UseKind {
    type Err = UnknownUseKind;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == s).ok_or_else(|| UnknownUseKind(s.to_owned()))
    }
}

/// The text is not the name of a kind of use.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown kind of use {0:?}")]
pub struct UnknownUseKind(String);

/// An entry of the history of a coupon. Times are milliseconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CouponUse {
    /// Its position in the history, from 1.
    pub seq: u32,
    /// What it did.
    pub kind: UseKind,
    /// The order. None: not by an order.
    pub order: Option<OrderId>,
    /// When the reservation ends. None: not a reservation.
    pub until: Option<i64>,
    /// When it was decided.
    pub at: i64,
}

/// An order of a shop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Its id.
    pub id: OrderId,
    /// Its amount in minor units, such as cents. None: not known, so it is not checked.
    pub amount: Option<u64>,
}

/// A requested change of a coupon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Reserve the coupon for the order, or renew its reservation.
    Reserve {
        /// For how long.
        seconds: u32,
    },
    /// Redeem the coupon.
    Redeem,
    /// End the reservation of the order.
    Release,
}

/// An issued coupon and the terms of its use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedeemableCoupon {
    /// The coupon and its holder.
    pub issued: IssuedCoupon,
    /// From when on it can no longer be used. None: never.
    pub valid_until: Option<i64>,
    /// The conditions of its discount.
    pub conditions: DiscountConditions,
    /// The currency of all amounts. None: the shop decides it.
    pub currency: Option<Currency>,
}

/// A coupon and what is known about its use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CouponHistory {
    /// The coupon.
    pub coupon: RedeemableCoupon,
    /// The last entry of its history.
    pub last: Option<CouponUse>,
}

/// The state of a coupon at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CouponState {
    /// Its holder can use it.
    Issued,
    /// An order has reserved it.
    Reserved {
        /// The order. None: not known, no order matches it.
        order: Option<OrderId>,
        /// When the reservation ends.
        until: i64,
    },
    /// It was redeemed.
    Redeemed,
    /// It was voided.
    Voided,
    /// Its validity is over.
    Expired,
}

impl CouponState {
    /// The name in HTTP, such as `ISSUED`.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Issued => "ISSUED",
            Self::Reserved { .. } => "RESERVED",
            Self::Redeemed => "REDEEMED",
            Self::Voided => "VOIDED",
            Self::Expired => "EXPIRED",
        }
    }
}

/// Why a change is refused. The history remains as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The user is not the holder.
    #[error("the coupon belongs to another user")]
    WrongUser,
    /// Another order has reserved the coupon.
    #[error("another order has reserved the coupon")]
    Reserved {
        /// When that reservation ends.
        until: i64,
    },
    /// The coupon was redeemed.
    #[error("the coupon was redeemed{}", if *.by_order { " by this order, with another Idempotency-Key" } else { "" })]
    Redeemed {
        /// Whether by the order of the request.
        by_order: bool,
    },
    /// The order has no reservation to release.
    #[error("the order has not reserved the coupon")]
    NotReserved,
    /// The coupon was voided.
    #[error("the coupon was voided")]
    Voided,
    /// The validity of the coupon is over.
    #[error("the validity of the coupon is over")]
    Expired,
    /// The amount of the order is too low.
    #[error("the order has less than the minimum amount of {minimum} minor units")]
    BelowMinimum {
        /// The minimum amount of an order, in minor units.
        minimum: u64,
    },
}

impl RedeemableCoupon {
    /// The amount off an order of this amount, in minor units. A percentage is rounded down.
    #[must_use]
    pub fn amount_off(&self, order_amount: u64) -> u64 {
        let off = self.issued.discount.amount_off(order_amount);
        self.conditions.max_discount.map_or(off, |maximum| off.min(maximum))
    }

    /// The minimum amount of an order, if the amount of this one is known and lower.
    fn minimum_not_reached(&self, order: &Order) -> Option<u64> {
        self.conditions.minimum_order_amount.filter(|minimum| order.amount.is_some_and(|amount| amount < *minimum))
    }
}

impl CouponHistory {
    /// The state at `now`.
    #[must_use]
    pub fn state(&self, now: i64) -> CouponState {
        let last = self.last.as_ref();
        match last.map(|entry| entry.kind) {
            Some(UseKind::Redeemed) => return CouponState::Redeemed,
            Some(UseKind::Voided) => return CouponState::Voided,
            Some(UseKind::Reserved | UseKind::Released) | None => {}
        }
        if self.coupon.valid_until.is_some_and(|end| end <= now) {
            return CouponState::Expired;
        }
        match last {
            Some(CouponUse { kind: UseKind::Reserved, order, until: Some(until), .. }) if now < *until => {
                CouponState::Reserved { order: order.clone(), until: *until }
            }
            _ => CouponState::Issued,
        }
    }

    /// The entry that the change appends to the history at `now`, for this order of this user.
    pub fn decide(&self, change: Change, user: &UserId, order: &Order, now: i64) -> Result<CouponUse, Refusal> {
        if *user != self.coupon.issued.user_id {
            return Err(Refusal::WrongUser);
        }
        let last = self.last.as_ref();
        let reserved_before = last.is_some_and(|entry| entry.kind == UseKind::Reserved && entry.is_of(&order.id));
        let (kind, until) = match (self.state(now), change) {
            (CouponState::Redeemed, _) => {
                return Err(Refusal::Redeemed { by_order: last.is_some_and(|entry| entry.is_of(&order.id)) });
            }
            (CouponState::Voided, _) => return Err(Refusal::Voided),
            // Also of a reservation that has expired, so that a late release is not an error.
            (_, Change::Release) if reserved_before => (UseKind::Released, None),
            (CouponState::Expired, _) => return Err(Refusal::Expired),
            (CouponState::Reserved { until, .. }, _) if !reserved_before => return Err(Refusal::Reserved { until }),
            (_, Change::Release) => return Err(Refusal::NotReserved),
            _ if let Some(minimum) = self.coupon.minimum_not_reached(order) => {
                return Err(Refusal::BelowMinimum { minimum });
            }
            (_, Change::Redeem) => (UseKind::Redeemed, None),
            (_, Change::Reserve { seconds }) => {
                let end = now.saturating_add(i64::from(seconds.min(MAX_RESERVATION_SECONDS)) * 1000);
                (UseKind::Reserved, Some(self.coupon.valid_until.map_or(end, |valid_until| end.min(valid_until))))
            }
        };
        Ok(CouponUse { seq: next_seq(last), kind, order: Some(order.id.clone()), until, at: now })
    }
}

/// The entry that voids a coupon with this last entry of its history, also while an order has reserved it. None: it was
/// voided before.
pub fn void(last: Option<&CouponUse>, now: i64) -> Result<Option<CouponUse>, Refusal> {
    match last.map(|entry| entry.kind) {
        Some(UseKind::Redeemed) => Err(Refusal::Redeemed { by_order: false }),
        Some(UseKind::Voided) => Ok(None),
        Some(UseKind::Reserved | UseKind::Released) | None => {
            Ok(Some(CouponUse { seq: next_seq(last), kind: UseKind::Voided, order: None, until: None, at: now }))
        }
    }
}

fn next_seq(last: Option<&CouponUse>) -> u32 {
    last.map_or(0, |entry| entry.seq) + 1
}

impl CouponUse {
    fn is_of(&self, order: &OrderId) -> bool {
        self.order.as_ref() == Some(order)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::discount::{Discount, DiscountType};

    const USERS: [&str; 2] = ["holder", "other"];
    const ORDERS: [&str; 3] = ["A", "B", "C"];

    fn history(valid_until: Option<i64>) -> CouponHistory {
        let issued = IssuedCoupon {
            user_id: USERS[0].parse().unwrap(),
            coupon: "SUMMER-7GK2M9QXW4TB".parse().unwrap(),
            discount: Discount { kind: DiscountType::Percent, value: 10 },
            issued_at: 0,
        };
        let conditions = DiscountConditions::default();
        let coupon = RedeemableCoupon { issued, valid_until, conditions, currency: None };
        CouponHistory { coupon, last: None }
    }

    fn order_of(id: &str, amount: Option<u64>) -> Order {
        Order { id: id.parse().unwrap(), amount }
    }

    /// Appends the decided entry.
    fn apply(history: &mut CouponHistory, change: Change, order: &str, now: i64) -> Result<UseKind, Refusal> {
        let decided = history.decide(change, &USERS[0].parse().unwrap(), &order_of(order, None), now)?;
        let kind = decided.kind;
        history.last = Some(decided);
        Ok(kind)
    }

    #[test]
    fn expired_reservation_can_be_taken_by_another_order_and_released_late() {
        let minute = Change::Reserve { seconds: 60 };
        let mut coupon = history(None);
        assert_eq!(apply(&mut coupon, minute, "A", 0), Ok(UseKind::Reserved));
        assert_eq!(apply(&mut coupon, minute, "B", 59_999), Err(Refusal::Reserved { until: 60_000 }));
        assert_eq!(coupon.state(60_000), CouponState::Issued);
        assert_eq!(apply(&mut coupon.clone(), Change::Release, "A", 60_000), Ok(UseKind::Released));
        assert_eq!(apply(&mut coupon.clone(), Change::Redeem, "A", 60_000), Ok(UseKind::Redeemed));
        assert_eq!(apply(&mut coupon, minute, "B", 60_000), Ok(UseKind::Reserved));
        assert_eq!(apply(&mut coupon.clone(), Change::Release, "A", 60_000), Err(Refusal::Reserved { until: 120_000 }));
        assert_eq!(apply(&mut coupon, Change::Redeem, "A", 60_000), Err(Refusal::Reserved { until: 120_000 }));
    }

    #[test]
    fn reservation_ends_with_the_validity() {
        let mut coupon = history(Some(90_000));
        assert_eq!(apply(&mut coupon, Change::Reserve { seconds: 3600 }, "A", 0), Ok(UseKind::Reserved));
        assert_eq!(coupon.last.as_ref().unwrap().until, Some(90_000));
        assert_eq!(coupon.state(90_000), CouponState::Expired);
        assert_eq!(apply(&mut coupon.clone(), Change::Redeem, "A", 90_000), Err(Refusal::Expired));
        assert_eq!(apply(&mut coupon.clone(), Change::Redeem, "A", 89_999), Ok(UseKind::Redeemed));
        assert_eq!(apply(&mut coupon, Change::Release, "A", 90_000), Ok(UseKind::Released));
        assert_eq!(apply(&mut coupon, Change::Release, "A", 90_000), Err(Refusal::Expired));
    }

    #[test]
    fn voided_coupon_refuses_every_change() {
        let mut coupon = history(None);
        assert_eq!(apply(&mut coupon, Change::Reserve { seconds: 60 }, "A", 0), Ok(UseKind::Reserved));
        coupon.last = void(coupon.last.as_ref(), 1).unwrap();
        assert_eq!(coupon.last, Some(CouponUse { seq: 2, kind: UseKind::Voided, order: None, until: None, at: 1 }));
        assert_eq!(coupon.state(1), CouponState::Voided);
        assert_eq!(void(coupon.last.as_ref(), 2), Ok(None));
        for change in [Change::Reserve { seconds: 1 }, Change::Redeem, Change::Release] {
            assert_eq!(apply(&mut coupon, change, "A", 1), Err(Refusal::Voided));
        }
    }

    #[test]
    fn order_below_the_minimum_can_only_release() {
        let mut coupon = history(None);
        coupon.coupon.conditions.minimum_order_amount = Some(5000);
        let user = USERS[0].parse().unwrap();
        let below = |coupon: &CouponHistory, change| coupon.decide(change, &user, &order_of("A", Some(4999)), 0);
        for change in [Change::Reserve { seconds: 1 }, Change::Redeem] {
            assert_eq!(below(&coupon, change), Err(Refusal::BelowMinimum { minimum: 5000 }));
            for amount in [None, Some(5000)] {
                assert!(coupon.decide(change, &user, &order_of("A", amount), 0).is_ok());
            }
        }
        assert_eq!(apply(&mut coupon, Change::Reserve { seconds: 1 }, "A", 0), Ok(UseKind::Reserved));
        assert_eq!(below(&coupon, Change::Release).map(|entry| entry.kind), Ok(UseKind::Released));
    }

    #[test]
    fn amount_off_is_at_most_the_maximum_discount() {
        let mut coupon = history(None).coupon;
        assert_eq!(coupon.amount_off(30_009), 3000);
        coupon.conditions.max_discount = Some(2000);
        assert_eq!(coupon.amount_off(30_009), 2000);
        assert_eq!(coupon.amount_off(19_999), 1999);
    }

    #[test]
    fn kind_of_use_is_parsed_from_its_name() {
        for kind in UseKind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        assert_eq!("USED".parse::<UseKind>().unwrap_err().to_string(), "unknown kind of use \"USED\"");
    }

    /// A change, or None for a void.
    type Request = Option<Change>;

    /// The model keeps the current state itself, and changes it as time passes. It has no history.
    struct Model {
        now: i64,
        valid_until: Option<i64>,
        is_redeemed: bool,
        is_voided: bool,
        /// The order whose reservation has not been released, redeemed or replaced, and when it ends.
        reservation: Option<(&'static str, i64)>,
    }

    impl Model {
        /// Whether the request appends an entry.
        fn request(&mut self, request: Request, user: &str, order: &'static str) -> bool {
            let Some(change) = request else {
                let is_possible = !self.is_redeemed && !self.is_voided;
                self.is_voided |= is_possible;
                return is_possible;
            };
            let (is_over, blocked_by_other) = (
                self.valid_until.is_some_and(|end| self.now >= end),
                self.reservation.is_some_and(|(by, until)| by != order && self.now < until),
            );
            let is_possible = user == "holder" && !self.is_redeemed && !self.is_voided;
            match change {
                Change::Release => {
                    let is_own = self.reservation.is_some_and(|(by, _)| by == order);
                    if is_possible && is_own {
                        self.reservation = None;
                    }
                    is_possible && is_own
                }
                Change::Redeem => {
                    let is_possible = is_possible && !is_over && !blocked_by_other;
                    self.is_redeemed |= is_possible;
                    is_possible
                }
                Change::Reserve { seconds } => {
                    let is_possible = is_possible && !is_over && !blocked_by_other;
                    if is_possible {
                        let end = self.now + i64::from(seconds) * 1000;
                        self.reservation = Some((order, end.min(self.valid_until.unwrap_or(end))));
                    }
                    is_possible
                }
            }
        }

        fn state(&self) -> &'static str {
            match self.reservation {
                _ if self.is_redeemed => "REDEEMED",
                _ if self.is_voided => "VOIDED",
                _ if self.valid_until.is_some_and(|end| self.now >= end) => "EXPIRED",
                Some((_, until)) if self.now < until => "RESERVED",
                _ => "ISSUED",
            }
        }
    }

    fn request() -> impl Strategy<Value = Request> {
        prop_oneof![
            9 => (1..6_u32).prop_map(|seconds| Some(Change::Reserve { seconds })),
            3 => Just(Some(Change::Redeem)),
            6 => Just(Some(Change::Release)),
            1 => Just(None),
        ]
    }

    proptest! {
        #[test]
        fn decisions_match_the_model(
            valid_until in proptest::option::of(1_000..40_000_i64),
            requests in vec((request(), 0..12_usize, 0..ORDERS.len(), 0..4_000_i64), 1..40),
        ) {
            let mut model = Model { now: 0, valid_until, is_redeemed: false, is_voided: false, reservation: None };
            let (mut coupon, mut redemptions, mut voids) = (history(valid_until), 0, 0);
            for (request, user, order, pause) in requests {
                model.now += pause;
                // The holder sends most of the requests.
                let (user, order) = (USERS[usize::from(user == 0)], ORDERS[order]);
                let decided = match request {
                    Some(change) => {
                        coupon.decide(change, &user.parse().unwrap(), &order_of(order, None), model.now).map(Some)
                    }
                    None => void(coupon.last.as_ref(), model.now),
                };
                let appends = matches!(decided, Ok(Some(_)));
                prop_assert_eq!(appends, model.request(request, user, order), "{:?} at {}", decided, model.now);
                if let Ok(Some(entry)) = decided {
                    prop_assert_eq!(entry.seq, coupon.last.map_or(0, |last| last.seq) + 1);
                    redemptions += u32::from(entry.kind == UseKind::Redeemed);
                    voids += u32::from(entry.kind == UseKind::Voided);
                    coupon.last = Some(entry);
                }
                prop_assert_eq!(coupon.state(model.now).as_str(), model.state());
                prop_assert!(redemptions + voids <= 1);
            }
        }
    }
}
