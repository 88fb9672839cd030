//! `GET /coupons/{eventId}/users/{userId}`

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderName, header::CACHE_CONTROL},
};
use couponry_domain::{IssuedCoupon, IssuedRecord};
use couponry_redis::{IssuedEntry, IssuedStatus, Lookup};
use couponry_runtime::problem::Problem;
use serde::Serialize;
use utoipa::ToSchema;

use super::app::{App, DiscountTypeName, Params, parse_event, read_failed, timestamp, unknown_outcome, within};

/// A response about one user, which no cache may store.
type Private<T> = ([(HeaderName, &'static str); 1], Json<T>);

/// The coupon of a user.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct UserCoupon {
    #[schema(example = "summer")]
    event_id: String,
    #[schema(example = "u1")]
    user_id: String,
    #[schema(example = "SUMMER-7GK2M9QXW4TB")]
    coupon_key: String,
    /// The type of the discount.
    discount_type: DiscountTypeName,
    /// Percent, or minor units of the currency, such as cents.
    #[schema(example = 10)]
    discount_amount: u32,
    /// When the coupon was issued (RFC 3339 in UTC, with milliseconds).
    #[schema(format = DateTime, example = "2026-12-01T00:00:00.123Z")]
    issued_at: String,
    /// From when on the coupon is not valid any more (RFC 3339 in UTC, with milliseconds). Absent: unlimited.
    #[schema(format = DateTime, example = "2027-01-01T00:00:00.000Z")]
    #[serde(skip_serializing_if = "Option::is_none")]
    valid_until: Option<String>,
    /// Whether the issuance is recorded in the database.
    recorded: bool,
}

/// Get the coupon of a user.
#[utoipa::path(
    get,
    path = "/coupons/{eventId}/users/{userId}",
    params(
        ("eventId" = String, Path, description = "The event", example = "summer"),
        ("userId" = String, Path, description = "The user", example = "u1"),
    ),
    responses(
        (status = 200, description = "The coupon of the user", body = UserCoupon),
        (status = 400, description = "Invalid event or user id, or not the id of the authenticated user",
            body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "Authentication required", body = Problem,
            content_type = "application/problem+json"),
        (status = 404, description = "The event does not exist, or the user has no coupon", body = Problem,
            content_type = "application/problem+json"),
        (status = 410, description = "The coupon was voided, or the coupons were removed from Redis after the event",
            body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "Rate limit exceeded; the request was not processed", body = Problem,
            content_type = "application/problem+json", headers(("Retry-After" = u32, description = "Seconds to wait"))),
        (status = 503, description = "Temporarily unavailable; retry", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn user(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    Params((event, user)): Params<(String, String)>,
) -> Result<Private<UserCoupon>, Problem> {
    let event = parse_event(event)?;
    let user = app.authenticator.authenticate(&headers, Some(user)).await?;
    app.limits.check_user(&user)?;
    let read = async {
        let found = app.lookups.get(&event, user.clone()).await.map_err(|failure| read_failed(&event, failure))?;
        let Lookup { uid, installation, acknowledge, validity, is_retired, is_verified: _, entry } = found;
        let valid_until =
            validity.zip(entry.as_ref()).map(|(validity, entry)| validity.valid_until(entry.issued.issued_at));
        if let Some(entry) = entry.as_ref().filter(|entry| app.relay.must_resend(acknowledge, uid, entry)) {
            let (event_id, issued) = (event.clone(), entry.issued.clone());
            let record = IssuedRecord { event_id, event_uid: uid, issued, valid_until };
            app.relay.resend(&[record], installation).await.map_err(|_| unknown_outcome())?;
        }
        Ok((is_retired, entry, valid_until))
    };
    let (read, _) = within(app.response_timeout, read).await;
    let (is_retired, entry, valid_until) = read.unwrap_or_else(|| Err(unknown_outcome()))?;
    match entry {
        Some(IssuedEntry { issued, status: status @ (IssuedStatus::Pending | IssuedStatus::Completed) }) => {
            let IssuedCoupon { user_id: _, coupon, discount, issued_at } = issued;
            let body = UserCoupon {
                event_id: event.into(),
                user_id: user.into(),
                coupon_key: coupon.to_string(),
                discount_type: discount.kind.into(),
                discount_amount: discount.value,
                issued_at: timestamp(issued_at),
                valid_until: valid_until.map(timestamp),
                recorded: status == IssuedStatus::Completed,
            };
            Ok(([(CACHE_CONTROL, "private, no-store")], Json(body)))
        }
        Some(IssuedEntry { status: IssuedStatus::Voided, .. }) => {
            Err(Problem::gone(format!("the user's coupon of the event {event} was voided")))
        }
        None if is_retired => {
            Err(Problem::gone(format!("the event {event} has ended, and its coupons were removed from Redis")))
        }
        Some(IssuedEntry { status: IssuedStatus::Cancelled, .. }) | None => {
            Err(Problem::not_found(format!("the user has no coupon of the event {event}")))
        }
    }
}
