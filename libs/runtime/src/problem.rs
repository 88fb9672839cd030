//! HTTP error responses as problem details (RFC 9457).

use std::{ops::RangeInclusive, time::Duration};

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Serialize, Serializer};
use utoipa::ToSchema;

/// The address of the pages about the types of problems (`docs/reference/problems`).
const BASE_URL: &str = "https://couponry.dev/problems/";
/// The wait before a retry after a 503 response without a more specific value, in milliseconds.
const DEFAULT_RETRY_AFTER_MS: RangeInclusive<u64> = 500..=2500;
/// How much is added to a specific wait: at most a quarter of it, within these limits, in milliseconds.
const MIN_JITTER_MS: u64 = 500;
const MAX_JITTER_MS: u64 = 5000;

/// An error response (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
pub struct Problem {
    /// The kind of problem, which is stable: the address of a page about it.
    #[serde(serialize_with = "serialize_type")]
    #[schema(value_type = String, format = "uri", example = "https://couponry.dev/problems/invalid-request")]
    r#type: &'static str,
    /// A summary of the kind of problem.
    #[schema(example = "Invalid request")]
    title: &'static str,
    /// The HTTP status code.
    #[schema(example = 400)]
    status: u16,
    /// What is wrong with this request, and how to correct it.
    #[schema(example = "userId is empty")]
    detail: String,
    /// The cause, for metrics.
    #[serde(skip)]
    cause: Option<&'static str>,
    /// The header `WWW-Authenticate`.
    #[serde(skip)]
    challenge: Option<&'static str>,
    /// How long to wait before a retry, in milliseconds: with 429 and 503 only. The header `Retry-After` is the same
    /// time in seconds, rounded up. It differs randomly, so that clients that failed together do not return together.
    #[serde(rename = "retryAfterMs", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = u64, required = false, example = 1_370)]
    retry_after_ms: Option<u64>,
}

fn serialize_type<S: Serializer>(name: &&'static str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{BASE_URL}{name}"))
}

macro_rules! problems {
    ($($(#[$doc:meta])* $name:ident: $status:expr, $type:literal, $title:literal;)*) => {
        impl Problem {
            $($(#[$doc])*
            #[must_use]
            pub fn $name(detail: impl Into<String>) -> Self {
                let retry_after_ms = ($status == StatusCode::SERVICE_UNAVAILABLE
                    || $status == StatusCode::TOO_MANY_REQUESTS)
                    .then(|| rand::random_range(DEFAULT_RETRY_AFTER_MS));
                let (title, status, detail) = ($title, $status.as_u16(), detail.into());
                Self { r#type: $type, title, status, detail, cause: None, challenge: None, retry_after_ms }
            })*
        }
    };
}

problems! {
    /// The request is malformed or contains an invalid name.
    invalid: StatusCode::BAD_REQUEST, "invalid-request", "Invalid request";
    /// The request is not authenticated.
    unauthorized: StatusCode::UNAUTHORIZED, "unauthorized", "Authentication required";
    /// The authenticated user lacks a permission.
    forbidden: StatusCode::FORBIDDEN, "forbidden", "Permission denied";
    /// The event, user or path does not exist.
    not_found: StatusCode::NOT_FOUND, "not-found", "Not found";
    /// The resource was removed permanently.
    gone: StatusCode::GONE, "gone", "No longer available";
    /// The path does not support this method.
    method_not_allowed: StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "Method not allowed";
    /// The request was not received in time.
    request_timeout: StatusCode::REQUEST_TIMEOUT, "request-timeout", "Request timeout";
    /// The request conflicts with an existing resource.
    conflict: StatusCode::CONFLICT, "conflict", "Conflict";
    /// The request body is too large.
    too_large: StatusCode::PAYLOAD_TOO_LARGE, "too-large", "Request body too large";
    /// The request line and the headers are too large.
    head_too_large: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "head-too-large", "Request head too large";
    /// The request body is not declared as JSON.
    unsupported_media_type: StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", "Unsupported media type";
    /// The request is well-formed but violates a validation rule.
    unprocessable: StatusCode::UNPROCESSABLE_ENTITY, "refused", "Validation failed";
    /// A rate limit was exceeded. The request was not processed.
    too_many_requests: StatusCode::TOO_MANY_REQUESTS, "too-many-requests", "Too many requests";
    /// The outcome is unknown, or the service is overloaded. The client should retry.
    unavailable: StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Service unavailable";
}

impl Problem {
    /// The HTTP status code.
    #[must_use]
    pub const fn status(&self) -> u16 {
        self.status
    }

    /// The cause of the problem for metrics, if it was set.
    #[must_use]
    pub const fn cause(&self) -> Option<&'static str> {
        self.cause
    }

    /// Sets the cause for metrics: clients do not receive it.
    #[must_use]
    pub const fn with_cause(mut self, cause: &'static str) -> Self {
        self.cause = Some(cause);
        self
    }

    /// Replaces the type and its summary by more specific ones. The type is the name of its page.
    #[must_use]
    pub const fn with_type(mut self, r#type: &'static str, title: &'static str) -> Self {
        self.r#type = r#type;
        self.title = title;
        self
    }

    /// Adds the header `WWW-Authenticate`. The challenge must consist of visible ASCII characters and spaces.
    #[must_use]
    pub const fn with_challenge(mut self, challenge: &'static str) -> Self {
        self.challenge = Some(challenge);
        self
    }

    /// Asks the client to wait for at least this time. Some of them wait a little longer, by chance.
    #[must_use]
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        let millis = u64::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
        let jitter = (millis / 4).clamp(MIN_JITTER_MS, MAX_JITTER_MS);
        self.retry_after_ms = Some(millis.saturating_add(rand::random_range(0..=jitter)));
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (status, Body::from(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        // The same request may succeed next time.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::REQUEST_TIMEOUT {
            // The rest of the body would be parsed as the next request.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(millis) = self.retry_after_ms {
            headers.insert(header::RETRY_AFTER, millis.div_ceil(1000).into());
        }
        if let Some(challenge) = self.challenge {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// The wait in milliseconds, and the header in seconds.
    fn waits(problem: &Problem, response: &Response) -> (u64, u64) {
        let seconds = response.headers()[header::RETRY_AFTER].to_str().unwrap().parse().unwrap();
        let json = serde_json::to_value(problem).unwrap();
        assert_eq!(json["retryAfterMs"].as_u64(), problem.retry_after_ms);
        (problem.retry_after_ms.unwrap(), seconds)
    }

    fn respond(create: impl Fn() -> Problem) -> Vec<(u64, u64)> {
        let respond = |_| {
            let (body, response) = (create(), create());
            let body = Problem { retry_after_ms: response.retry_after_ms, ..body };
            waits(&body, &response.into_response())
        };
        (0..200).map(respond).collect()
    }

    #[test]
    fn retry_after_differs_from_response_to_response_and_is_never_too_early() {
        let minimum = Duration::from_micros(6_500_500);
        for (all, range) in [
            (respond(|| Problem::unavailable("x")), DEFAULT_RETRY_AFTER_MS),
            (respond(|| Problem::too_many_requests("x")), DEFAULT_RETRY_AFTER_MS),
            (respond(|| Problem::too_many_requests("x").with_retry_after(minimum)), 6501..=8126),
            (respond(|| Problem::unavailable("x").with_retry_after(Duration::ZERO)), 0..=500),
        ] {
            assert!(all.iter().all(|(millis, _)| range.contains(millis)), "{all:?}");
            assert!(all.iter().all(|(millis, seconds)| *seconds == millis.div_ceil(1000)), "{all:?}");
            assert!(all.iter().map(|(millis, _)| millis).collect::<HashSet<_>>().len() > 10, "{all:?}");
        }
        let long = respond(|| Problem::too_many_requests("x").with_retry_after(Duration::from_secs(1000)));
        assert!(long.iter().all(|(millis, _)| (1_000_000..=1_005_000).contains(millis)), "{long:?}");
        assert_eq!(Problem::invalid("x").retry_after_ms, None);
        assert!(!Problem::invalid("x").into_response().headers().contains_key(header::RETRY_AFTER));
    }

    #[test]
    fn type_is_an_address() {
        let problem = Problem::not_found("x").with_type("unknown-event", "Unknown event");
        let json = serde_json::to_string(&problem).unwrap();
        assert_eq!(
            json,
            r#"{"type":"https://couponry.dev/problems/unknown-event","title":"Unknown event","status":404,"detail":"x"}"#
        );
    }
}
