//! `GET /coupons/{eventId}/users/{userId}`

use std::sync::Arc;

use axum::{Json, extract::State, http::HeaderMap};
use couponry_redis::{Holding, Lookup, Status};
use serde::Serialize;
use tokio::time;
use utoipa::ToSchema;

use super::{App, Params, event_id, no_answer, timestamp};
use crate::problem::Problem;

/// The coupon that a user holds.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct UserCoupon {
    #[schema(example = "summer")]
    event_id: String,
    #[schema(example = "u1")]
    user_id: String,
    #[schema(example = "SUMMER-7GK2M9QXW4TB")]
    coupon_key: String,
    /// PERCENT or AMOUNT.
    #[schema(example = "PERCENT")]
    discount_type: &'static str,
    /// Percent points, or units of currency.
    #[schema(example = 10)]
    discount_amount: u32,
    /// When it was issued (RFC 3339).
    #[schema(format = DateTime)]
    issued_at: String,
    /// Whether the database has it already. It is the user's either way.
    recorded: bool,
}

/// What a user holds.
#[utoipa::path(
    get,
    path = "/coupons/{eventId}/users/{userId}",
    params(("eventId" = String, Path, description = "The event", example = "summer"), ("userId" = String, Path, description = "The user", example = "u1")),
    responses(
        (status = 200, description = "The user's coupon", body = UserCoupon),
        (status = 400, description = "No such name is possible", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "Nobody is signed in", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such event, or the user has no coupon of it", body = Problem,
            content_type = "application/problem+json"),
        (status = 410, description = "The event is over, and what its users held is no longer kept here", body = Problem,
            content_type = "application/problem+json"),
        (status = 429, description = "Too many requests of this user or address: nothing was done", body = Problem,
            content_type = "application/problem+json", headers(("Retry-After" = u32, description = "Seconds to wait"))),
        (status = 503, description = "No answer now: ask again", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn user(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    Params((event, user)): Params<(String, String)>,
) -> Result<Json<UserCoupon>, Problem> {
    let event = event_id(event)?;
    let user = app.identity.user(&headers, Some(user)).await?;
    app.limits.user(&user)?;
    let found = app.stock.lookup(&event, &user).await.map_err(|error| no_answer(&error))?;
    let Lookup { uid, acknowledge, is_retired, is_verified: _, holding } =
        app.trusted(&event, found, |lookup| lookup.is_verified)?;
    if let Some(holding) = holding.as_ref().filter(|holding| app.relay.must_confirm(acknowledge, uid, holding)) {
        let sent = app.relay.confirm(&[holding.record(&event, uid, &user)]);
        let confirmed = time::timeout(app.answer_timeout, sent).await;
        if !matches!(confirmed, Ok(Ok(()))) {
            return Err(Problem::unavailable("it is not known yet whether you have a coupon; ask again to learn it"));
        }
    }
    match holding {
        Some(Holding { coupon, discount, issued_at, status: status @ (Status::Pending | Status::Completed) }) => {
            Ok(Json(UserCoupon {
                event_id: event.into(),
                user_id: user.into(),
                coupon_key: coupon.to_string(),
                discount_type: discount.kind.as_str(),
                discount_amount: discount.value,
                issued_at: timestamp(issued_at),
                recorded: status == Status::Completed,
            }))
        }
        None if is_retired => {
            Err(Problem::gone(format!("{event} is over, and what its users held is no longer kept here")))
        }
        Some(Holding { status: Status::Cancelled, .. }) | None => {
            Err(Problem::not_found(format!("this user has no coupon of {event}")))
        }
    }
}
