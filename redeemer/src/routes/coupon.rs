//! `GET /redemptions/{eventId}/{couponKey}`

use std::sync::Arc;

use axum::{
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
    http::HeaderMap,
};
use couponry_domain::redemption::{CouponUse, UseKind};
use couponry_runtime::Problem;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::app::{App, StateName, Terms, Uncached, parse_coupon, parse_event, parse_user, state};
use crate::problems::{lookup_failed, timestamp, unknown_coupon};

/// The query parameters.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Params {
    user_id: Option<String>,
}

/// A coupon and its history.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CouponView {
    #[schema(example = "summer")]
    event_id: String,
    #[schema(example = "SUMMER-7GK2M9QXW4TB")]
    coupon_key: String,
    /// The holder.
    #[schema(example = "u1")]
    user_id: String,
    /// The state of the coupon.
    state: StateName,
    /// When the reservation ends (RFC 3339 in UTC, with milliseconds).
    #[schema(format = DateTime, example = "2026-12-01T00:15:00.000Z")]
    reserved_until: Option<String>,
    #[serde(flatten)]
    terms: Terms,
    /// When the coupon was issued (RFC 3339 in UTC, with milliseconds).
    #[schema(format = DateTime, example = "2026-12-01T00:00:00.123Z")]
    issued_at: String,
    /// The changes in their order: at most the last 1000.
    history: Vec<HistoryEntry>,
}

/// A change of a coupon.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct HistoryEntry {
    /// The number of the change, from 1.
    #[schema(example = 1)]
    seq: u32,
    /// The change.
    kind: UseKindName,
    /// The order.
    #[schema(example = "order-1001")]
    order_id: Option<String>,
    /// When the reservation ends (RFC 3339 in UTC, with milliseconds).
    #[schema(format = DateTime, example = "2026-12-01T00:15:00.000Z")]
    reserved_until: Option<String>,
    /// When the coupon was changed (RFC 3339 in UTC, with milliseconds).
    #[schema(format = DateTime, example = "2026-12-01T00:00:00.000Z")]
    at: String,
    /// The caller, if callers are authenticated.
    #[schema(example = "system:serviceaccount:shop:checkout")]
    caller: Option<String>,
}

/// A kind of change.
#[derive(Serialize, ToSchema)]
#[schema(as = UseKind)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum UseKindName {
    Reserved,
    Redeemed,
    Released,
    Voided,
}

impl From<UseKind> for UseKindName {
    fn from(kind: UseKind) -> Self {
        match kind {
            UseKind::Reserved => Self::Reserved,
            UseKind::Redeemed => Self::Redeemed,
            UseKind::Released => Self::Released,
            UseKind::Voided => Self::Voided,
        }
    }
}

/// Get the state and the history of a coupon.
#[utoipa::path(
    get,
    path = "/redemptions/{eventId}/{couponKey}",
    params(
        ("eventId" = String, Path, description = "The event", example = "summer"),
        ("couponKey" = String, Path, description = "The coupon", example = "SUMMER-7GK2M9QXW4TB"),
        ("userId" = Option<String>, Query, example = "u1",
            description = "The holder. With it, a coupon is found that was issued and is not recorded yet"),
    ),
    responses(
        (status = 200, description = "The coupon", body = CouponView),
        (status = 400, description = "The request is invalid", body = Problem,
            content_type = "application/problem+json"),
        (status = 401, description = "Authentication required", body = Problem,
            content_type = "application/problem+json"),
        (status = 403, description = "The caller must not redeem coupons of the event", body = Problem,
            content_type = "application/problem+json"),
        (status = 404, description = "The event does not exist, or has not issued the coupon (to the user)",
            body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Temporarily unavailable; retry", body = Problem,
            content_type = "application/problem+json", headers(("Retry-After" = u32, description = "Seconds to wait"))),
    )
)]
pub(super) async fn coupon(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    path: Result<Path<(String, String)>, PathRejection>,
    query: Result<Query<Params>, QueryRejection>,
) -> Result<Uncached<CouponView>, Problem> {
    app.respond("get", async {
        let Path((event, code)) = path.map_err(|rejection| Problem::invalid(rejection.body_text()))?;
        let Query(Params { user_id }) = query.map_err(|rejection| Problem::invalid(rejection.body_text()))?;
        let (event, code, user) = (parse_event(event)?, parse_coupon(&code)?, user_id.map(parse_user).transpose()?);
        app.authenticator.authorize(&headers, &event).await?;
        let mut found = app.redemptions.find(&event, &code, user.as_ref()).await?;
        if user.is_some_and(|user| user != found.history.coupon.issued.user_id) {
            return Err(unknown_coupon());
        }
        let history = Box::pin(app.redemptions.database.coupon_history(found.uid, &code)).await;
        let history = history.map_err(lookup_failed)?;
        // The history was read later than the coupon. It is empty if the event was deleted in between.
        let seq = |last: Option<&CouponUse>| last.map_or(0, |entry| entry.seq);
        let last = history.last().map(|(entry, _)| entry);
        if seq(last) > seq(found.history.last.as_ref()) {
            found.history.last = last.cloned();
        }
        let (state, reserved_until) = state(&found.state());
        let coupon = found.history.coupon;
        let entries = history.into_iter().map(|(entry, caller)| HistoryEntry {
            seq: entry.seq,
            kind: entry.kind.into(),
            order_id: entry.order.map(String::from),
            reserved_until: entry.until.map(timestamp),
            at: timestamp(entry.at),
            caller,
        });
        Ok(CouponView {
            event_id: event.into(),
            coupon_key: code.to_string(),
            user_id: coupon.issued.user_id.as_str().to_owned(),
            state,
            reserved_until,
            issued_at: timestamp(coupon.issued.issued_at),
            terms: Terms::of(coupon),
            history: entries.collect(),
        })
    })
    .await
}
