//! The state that the routes share, and what several of them need.

use std::time::Duration;

use axum::{
    extract::{FromRequestParts, Path, rejection::PathRejection},
    http::request::Parts,
};
use couponry_domain::{DiscountType, EventName, names::InvalidId};
use couponry_runtime::problem::Problem;
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::{self, Instant};
use utoipa::ToSchema;

use crate::{
    authentication::Authenticator, event_cache::EventCache, issuing::IssueQueues, lookups::Lookups, metrics::Metrics,
    rate_limits::RateLimits, read_failure::ReadFailure, relay::Relay,
};

/// The state that the routes share.
pub(crate) struct App {
    pub(crate) issue_queues: IssueQueues,
    pub(crate) relay: Relay,
    pub(crate) lookups: Lookups,
    pub(crate) event_cache: EventCache,
    pub(crate) authenticator: Authenticator,
    pub(crate) limits: RateLimits,
    pub(crate) metrics: Metrics,
    pub(crate) body_timeout: Duration,
    pub(crate) response_timeout: Duration,
    /// Number of proxies whose entries in `X-Forwarded-For` are trusted.
    pub(crate) trusted_proxies: u8,
}

/// The type of a discount.
#[derive(Serialize, ToSchema)]
#[schema(as = DiscountType)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum DiscountTypeName {
    Percent,
    Amount,
}

impl From<DiscountType> for DiscountTypeName {
    fn from(kind: DiscountType) -> Self {
        match kind {
            DiscountType::Percent => Self::Percent,
            DiscountType::Amount => Self::Amount,
        }
    }
}

/// The parameters of a path. Invalid ones are rejected with a [`Problem`].
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(params) = Path::<T>::from_request_parts(parts, state)
            .await
            .map_err(|rejection: PathRejection| Problem::invalid(rejection.body_text()))?;
        Ok(Self(params))
    }
}

/// Waits at most this long, and also returns how long it has waited. A result that is available only later is
/// discarded: a process that was frozen sees it before it sees that the time is over. A recovery of Redis assumes
/// that no coupon is returned later than `--response-timeout-seconds` after the request.
pub(super) async fn within<T>(timeout: Duration, result: impl Future<Output = T>) -> (Option<T>, Duration) {
    let start = Instant::now();
    let result = time::timeout_at(start + timeout, result).await.ok();
    let duration = start.elapsed();
    (result.filter(|_| duration <= timeout), duration)
}

pub(super) fn parse_event(text: String) -> Result<EventName, Problem> {
    text.try_into().map_err(|error: InvalidId| Problem::invalid(error.to_string()))
}

pub(super) fn unknown_event(event: &EventName) -> Problem {
    Problem::not_found(format!("the event {event} does not exist"))
}

pub(super) fn unverified() -> Problem {
    Problem::unavailable("The event is unavailable while Redis is verified after a restart. Retry later.")
        .with_cause("unverified")
}

pub(super) fn undecodable() -> Problem {
    Problem::unavailable("The coupon of this user cannot be read. Retry later, or contact the administrator.")
        .with_cause("undecodable")
}

pub(super) fn unknown_outcome() -> Problem {
    Problem::unavailable("The outcome is unknown: a coupon may have been issued. Retry to get the outcome.")
        .with_cause("unknown_outcome")
}

/// The response to a failed read, which can be repeated.
pub(super) fn read_failed(event: &EventName, failure: ReadFailure) -> Problem {
    Problem::unavailable(match failure {
        ReadFailure::UnknownEvent => return unknown_event(event),
        ReadFailure::Unverified => return unverified(),
        ReadFailure::InvalidValue => {
            "The data of this event cannot be read. Retry later, or contact the administrator."
        }
        ReadFailure::Unavailable => "Redis is unavailable. Retry later.",
        ReadFailure::Overloaded => "Too many requests are waiting. Retry later.",
    })
}

/// A point in time in RFC 3339, always with milliseconds.
pub(super) fn timestamp(millis: i64) -> String {
    jiff::Timestamp::from_millisecond(millis).map_or_else(|_| millis.to_string(), |time| format!("{time:.3}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn result_after_the_timeout_is_discarded() {
        let timeout = Duration::from_millis(20);
        assert_eq!(within(Duration::from_hours(1), async { 1 }).await.0, Some(1));
        assert_eq!(within(timeout, std::future::pending::<()>()).await.0, None);
        // As after a freeze of the process: the timer is polled after the result.
        let frozen = async { std::thread::sleep(2 * timeout) };
        assert_eq!(within(timeout, frozen).await.0, None);
    }

    #[test]
    fn timestamp_is_in_utc_with_milliseconds() {
        assert_eq!(timestamp(1_796_083_200_000), "2026-12-01T00:00:00.000Z");
        assert_eq!(timestamp(1_796_083_200_120), "2026-12-01T00:00:00.120Z");
    }
}
