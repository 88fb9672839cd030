//! `GET /coupons/{eventId}`

use std::sync::Arc;

use axum::{Json, extract::State};
use couponry_domain::WindowState;
use couponry_redis::RedisEvent;
use couponry_runtime::problem::Problem;
use serde::Serialize;
use utoipa::ToSchema;

use super::app::{App, Params, parse_event, read_failed, timestamp};

/// An event.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct EventView {
    #[schema(example = "summer")]
    event_id: String,
    /// The result that a user without a coupon would get now.
    state: EventState,
    /// When issuing starts (RFC 3339 in UTC, with milliseconds).
    #[schema(format = DateTime, example = "2026-12-01T00:00:00.000Z")]
    start_time: Option<String>,
    /// When issuing ends (RFC 3339 in UTC, with milliseconds).
    #[schema(format = DateTime, example = "2026-12-02T00:00:00.000Z")]
    end_time: Option<String>,
    /// Number of loaded coupons.
    #[schema(example = 100_000)]
    total: u64,
    /// Number of coupons that are available now.
    #[schema(example = 58_210)]
    remaining: u64,
    /// When the next coupons become available (RFC 3339 in UTC, with milliseconds). Null: no time is set.
    #[schema(format = DateTime, example = "2026-12-01T01:00:00.000Z")]
    next_drop_at: Option<String>,
}

/// The state of an event.
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
    fn of(observed: &RedisEvent) -> Self {
        match observed.window.state(observed.gate, observed.now) {
            WindowState::NotStarted => Self::NotStarted,
            WindowState::Ended => Self::Ended,
            WindowState::Paused => Self::Paused,
            WindowState::Open if observed.available_at(observed.now) == 0 => Self::SoldOut,
            WindowState::Open => Self::Open,
        }
    }
}

/// Get the window, the state and the counts of an event.
#[utoipa::path(
    get,
    path = "/coupons/{eventId}",
    params(("eventId" = String, Path, description = "The event", example = "summer")),
    responses(
        (status = 200, description = "The event", body = EventView),
        (status = 400, description = "The eventId is not a valid name", body = Problem,
            content_type = "application/problem+json"),
        (status = 404, description = "The event does not exist", body = Problem,
            content_type = "application/problem+json"),
        (status = 429, description = "Rate limit exceeded; the request was not processed", body = Problem,
            content_type = "application/problem+json", headers(("Retry-After" = u32, description = "Seconds to wait"))),
        (status = 503, description = "Temporarily unavailable; retry", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn event(
    State(app): State<Arc<App>>,
    Params(event): Params<String>,
) -> Result<Json<EventView>, Problem> {
    view(&app, event).await
}

/// Get the event with the name `issue`, whose path is also that of another operation.
#[utoipa::path(
    get,
    path = "/coupons/issue",
    responses(
        (status = 200, description = "The event", body = EventView),
        (status = 404, description = "The event does not exist", body = Problem,
            content_type = "application/problem+json"),
        (status = 429, description = "Rate limit exceeded; the request was not processed", body = Problem,
            content_type = "application/problem+json", headers(("Retry-After" = u32, description = "Seconds to wait"))),
        (status = 503, description = "Temporarily unavailable; retry", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn event_named_issue(State(app): State<Arc<App>>) -> Result<Json<EventView>, Problem> {
    view(&app, "issue".to_owned()).await
}

async fn view(app: &App, event: String) -> Result<Json<EventView>, Problem> {
    let event = parse_event(event)?;
    let found = app.redis_store.observe(&event).await.map_err(read_failed)?;
    let observed = app.verified(&event, found, |observed| observed.is_verified).await?;
    Ok(Json(EventView {
        event_id: event.into(),
        state: EventState::of(&observed),
        start_time: observed.window.start.map(timestamp),
        end_time: observed.window.end.map(timestamp),
        total: observed.loaded,
        remaining: observed.available_at(observed.now),
        next_drop_at: observed.release.drops.next_at(observed.now).map(timestamp),
    }))
}
