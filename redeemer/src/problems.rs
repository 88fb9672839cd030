//! The problems of the API. Their types are stable: clients distinguish them by the type, not by the text.

use couponry_domain::{EventName, redemption::Refusal};
use couponry_postgres::DatabaseError;
use couponry_redis::RedisStoreError;
use couponry_runtime::{Problem, error_chain};

pub(crate) fn unknown_event(event: &EventName) -> Problem {
    Problem::not_found(format!("the event {event} does not exist")).with_type("unknown-event", "Unknown event")
}

/// Redis and Postgres agree that the user does not have the coupon.
pub(crate) fn unknown_coupon() -> Problem {
    Problem::not_found("the event has not issued this coupon to this user")
        .with_type("unknown-coupon", "Unknown coupon")
}

/// Without a user, Redis cannot be searched for a coupon that is not recorded yet.
pub(crate) fn not_recorded() -> Problem {
    Problem::not_found(
        "no issuance of this coupon is recorded. If it was issued moments ago, retry later, or add the query parameter \
         userId.",
    )
    .with_type("coupon-not-recorded", "Coupon not recorded")
}

pub(crate) fn request_id_reused() -> Problem {
    Problem::unprocessable("another request of this event has the same Idempotency-Key; nothing was changed")
        .with_type("idempotency-key-reused", "Idempotency key reused")
}

pub(crate) fn refused(refusal: &Refusal) -> Problem {
    let (r#type, title) = match refusal {
        Refusal::WrongUser => ("wrong-user", "Coupon of another user"),
        Refusal::Reserved { .. } => ("coupon-reserved", "Coupon reserved"),
        Refusal::Redeemed { by_order: false } => ("coupon-redeemed", "Coupon redeemed"),
        Refusal::Redeemed { by_order: true } => ("coupon-redeemed-by-order", "Coupon redeemed by this order"),
        Refusal::NotReserved => ("coupon-not-reserved", "Coupon not reserved"),
        Refusal::Voided => ("coupon-voided", "Coupon voided"),
        Refusal::Expired => ("coupon-expired", "Coupon expired"),
        Refusal::BelowMinimum { .. } => ("below-minimum-order", "Order amount below the minimum"),
    };
    let detail = match refusal {
        Refusal::Reserved { until } => format!("{refusal} until {}", timestamp(*until)),
        _ => refusal.to_string(),
    };
    Problem::conflict(detail).with_type(r#type, title)
}

/// The coupon may have been changed.
pub(crate) fn unknown_outcome() -> Problem {
    Problem::unavailable("The outcome is unknown. Retry with the same Idempotency-Key to get the outcome.")
}

pub(crate) fn change_failed(error: DatabaseError) -> Problem {
    tracing::warn!(error = error_chain(error), "request failed");
    unknown_outcome()
}

/// Nothing was changed.
pub(crate) fn lookup_failed(error: DatabaseError) -> Problem {
    tracing::warn!(error = error_chain(error), "cannot look up a coupon");
    no_response()
}

/// A request that changes nothing was not answered in time.
pub(crate) fn no_response() -> Problem {
    Problem::unavailable("The coupon cannot be looked up at present. Retry later.")
}

pub(crate) fn redis_failed(error: RedisStoreError) -> Problem {
    tracing::warn!(error = error_chain(error), "cannot look up a coupon that is not recorded");
    not_recorded_yet()
}

/// The coupon may have been issued.
pub(crate) fn not_recorded_yet() -> Problem {
    Problem::unavailable("The coupon is not recorded yet, and at present it cannot be verified. Retry later.")
}

/// A point in time in RFC 3339, always with milliseconds.
pub(crate) fn timestamp(millis: i64) -> String {
    jiff::Timestamp::from_millisecond(millis).map_or_else(|_| millis.to_string(), |time| format!("{time:.3}"))
}
