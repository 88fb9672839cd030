//! Conditions of a `CouponEvent`.

use couponry_crds::CouponEventStatus;

/// Whether the status of the condition is True.
pub(crate) fn is_true(status: &CouponEventStatus, type_: &str) -> bool {
    status.condition(type_).is_some_and(|condition| condition.status == "True")
}

/// The reason of the condition, empty without the condition.
pub(crate) fn reason<'a>(status: &'a CouponEventStatus, type_: &str) -> &'a str {
    status.condition(type_).map_or("", |condition| &condition.reason)
}

/// The message of the condition, empty without the condition.
pub(crate) fn message<'a>(status: &'a CouponEventStatus, type_: &str) -> &'a str {
    status.condition(type_).map_or("", |condition| &condition.message)
}
