//! `GET /coupons/{eventId}`

use std::{
    hash::{DefaultHasher, Hash, Hasher as _},
    sync::Arc,
};

use axum::{
    Json,
    extract::State,
    http::{
        HeaderMap, HeaderName, StatusCode,
        header::{CACHE_CONTROL, ETAG, IF_NONE_MATCH},
    },
    response::{IntoResponse as _, Response},
};
use couponry_domain::{EventName, WindowState};
use couponry_runtime::problem::Problem;
use serde::Serialize;
use utoipa::ToSchema;

use super::app::{App, Params, parse_event, read_failed, timestamp};
use crate::event_cache::EventSnapshot;

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
    /// When the last available coupon was issued (RFC 3339 in UTC, with milliseconds). Null: coupons are available, or
    /// the time is not known any more.
    #[schema(format = DateTime, example = "2026-12-01T00:00:41.500Z")]
    sold_out_at: Option<String>,
    /// When the next coupons become available (RFC 3339 in UTC, with milliseconds). Null: no time is set.
    #[schema(format = DateTime, example = "2026-12-01T01:00:00.000Z")]
    next_drop_at: Option<String>,
    /// The clock that decides, at the time of the response (RFC 3339 in UTC, with milliseconds). It is never ahead.
    #[schema(format = DateTime, example = "2026-12-01T00:00:07.123Z")]
    server_time: String,
}

/// The state of an event.
#[derive(Debug, Hash, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum EventState {
    NotStarted,
    Open,
    Paused,
    SoldOut,
    Ended,
}

impl EventView {
    /// The event at `now`, by the clock of Redis.
    fn of(event: EventName, snapshot: &EventSnapshot, now: i64) -> Self {
        let observed = &snapshot.observed;
        let state = match observed.window.state(observed.gate, now) {
            WindowState::NotStarted => EventState::NotStarted,
            WindowState::Ended => EventState::Ended,
            WindowState::Paused => EventState::Paused,
            WindowState::Open if observed.available_at(now) == 0 => EventState::SoldOut,
            WindowState::Open => EventState::Open,
        };
        // After the end, no more coupons become available.
        let next_drop = observed.release.drops.next_at(now).filter(|_| state != EventState::Ended);
        Self {
            event_id: event.into(),
            state,
            start_time: observed.window.start.map(timestamp),
            end_time: observed.window.end.map(timestamp),
            total: observed.loaded,
            remaining: observed.available_at(now),
            sold_out_at: observed.sold_out_at.map(timestamp),
            next_drop_at: next_drop.map(timestamp),
            server_time: timestamp(now),
        }
    }

    /// The same for all views of one second that differ in `serverTime` only. So it is a weak one. Caches keep the body
    /// that they have while the tag matches: over longer times, clients would receive an old `serverTime`.
    fn etag(&self, now: i64) -> String {
        let mut hasher = DefaultHasher::new();
        now.div_euclid(1000).hash(&mut hasher);
        (&self.event_id, &self.state, &self.start_time, &self.end_time, self.total).hash(&mut hasher);
        (self.remaining, &self.sold_out_at, &self.next_drop_at).hash(&mut hasher);
        format!("W/\"{:016x}\"", hasher.finish())
    }
}

/// Get the window, the state and the counts of an event.
#[utoipa::path(
    get,
    path = "/coupons/{eventId}",
    params(("eventId" = String, Path, description = "The event", example = "summer")),
    responses(
        (status = 200, description = "The event", body = EventView,
            headers(("ETag" = String, description = "For `If-None-Match`"))),
        (status = 304, description = "The event has not changed since the response with this `ETag`"),
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
    headers: HeaderMap,
    Params(event): Params<String>,
) -> Result<Response, Problem> {
    view(&app, &headers, event).await
}

/// Get the event with the name `issue`, whose path is also that of another operation.
#[utoipa::path(
    get,
    path = "/coupons/issue",
    responses(
        (status = 200, description = "The event", body = EventView,
            headers(("ETag" = String, description = "For `If-None-Match`"))),
        (status = 304, description = "The event has not changed since the response with this `ETag`"),
        (status = 404, description = "The event does not exist", body = Problem,
            content_type = "application/problem+json"),
        (status = 429, description = "Rate limit exceeded; the request was not processed", body = Problem,
            content_type = "application/problem+json", headers(("Retry-After" = u32, description = "Seconds to wait"))),
        (status = 503, description = "Temporarily unavailable; retry", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn event_named_issue(State(app): State<Arc<App>>, headers: HeaderMap) -> Result<Response, Problem> {
    view(&app, &headers, "issue".to_owned()).await
}

async fn view(app: &App, headers: &HeaderMap, event: String) -> Result<Response, Problem> {
    let event = parse_event(event)?;
    let snapshot = app.event_cache.get(&event).await.map_err(|failure| read_failed(&event, failure))?;
    let now = snapshot.now();
    let view = EventView::of(event, &snapshot, now);
    let etag = view.etag(now);
    let is_unchanged = matches(headers, &etag);
    let headers: [(HeaderName, _); 2] = [(CACHE_CONTROL, "public, max-age=1".to_owned()), (ETAG, etag)];
    Ok(if is_unchanged {
        (StatusCode::NOT_MODIFIED, headers).into_response()
    } else {
        (headers, Json(view)).into_response()
    })
}

/// Whether `If-None-Match` contains the weak tag (RFC 9110, 13.1.2).
fn matches(headers: &HeaderMap, etag: &str) -> bool {
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let lines = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|tag| tag.trim() == "*" || opaque(tag) == opaque(etag))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn if_none_match_is_compared_weakly() {
        let with = |values: &[&'static str]| {
            let values = values.iter().map(|value| (IF_NONE_MATCH, HeaderValue::from_static(value)));
            matches(&values.collect(), "W/\"a\"")
        };
        for same in [&["W/\"a\""][..], &["\"a\""], &["*"], &["\"b\",W/\"a\""], &["\"b\"", "\"a\""]] {
            assert!(with(same), "{same:?}");
        }
        for other in [&[][..], &["W/\"b\""], &["a"], &["W/\"a"]] {
            assert!(!with(other), "{other:?}");
        }
    }
}
