//! `POST /coupons/issue`

use std::{fmt::Display, sync::Arc};

#[cfg(any(test, fuzzing))]
use axum::http::{HeaderMap, HeaderValue, header::CONTENT_TYPE};
use axum::{
    Json,
    body::{Body, Bytes, HttpBody},
    extract::State,
    http::{
        HeaderName, Request,
        header::{CACHE_CONTROL, CONTENT_LANGUAGE, VARY},
    },
};
use couponry_domain::IssuedCoupon;
use couponry_redis::IssueOutcome;
use couponry_runtime::{body, problem::Problem};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::app::{
    App, DiscountTypeName, parse_event, timestamp, undecodable, unknown_event, unknown_outcome, unverified, within,
};
use super::{
    language::Language,
    messages::{Reason, message},
};
use crate::issuing::IssueResult;

/// A request for a coupon.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct IssueRequest {
    /// The user: 1 to 256 bytes of UTF-8 without control characters, invisible characters and surrounding white space.
    /// Optional if the user is authenticated by a header or a token.
    #[schema(value_type = String, required = false, example = "u1")]
    user_id: Option<String>,
    /// The event: the name of its `CouponEvent`.
    #[schema(example = "summer")]
    event_id: String,
}

/// The outcome of a request.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct IssueResponse {
    /// Whether this request issued a coupon.
    success: bool,
    /// Whether the user has a coupon of the event: issued by this request, or earlier (DUPLICATE).
    has_coupon: bool,
    /// Why it did not.
    reason: Option<Reason>,
    /// The coupon of the user: the new one, or with DUPLICATE the one that was issued before.
    #[schema(example = "SUMMER-7GK2M9QXW4TB")]
    coupon_key: Option<String>,
    /// The outcome in words, in English or Korean (`Accept-Language`). It may change: decide by `reason`.
    message: &'static str,
    /// The type of the discount.
    discount_type: Option<DiscountTypeName>,
    /// The discount in percent or in minor units of the currency, such as cents.
    #[schema(example = 10)]
    discount_amount: Option<u32>,
    /// From when on the coupon is not valid any more (RFC 3339 in UTC, with milliseconds). Absent: unlimited.
    #[schema(format = DateTime, example = "2027-01-01T00:00:00.000Z")]
    #[serde(skip_serializing_if = "Option::is_none")]
    valid_until: Option<String>,
    /// With `WAIT`: when the user is admitted (RFC 3339 in UTC, with milliseconds). Send the request again then.
    #[schema(format = DateTime, example = "2026-12-01T00:00:42.123Z")]
    #[serde(skip_serializing_if = "Option::is_none")]
    admitted_at: Option<String>,
    /// With `SOLD_OUT`: when the next coupons become available (RFC 3339 in UTC, with milliseconds). Absent: never.
    #[schema(format = DateTime, example = "2026-12-01T12:00:00.000Z")]
    #[serde(skip_serializing_if = "Option::is_none")]
    next_drop_at: Option<String>,
}

impl IssueResponse {
    fn new(outcome: IssueOutcome, valid_until: Option<i64>, language: Language) -> Result<Self, Problem> {
        let (mut admitted_at, mut next_drop_at) = (None, None);
        let (reason, issued) = match outcome {
            IssueOutcome::Issued(issued) => (None, Some(issued)),
            IssueOutcome::Duplicate(entry) => (Some(Reason::Duplicate), Some(entry.issued)),
            IssueOutcome::Voided => (Some(Reason::Voided), None),
            IssueOutcome::SoldOut { next_drop_at: next } => {
                next_drop_at = next;
                (Some(Reason::SoldOut), None)
            }
            IssueOutcome::Wait { admitted_at: at } => {
                admitted_at = Some(at);
                (Some(Reason::Wait), None)
            }
            IssueOutcome::NotStarted => (Some(Reason::NotStarted), None),
            IssueOutcome::Ended => (Some(Reason::Ended), None),
            IssueOutcome::Paused => (Some(Reason::Paused), None),
            IssueOutcome::Unverified => return Err(unverified()),
            IssueOutcome::Undecodable => return Err(undecodable()),
        };
        let (coupon_key, discount) =
            issued.map(|IssuedCoupon { coupon, discount, .. }| (coupon.to_string(), discount)).unzip();
        Ok(Self {
            success: reason.is_none(),
            has_coupon: coupon_key.is_some(),
            reason,
            coupon_key,
            message: message(reason, next_drop_at.is_some(), language),
            discount_type: discount.map(|discount| discount.kind.into()),
            discount_amount: discount.map(|discount| discount.value),
            valid_until: valid_until.map(timestamp),
            admitted_at: admitted_at.map(timestamp),
            next_drop_at: next_drop_at.map(timestamp),
        })
    }
}

/// A response about one user in one language, which no cache may store.
type Localized<T> = ([(HeaderName, &'static str); 3], Json<T>);

/// Issue a coupon to a user.
///
/// Retries are safe: a user gets at most one coupon per event, and a retry returns the same coupon.
#[utoipa::path(
    post,
    path = "/coupons/issue",
    request_body = IssueRequest,
    responses(
        (status = 200, description = "The outcome: a coupon, or the reason why none was issued", body = IssueResponse),
        (status = 400, description = "The request is invalid", body = Problem,
            content_type = "application/problem+json"),
        (status = 401, description = "Authentication required", body = Problem,
            content_type = "application/problem+json"),
        (status = 404, description = "The event does not exist", body = Problem,
            content_type = "application/problem+json"),
        (status = 408, description = "The body was not received in time", body = Problem,
            content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = Problem,
            content_type = "application/problem+json"),
        (status = 415, description = "The body is not JSON, or is compressed", body = Problem,
            content_type = "application/problem+json"),
        (status = 429, description = "Rate limit exceeded; the request was not processed", body = Problem,
            content_type = "application/problem+json", headers(("Retry-After" = u32, description = "Seconds to wait"))),
        (status = 503, description = "Temporarily unavailable, or the outcome is unknown; retry", body = Problem,
            content_type = "application/problem+json", headers(("Retry-After" = u32, description = "Seconds to wait"))),
    )
)]
pub(super) async fn issue(
    State(app): State<Arc<App>>,
    request: Request<Body>,
) -> Result<Localized<IssueResponse>, Problem> {
    respond(&app, request).await
}

/// Responds to an issue request, and counts the response.
pub(super) async fn respond<B>(app: &App, request: Request<B>) -> Result<Localized<IssueResponse>, Problem>
where
    B: HttpBody<Data = Bytes, Error: Display> + Unpin,
{
    let response = process(app, request).await;
    let problem = response.as_ref().err();
    app.metrics.count_issue_response(problem.map_or(200, Problem::status), problem.and_then(Problem::cause));
    response
}

async fn process<B>(app: &App, request: Request<B>) -> Result<Localized<IssueResponse>, Problem>
where
    B: HttpBody<Data = Bytes, Error: Display> + Unpin,
{
    couponry_failpoint::block("issuer.block-thread");
    let (parts, body) = request.into_parts();
    let IssueRequest { user_id, event_id: event } = body::json(&parts.headers, body, app.body_timeout).await?;
    let user = app.authenticator.authenticate(&parts.headers, user_id).await?;
    app.limits.check_user(&user)?;
    let event = parse_event(event)?;

    let (result, duration) = within(app.response_timeout, app.issue_queues.issue(&event, user)).await;
    let result = result.unwrap_or(IssueResult::UnknownOutcome);
    app.metrics.issue_request_duration.observe(duration.as_secs_f64());
    app.metrics.count_request(result.label());
    match result {
        IssueResult::Decided { outcome, valid_until } => {
            let language = Language::preferred(&parts.headers);
            let headers = [(CACHE_CONTROL, "no-store"), (CONTENT_LANGUAGE, language.tag()), (VARY, "Accept-Language")];
            IssueResponse::new(outcome, valid_until, language).map(|response| (headers, Json(response)))
        }
        IssueResult::UnknownEvent => Err(unknown_event(&event)),
        IssueResult::UnknownOutcome => Err(unknown_outcome()),
        IssueResult::Overloaded => {
            Err(Problem::unavailable("Too many requests are waiting for this event. Retry later.")
                .with_cause("overloaded"))
        }
    }
}

/// Parses a body as the route does, for the fuzz target.
///
/// # Panics
/// Outside of a tokio runtime.
#[cfg(any(test, fuzzing))]
pub async fn read_issue_request(
    body: Vec<u8>,
) -> Result<(Option<couponry_domain::UserId>, couponry_domain::EventName), Problem> {
    let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
    let IssueRequest { user_id, event_id: event } =
        body::json(&headers, Body::from(body), std::time::Duration::MAX).await?;
    let user = user_id
        .map(couponry_domain::UserId::try_from)
        .transpose()
        .map_err(|error| Problem::invalid(error.to_string()))?;
    Ok((user, parse_event(event)?))
}

#[cfg(test)]
mod tests {
    use couponry_redis::{IssuedEntry, IssuedStatus};

    use super::*;

    #[test]
    fn issue_response_has_the_documented_fields() {
        let issued = IssuedCoupon {
            user_id: "u1".parse().unwrap(),
            coupon: "SUMMER-7GK2M9QXW4TB".parse().unwrap(),
            discount: couponry_domain::Discount { kind: couponry_domain::DiscountType::Percent, value: 10 },
            issued_at: 1,
        };
        let respond = |outcome, valid_until| {
            let response = IssueResponse::new(outcome, valid_until, Language::English).unwrap();
            serde_json::to_string(&response).unwrap()
        };
        let json = |outcome| respond(outcome, None);
        assert_eq!(
            json(IssueOutcome::Issued(issued.clone())),
            concat!(
                r#"{"success":true,"hasCoupon":true,"reason":null,"couponKey":"SUMMER-7GK2M9QXW4TB","message":"The coupon is yours.","#,
                r#""discountType":"PERCENT","discountAmount":10}"#
            )
        );
        let limited = respond(IssueOutcome::Issued(issued.clone()), Some(1_798_761_600_000));
        assert!(limited.ends_with(r#","discountAmount":10,"validUntil":"2027-01-01T00:00:00.000Z"}"#), "{limited}");
        let duplicate = json(IssueOutcome::Duplicate(IssuedEntry { issued, status: IssuedStatus::Pending }));
        assert!(duplicate.contains(r#""success":false,"hasCoupon":true,"reason":"DUPLICATE","couponKey":"SUMMER-"#));
        assert!(json(IssueOutcome::Voided).contains(r#""hasCoupon":false,"reason":"VOIDED","couponKey":null"#));
        let sold_out = json(IssueOutcome::SoldOut { next_drop_at: None });
        assert!(sold_out.contains(r#""reason":"SOLD_OUT","couponKey":null"#) && !sold_out.contains("nextDropAt"));
        let next_drop = json(IssueOutcome::SoldOut { next_drop_at: Some(1_798_761_600_000) });
        assert!(
            next_drop.ends_with(r#""discountAmount":null,"nextDropAt":"2027-01-01T00:00:00.000Z"}"#),
            "{next_drop}"
        );
        let wait = json(IssueOutcome::Wait { admitted_at: 1_798_761_600_001 });
        assert!(wait.starts_with(r#"{"success":false,"hasCoupon":false,"reason":"WAIT","couponKey":null"#), "{wait}");
        assert!(wait.ends_with(r#""discountAmount":null,"admittedAt":"2027-01-01T00:00:00.001Z"}"#), "{wait}");
        let problem = IssueResponse::new(IssueOutcome::Unverified, None, Language::English).err().unwrap();
        assert_eq!(problem.status(), 503, "a Redis that may have lost data must not reject a user");
        assert!(json(IssueOutcome::NotStarted).contains(r#""reason":"NOT_STARTED""#));
    }

    #[tokio::test]
    async fn fuzz_seeds_do_not_panic() {
        for seed in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/seeds/request")).unwrap() {
            let _ = read_issue_request(std::fs::read(seed.unwrap().path()).unwrap()).await;
        }
        let (user, event) = read_issue_request(br#"{"userId":"u1","eventId":"summer"}"#.to_vec()).await.unwrap();
        assert_eq!((user.unwrap().as_str(), event.as_str()), ("u1", "summer"));
    }
}
