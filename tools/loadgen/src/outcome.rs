//! The outcome of an attempt.

use couponry_domain::code::CouponCode;
use couponry_domain::{Discount, DiscountType};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What the client knows about an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// The issuer answered; the response is final.
    Answered(IssueResponse),
    /// No coupon was issued: the request was not sent, or the issuer rejected it.
    Rejected(Failure),
    /// A coupon may have been issued or not.
    Unknown(Failure),
}

/// Why an attempt was not answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The error, or the response body.
    pub message: String,
    /// The HTTP status, if there was a response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
}

/// The body of a response with status 200 to `POST /coupons/issue`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IssueResponse {
    /// Whether this request issued a coupon.
    pub success: bool,
    /// Why no coupon was issued.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// The user's coupon, from this request or an earlier one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub coupon_key: Option<String>,
    /// The text for the user. Not kept in the history.
    #[serde(skip_serializing)]
    pub message: Option<String>,
    /// The type of the discount.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discount_type: Option<DiscountType>,
    /// The value of the discount.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discount_amount: Option<u32>,
    /// When the user is admitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admitted_at: Option<Timestamp>,
    /// When more coupons become available.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_drop_at: Option<Timestamp>,
    /// From when on the coupon can no longer be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_until: Option<Timestamp>,
}

/// Why no coupon was issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Reason {
    /// The user already has a coupon.
    Duplicate,
    /// No coupon is available.
    SoldOut,
    /// The user is not admitted yet.
    Wait,
    /// The event has not started.
    NotStarted,
    /// The event has ended.
    Ended,
    /// The event is paused.
    Paused,
    /// The user's coupon was voided.
    Voided,
}

impl IssueResponse {
    /// When the same request can have another outcome, if that is known.
    #[must_use]
    pub fn retry_at(&self) -> Option<Timestamp> {
        self.admitted_at.or(self.next_drop_at)
    }

    /// The user's coupon according to the response. The error describes a contradiction in the response.
    pub fn coupon(&self) -> Result<Option<(CouponCode, Discount)>, &'static str> {
        let coupon = match (&self.coupon_key, self.discount_type, self.discount_amount) {
            (None, None, None) => None,
            (Some(key), Some(kind), Some(value)) => {
                let code = key.parse().map_err(|_| "couponKey is not a valid coupon code")?;
                Some((code, Discount { kind, value }))
            }
            _ => return Err("only some of couponKey, discountType and discountAmount are present"),
        };
        if self.admitted_at.is_some() != (self.reason == Some(Reason::Wait)) {
            return Err("only one of the reason WAIT and admittedAt is present");
        }
        if self.next_drop_at.is_some() && self.reason != Some(Reason::SoldOut) {
            return Err("there is a nextDropAt, but the reason is not SOLD_OUT");
        }
        match (self.success, self.reason, &coupon) {
            (true, None, Some(_)) | (false, Some(Reason::Duplicate), Some(_)) => Ok(coupon),
            (true, Some(_), _) => Err("success is true, but there is a reason"),
            (true, None, None) => Err("success is true, but the coupon is missing"),
            (false, Some(Reason::Duplicate), None) => Err("the reason is DUPLICATE, but the coupon is missing"),
            (false, None, _) => Err("success is false, but the reason is missing"),
            (false, Some(_), Some(_)) => Err("the reason is not DUPLICATE, but there is a coupon"),
            (false, Some(_), None) => Ok(None),
        }
    }
}

/// Outcomes as they are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(usize)]
pub enum OutcomeKind {
    /// A coupon was issued.
    Issued,
    /// The user already had a coupon.
    Duplicate,
    /// No coupon was available.
    SoldOut,
    /// The user was not admitted yet.
    Waiting,
    /// The event had not started.
    NotStarted,
    /// The event had ended.
    Ended,
    /// The event was paused.
    Paused,
    /// The user's coupon was voided.
    Voided,
    /// The issuer rejected the request (status 4xx).
    Rejected,
    /// The client could not connect.
    Unreachable,
    /// Unknown: status 5xx, timeout, or broken connection.
    Unknown,
}

impl OutcomeKind {
    /// All kinds with their names, in the order of display.
    pub const ALL: [(Self, &'static str); 11] = [
        (Self::Issued, "issued"),
        (Self::Duplicate, "duplicate"),
        (Self::SoldOut, "sold out"),
        (Self::Waiting, "waiting"),
        (Self::NotStarted, "not started"),
        (Self::Ended, "ended"),
        (Self::Paused, "paused"),
        (Self::Voided, "voided"),
        (Self::Rejected, "rejected"),
        (Self::Unreachable, "unreachable"),
        (Self::Unknown, "unknown"),
    ];

    /// The name for output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}

impl From<&Outcome> for OutcomeKind {
    fn from(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Answered(response) => match response.reason {
                None => Self::Issued,
                Some(Reason::Duplicate) => Self::Duplicate,
                Some(Reason::SoldOut) => Self::SoldOut,
                Some(Reason::Wait) => Self::Waiting,
                Some(Reason::NotStarted) => Self::NotStarted,
                Some(Reason::Ended) => Self::Ended,
                Some(Reason::Paused) => Self::Paused,
                Some(Reason::Voided) => Self::Voided,
            },
            Outcome::Rejected(Failure { status: Some(_), .. }) => Self::Rejected,
            Outcome::Rejected(_) => Self::Unreachable,
            Outcome::Unknown(_) => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(json: &str) -> IssueResponse {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn contradictory_response_is_an_error() {
        let problem = |json: &str| response(json).coupon().unwrap_err();
        let coupon = r#""couponKey":"A-1","discountType":"AMOUNT","discountAmount":5,"message":"x""#;
        let none = r#""couponKey":null,"discountType":null,"discountAmount":null,"message":"x""#;
        assert!(response(&format!(r#"{{"success":true,"reason":null,{coupon}}}"#)).coupon().unwrap().is_some());
        assert!(response(&format!(r#"{{"success":false,"reason":"DUPLICATE",{coupon}}}"#)).coupon().unwrap().is_some());
        assert_eq!(response(&format!(r#"{{"success":false,"reason":"SOLD_OUT",{none}}}"#)).coupon(), Ok(None));
        for (success, reason, coupon, expected) in [
            (true, "null", none, "success is true, but the coupon is missing"),
            (true, "\"ENDED\"", coupon, "success is true, but there is a reason"),
            (false, "null", none, "success is false, but the reason is missing"),
            (false, "\"DUPLICATE\"", none, "the reason is DUPLICATE, but the coupon is missing"),
            (false, "\"PAUSED\"", coupon, "the reason is not DUPLICATE, but there is a coupon"),
        ] {
            assert_eq!(problem(&format!(r#"{{"success":{success},"reason":{reason},{coupon}}}"#)), expected);
        }
        assert!(problem(r#"{"success":true,"couponKey":"A-1"}"#).contains("only some"));
        let at = r#""2026-12-01T00:00:00.001Z""#;
        let waiting = response(&format!(r#"{{"success":false,"reason":"WAIT","admittedAt":{at},{none}}}"#));
        assert_eq!((waiting.coupon(), waiting.retry_at()), (Ok(None), waiting.admitted_at));
        let next = response(&format!(r#"{{"success":false,"reason":"SOLD_OUT","nextDropAt":{at},{none}}}"#));
        assert_eq!((next.coupon(), next.retry_at()), (Ok(None), waiting.admitted_at));
        for contradiction in [
            format!(r#"{{"success":false,"reason":"WAIT",{none}}}"#),
            format!(r#"{{"success":true,"reason":null,"admittedAt":{at},{coupon}}}"#),
            format!(r#"{{"success":false,"reason":"ENDED","nextDropAt":{at},{none}}}"#),
        ] {
            problem(&contradiction);
        }
    }

    #[test]
    fn message_of_response_is_not_serialized() {
        let response = response(r#"{"success":false,"reason":"SOLD_OUT","couponKey":null,"message":"sorry"}"#);
        assert_eq!(serde_json::to_string(&response).unwrap(), r#"{"success":false,"reason":"SOLD_OUT"}"#);
    }

    #[test]
    fn outcome_kinds_are_in_order() {
        assert!(OutcomeKind::ALL.iter().enumerate().all(|(index, (kind, _))| *kind as usize == index));
    }
}
