//! `GET /coupons/{eventId}`

use std::sync::Arc;

use axum::{Json, extract::State};
use couponry_domain::Verdict;
use couponry_redis::Observed;
use serde::Serialize;
use utoipa::ToSchema;

use super::{App, Params, event_id, no_answer, timestamp};
use crate::problem::Problem;

/// An event, as a user would want to see it.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct EventView {
    #[schema(example = "summer")]
    event_id: String,
    /// What a user without a coupon would be told now.
    state: EventState,
    /// From when on coupons are given (RFC 3339).
    #[schema(format = DateTime)]
    start_time: Option<String>,
    /// Until when (RFC 3339).
    #[schema(format = DateTime)]
    end_time: Option<String>,
    /// How many coupons there are in all.
    #[schema(example = 100_000)]
    total: u64,
    /// How many are left.
    #[schema(example = 58_210)]
    remaining: u64,
}

/// Where an event is.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum EventState {
    NotStarted,
    Open,
    Paused,
    SoldOut,
    Ended,
}

impl EventState {
    fn of(observed: &Observed) -> Self {
        match observed.window.verdict(observed.gate, observed.now) {
            Verdict::NotStarted => Self::NotStarted,
            Verdict::Ended => Self::Ended,
            Verdict::Paused => Self::Paused,
            Verdict::Open if observed.available == 0 => Self::SoldOut,
            Verdict::Open => Self::Open,
        }
    }
}

/// Window, state and what is left.
#[utoipa::path(
    get,
    path = "/coupons/{eventId}",
    params(("eventId" = String, Path, description = "The event", example = "summer")),
    responses(
        (status = 200, description = "The event", body = EventView),
        (status = 400, description = "No such name is possible", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such event", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "Too many requests of this user or address: nothing was done", body = Problem,
            content_type = "application/problem+json", headers(("Retry-After" = u32, description = "Seconds to wait"))),
        (status = 503, description = "No answer now: ask again", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn event(
    State(app): State<Arc<App>>,
    Params(event): Params<String>,
) -> Result<Json<EventView>, Problem> {
    let event = event_id(event)?;
    let found = app.stock.observe(&event).await.map_err(|error| no_answer(&error))?;
    let observed = app.trusted(&event, found, |observed| observed.is_verified)?;
    Ok(Json(EventView {
        event_id: event.into(),
        state: EventState::of(&observed),
        start_time: observed.window.start.map(timestamp),
        end_time: observed.window.end.map(timestamp),
        total: observed.loaded,
        remaining: observed.available,
    }))
}
