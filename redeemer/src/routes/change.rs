//! `POST /redemptions/validate`, `reserve`, `redeem` and `release`

use std::sync::Arc;

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderName, Request},
};
use couponry_domain::{
    EventName, RequestId, UserId,
    code::CouponCode,
    redemption::{Change, CouponUse, MAX_RESERVATION_SECONDS, Order, RedeemableCoupon, UseKind},
};
use couponry_postgres::UseRequest;
use couponry_runtime::{Problem, body};
use ring::digest;
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use utoipa::ToSchema;

use super::app::{App, StateName, Terms, Uncached, parse_coupon, parse_event, parse_order, parse_user, state};
use crate::problems::{refused, timestamp};

/// The header with the idempotency key (draft-ietf-httpapi-idempotency-key-header).
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// The duration of a reservation without `ttlSeconds`.
const DEFAULT_RESERVATION_SECONDS: u32 = 15 * 60;
/// Far below 2^52, so that no JSON parser reads another integer, also if the number is written with a fraction of zero.
const MAX_ORDER_AMOUNT: u64 = 100_000_000_000_000;

/// A request about a coupon and an order.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CouponRequest {
    /// The event: the name of its `CouponEvent`.
    #[schema(example = "summer")]
    event_id: String,
    /// The coupon.
    #[schema(example = "SUMMER-7GK2M9QXW4TB")]
    coupon_key: String,
    /// The user who uses the coupon. Must be its holder.
    #[schema(example = "u1")]
    user_id: String,
    /// The order or the cart: 1 to 128 visible ASCII characters without spaces.
    #[schema(example = "order-1001")]
    order_id: String,
    /// The amount of the order, to compute the discount and to check the minimum, except for `release`. In minor units,
    /// for example cents: the unit of the discounts in the manifest.
    #[schema(example = 12_900, minimum = 0, maximum = 100_000_000_000_000_u64)]
    #[serde(default, deserialize_with = "integer")]
    order_amount: Option<u64>,
    /// How long to reserve the coupon, only for `reserve`. Default: 900.
    #[schema(value_type = Option<u32>, example = 900, minimum = 1, maximum = 86_400)]
    #[serde(default, deserialize_with = "integer")]
    ttl_seconds: Option<u64>,
}

/// An integer, also if it is written with a fraction of zero: JSON Schema does not distinguish `900` and `900.0`, and
/// some languages have only floating-point numbers.
fn integer<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let Some(number) = Option::<serde_json::Number>::deserialize(deserializer)? else { return Ok(None) };
    let text = number.to_string();
    let integer = text.strip_suffix(".0").unwrap_or(&text).parse();
    integer.map(Some).map_err(|_| D::Error::custom(format!("{number} is not a non-negative integer")))
}

/// A coupon after the request.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CouponResponse {
    #[schema(example = "summer")]
    event_id: String,
    #[schema(example = "SUMMER-7GK2M9QXW4TB")]
    coupon_key: String,
    #[schema(example = "u1")]
    user_id: String,
    #[schema(example = "order-1001")]
    order_id: String,
    /// The state of the coupon after the request.
    state: StateName,
    /// When the reservation ends (RFC 3339 in UTC, with milliseconds).
    #[schema(format = DateTime, example = "2026-12-01T00:15:00.000Z")]
    reserved_until: Option<String>,
    /// When the coupon was changed (RFC 3339 in UTC, with milliseconds). Null for `validate`.
    #[schema(format = DateTime, example = "2026-12-01T00:00:00.000Z")]
    changed_at: Option<String>,
    #[serde(flatten)]
    terms: Terms,
    /// The amount off the order, in minor units, if the request has its amount. A percentage is rounded down, and
    /// limited to `maxDiscount`.
    #[schema(example = 1290)]
    discount_amount: Option<u64>,
}

/// A valid request.
struct Parsed {
    event: EventName,
    coupon: CouponCode,
    user: UserId,
    order: Order,
    seconds: u32,
}

impl CouponRequest {
    fn parse(self) -> Result<Parsed, Problem> {
        let Self { event_id, coupon_key, user_id, order_id, order_amount, ttl_seconds } = self;
        let seconds = ttl_seconds.map_or(Ok(DEFAULT_RESERVATION_SECONDS), u32::try_from).ok();
        let seconds = seconds
            .filter(|seconds| (1..=MAX_RESERVATION_SECONDS).contains(seconds))
            .ok_or_else(|| Problem::invalid(format!("ttlSeconds is not between 1 and {MAX_RESERVATION_SECONDS}")))?;
        if order_amount.is_some_and(|amount| amount > MAX_ORDER_AMOUNT) {
            return Err(Problem::invalid(format!("orderAmount is more than {MAX_ORDER_AMOUNT}")));
        }
        Ok(Parsed {
            event: parse_event(event_id)?,
            coupon: parse_coupon(&coupon_key)?,
            user: parse_user(user_id)?,
            order: Order { id: parse_order(order_id)?, amount: order_amount },
            seconds,
        })
    }
}

impl Parsed {
    /// A hash of everything that determines the response.
    fn hash(&self, change: Change) -> [u8; 32] {
        let Self { event: _, coupon, user, order, seconds: _ } = self;
        let change = match change {
            Change::Reserve { seconds } => format!("reserve {seconds}"),
            Change::Redeem => "redeem".to_owned(),
            Change::Release => "release".to_owned(),
        };
        let amount = order.amount.map(|amount| amount.to_string());
        // A user id has no line breaks, and neither has any of the others.
        let text =
            [&change, coupon.as_str(), user.as_str(), order.id.as_str(), amount.as_deref().unwrap_or("")].join("\n");
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
        hash
    }

    fn response(
        self,
        coupon: RedeemableCoupon,
        (state, reserved_until): (StateName, Option<String>),
        changed_at: Option<i64>,
    ) -> CouponResponse {
        CouponResponse {
            event_id: self.event.into(),
            coupon_key: self.coupon.to_string(),
            user_id: self.user.into(),
            order_id: self.order.id.into(),
            state,
            reserved_until,
            changed_at: changed_at.map(timestamp),
            discount_amount: self.order.amount.map(|amount| coupon.amount_off(amount)),
            terms: Terms::of(coupon),
        }
    }
}

/// The idempotency key. It is a string in quotation marks (RFC 9651), but many clients send it without them.
fn request_id(headers: &HeaderMap) -> Result<RequestId, Problem> {
    let mut all = headers.get_all(IDEMPOTENCY_KEY).iter();
    let (Some(value), None) = (all.next(), all.next()) else {
        return Err(Problem::invalid("exactly one header Idempotency-Key is required, for example with a random UUID"));
    };
    let text = value.to_str().unwrap_or_default();
    let text = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text);
    text.parse().map_err(|error: couponry_domain::names::InvalidId| Problem::invalid(error.to_string()))
}

async fn change(
    app: &App,
    operation: &'static str,
    request: Request<Body>,
    change: fn(&Parsed) -> Change,
) -> Result<Uncached<CouponResponse>, Problem> {
    let (parts, body) = request.into_parts();
    let body: Result<CouponRequest, Problem> = body::json(&parts.headers, body, app.body_timeout).await;
    app.respond(operation, async {
        let parsed = body?.parse()?;
        let actor = app.authenticator.authorize(&parts.headers, &parsed.event).await?;
        let change = change(&parsed);
        let request = UseRequest {
            event: parsed.event.clone(),
            coupon: parsed.coupon.clone(),
            user: parsed.user.clone(),
            order: parsed.order.clone(),
            change,
            id: request_id(&parts.headers)?,
            hash: parsed.hash(change),
            actor,
        };
        let (coupon, CouponUse { kind, until, at, .. }) = app.redemptions.change(&request).await?;
        let state = match kind {
            UseKind::Reserved => StateName::Reserved,
            UseKind::Redeemed => StateName::Redeemed,
            UseKind::Released => StateName::Issued,
            UseKind::Voided => StateName::Voided,
        };
        Ok(parsed.response(coupon, (state, until.map(timestamp)), Some(at)))
    })
    .await
}

/// Check whether a coupon can be redeemed for an order now, without changing it.
#[utoipa::path(
    post,
    path = "/redemptions/validate",
    request_body = CouponRequest,
    responses(
        (status = 200, description = "The coupon can be redeemed", body = CouponResponse),
        (status = 400, description = "The request is invalid", body = Problem,
            content_type = "application/problem+json"),
        (status = 401, description = "Authentication required", body = Problem,
            content_type = "application/problem+json"),
        (status = 403, description = "The caller must not redeem coupons of the event", body = Problem,
            content_type = "application/problem+json"),
        (status = 404, description = "The event does not exist, or has not issued the coupon to the user",
            body = Problem, content_type = "application/problem+json"),
        (status = 408, description = "The body was not received in time", body = Problem,
            content_type = "application/problem+json"),
        (status = 409, description = "The coupon cannot be redeemed; `type` is the reason", body = Problem,
            content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = Problem,
            content_type = "application/problem+json"),
        (status = 415, description = "The body is not JSON, or is compressed", body = Problem,
            content_type = "application/problem+json"),
        (status = 503, description = "Temporarily unavailable; retry", body = Problem,
            content_type = "application/problem+json", headers(("Retry-After" = u32, description = "Seconds to wait"))),
    )
)]
pub(super) async fn validate(
    State(app): State<Arc<App>>,
    request: Request<Body>,
) -> Result<Uncached<CouponResponse>, Problem> {
    let (parts, body) = request.into_parts();
    let body: Result<CouponRequest, Problem> = body::json(&parts.headers, body, app.body_timeout).await;
    app.respond("validate", async {
        let parsed = body?.parse()?;
        app.authenticator.authorize(&parts.headers, &parsed.event).await?;
        let found = app.redemptions.find(&parsed.event, &parsed.coupon, Some(&parsed.user)).await?;
        let redeemed = found.history.decide(Change::Redeem, &parsed.user, &parsed.order, found.now);
        redeemed.map_err(|refusal| refused(&refusal))?;
        let state = state(&found.state());
        Ok(parsed.response(found.history.coupon, state, None))
    })
    .await
}

macro_rules! changes {
    ($($(#[$doc:meta])* $name:ident: $path:literal, $change:expr;)*) => {
        $($(#[$doc])*
        #[utoipa::path(
            post,
            path = $path,
            request_body = CouponRequest,
            params(("Idempotency-Key" = String, Header, example = "8e03978e-40d5-43dd-bc93-6894a57f9324",
                description = "Identifies the request: a retry with the same key has no second effect, and returns the \
                               same response. Another request with the same key is a 422.")),
            responses(
                (status = 200, description = "The coupon was changed, by this request or by an earlier attempt of it",
                    body = CouponResponse),
                (status = 400, description = "The request is invalid", body = Problem,
                    content_type = "application/problem+json"),
                (status = 401, description = "Authentication required", body = Problem,
                    content_type = "application/problem+json"),
                (status = 403, description = "The caller must not redeem coupons of the event", body = Problem,
                    content_type = "application/problem+json"),
                (status = 404, description = "The event does not exist, or has not issued the coupon to the user",
                    body = Problem, content_type = "application/problem+json"),
                (status = 408, description = "The body was not received in time", body = Problem,
                    content_type = "application/problem+json"),
                (status = 409, description = "Nothing was changed; `type` is the reason", body = Problem,
                    content_type = "application/problem+json"),
                (status = 413, description = "The body is too large", body = Problem,
                    content_type = "application/problem+json"),
                (status = 415, description = "The body is not JSON, or is compressed", body = Problem,
                    content_type = "application/problem+json"),
                (status = 422, description = "Another request has the same Idempotency-Key; nothing was changed",
                    body = Problem, content_type = "application/problem+json"),
                (status = 503, description = "Temporarily unavailable, or the outcome is unknown; retry with the same \
                                              Idempotency-Key",
                    body = Problem, content_type = "application/problem+json",
                    headers(("Retry-After" = u32, description = "Seconds to wait"))),
            )
        )]
        pub(super) async fn $name(
            State(app): State<Arc<App>>,
            request: Request<Body>,
        ) -> Result<Uncached<CouponResponse>, Problem> {
            change(&app, stringify!($name), request, $change).await
        })*
    };
}

changes! {
    /// Reserve a coupon for an order, or renew its reservation.
    reserve: "/redemptions/reserve", |request| Change::Reserve { seconds: request.seconds };
    /// Redeem a coupon.
    redeem: "/redemptions/redeem", |_| Change::Redeem;
    /// Release the reservation of an order: the user can use the coupon for another one.
    release: "/redemptions/release", |_| Change::Release;
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn idempotency_key_is_the_same_with_and_without_quotation_marks() {
        let with = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(IDEMPOTENCY_KEY, HeaderValue::from_static(value));
            }
            request_id(&headers).map(String::from).map_err(|problem| problem.status())
        };
        assert_eq!(with(&["a-1"]), Ok("a-1".to_owned()));
        assert_eq!(with(&["\"a-1\""]), Ok("a-1".to_owned()));
        for invalid in [&[][..], &[""], &["\"\""], &["\"a"], &["a b"], &["a", "a"]] {
            assert_eq!(with(invalid), Err(400), "{invalid:?}");
        }
    }

    #[test]
    fn integers_may_be_written_with_a_fraction_of_zero() {
        let parse = |amount: &str| {
            let json = format!(
                r#"{{"eventId": "e", "couponKey": "C", "userId": "u", "orderId": "o", "orderAmount": {amount}}}"#
            );
            serde_json::from_str(&json).map(|request: CouponRequest| request.order_amount).map_err(drop)
        };
        assert_eq!(parse("12900"), Ok(Some(12_900)));
        assert_eq!(parse("12900.0"), Ok(Some(12_900)));
        assert_eq!(parse("100000000000000.0"), Ok(Some(MAX_ORDER_AMOUNT)));
        assert_eq!(parse("99999999999999.000000000000"), Ok(Some(MAX_ORDER_AMOUNT - 1)));
        assert_eq!(parse("null"), Ok(None));
        for invalid in ["12900.5", "-1", "-1.0", "1e300", "\"1\"", "true"] {
            assert_eq!(parse(invalid), Err(()), "{invalid}");
        }
    }

    #[test]
    fn hash_differs_for_every_field_that_determines_the_response() {
        let parsed = |coupon: &str, user: &str, order: &str, order_amount| Parsed {
            event: "summer".parse().unwrap(),
            coupon: coupon.parse().unwrap(),
            user: user.parse().unwrap(),
            order: Order { id: order.parse().unwrap(), amount: order_amount },
            seconds: 1,
        };
        let hashes = [
            parsed("A", "u", "o", None).hash(Change::Redeem),
            parsed("A", "u", "o", None).hash(Change::Release),
            parsed("A", "u", "o", None).hash(Change::Reserve { seconds: 1 }),
            parsed("A", "u", "o", None).hash(Change::Reserve { seconds: 2 }),
            parsed("B", "u", "o", None).hash(Change::Redeem),
            parsed("A", "v", "o", None).hash(Change::Redeem),
            parsed("A", "u", "p", None).hash(Change::Redeem),
            parsed("A", "u", "o", Some(0)).hash(Change::Redeem),
        ];
        let different: std::collections::HashSet<_> = hashes.iter().collect();
        assert_eq!(different.len(), hashes.len());
    }
}
