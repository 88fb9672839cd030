//! The HTTP endpoint. `docs/reference/http-api.md` is its description for people, `/openapi.json` for machines.

mod document;
mod event;
mod issue;
pub(crate) mod request;
mod user;

#[cfg(any(test, fuzzing))]
pub use issue::read_issue_request;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Bytes,
    extract::{FromRequestParts, Path, rejection::PathRejection},
    http::{header::CONTENT_TYPE, request::Parts},
    middleware,
    routing::{get, post},
};
use couponry_domain::{EventName, identity::InvalidId};
use couponry_redis::{Stock, StockError};
use couponry_runtime::body;
use serde::de::DeserializeOwned;

pub(crate) use self::document::SignIn;
use crate::{
    batcher::Batchers,
    identity::Identity,
    limits::{self, Limits},
    metrics::Metrics,
    problem::Problem,
    relay::Relay,
    sightings::Sightings,
};

/// What the routes work with.
pub(crate) struct App {
    pub(crate) batchers: Batchers,
    pub(crate) relay: Relay,
    pub(crate) stock: Stock,
    pub(crate) sightings: Arc<Sightings>,
    pub(crate) identity: Identity,
    pub(crate) limits: Limits,
    pub(crate) metrics: Metrics,
    pub(crate) body_timeout: Duration,
    pub(crate) answer_timeout: Duration,
    /// How many proxies there are whose `X-Forwarded-For` can be believed.
    pub(crate) trusted_proxies: u8,
}

/// All routes.
pub(crate) fn router(app: Arc<App>) -> Router {
    let with_id = middleware::from_fn_with_state(app.trusted_proxies, request::with_id);
    let (limits, trusted_proxies) = (app.limits.clone(), app.trusted_proxies);
    // Written once: it is the largest answer, and anyone can ask for it.
    let document = Bytes::from(document::document(&app.identity.sign_in()).to_string());
    let router = Router::new()
        .route("/coupons/issue", post(issue::issue))
        .route("/coupons/{eventId}", get(event::event))
        .route("/coupons/{eventId}/users/{userId}", get(user::user))
        .route("/openapi.json", get(|| async { ([(CONTENT_TYPE, "application/json")], document) }))
        .fallback(|| async { Problem::not_found("there is no such page; see /openapi.json") })
        .method_not_allowed_fallback(|| async { Problem::method("see /openapi.json") })
        .with_state(app);
    let router = if limits.by_address() {
        router.layer(middleware::from_fn_with_state((limits, trusted_proxies), limits::by_address))
    } else {
        router
    };
    router.layer(with_id)
}

/// The parameters of a path, refused in our own words.
struct Params<T>(T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(params) = Path::<T>::from_request_parts(parts, state)
            .await
            .map_err(|rejection: PathRejection| Problem::invalid(rejection.body_text()))?;
        Ok(Self(params))
    }
}

fn event_id(text: String) -> Result<EventName, Problem> {
    text.try_into().map_err(|error: InvalidId| Problem::invalid(error.to_string()))
}

impl App {
    /// What the stock says of an event, if it is known to be all of it.
    fn trusted<T>(&self, event: &EventName, found: Option<T>, is_verified: impl Fn(&T) -> bool) -> Result<T, Problem> {
        match found {
            Some(found) if is_verified(&found) => Ok(found),
            Some(_) => Err(unverified()),
            None if self.sightings.saw_lately(event) => Err(unverified()),
            None => Err(unknown_event(event)),
        }
    }
}

fn unknown_event(event: &EventName) -> Problem {
    Problem::not_found(format!("there is no event {event}"))
}

fn unverified() -> Problem {
    Problem::unavailable("it is being made sure that no coupon is given twice; ask again")
}

/// A failed look at the stock changes nothing: the client can just ask again.
fn no_answer(error: &StockError) -> Problem {
    tracing::warn!(%error, "cannot answer");
    Problem::unavailable("the stock does not answer at the moment")
}

/// A point in time as HTTP shows it.
fn timestamp(millis: i64) -> String {
    jiff::Timestamp::from_millisecond(millis).map_or_else(|_| millis.to_string(), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_in_utc() {
        assert_eq!(timestamp(1_796_083_200_000), "2026-12-01T00:00:00Z");
    }
}
