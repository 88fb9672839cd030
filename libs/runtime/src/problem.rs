//! Errors over HTTP: problem details, RFC 9457.

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

/// How long a client should wait before it asks again when nothing else was said, in seconds.
const RETRY_AFTER: u64 = 1;

/// Why a request was not answered (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
pub struct Problem {
    /// What kind of problem it is.
    #[schema(example = "urn:couponry:problem:invalid-request")]
    r#type: &'static str,
    /// The same in words.
    #[schema(example = "Invalid request")]
    title: &'static str,
    /// The HTTP status.
    #[schema(example = 400)]
    status: u16,
    /// What to change, or what to do now.
    #[schema(example = "userId is empty")]
    detail: String,
    /// Says how to sign in.
    #[serde(skip)]
    challenge: Option<&'static str>,
    /// Says when to ask again, in seconds.
    #[serde(skip)]
    retry_after: Option<u64>,
}

macro_rules! problems {
    ($($(#[$doc:meta])* $name:ident: $status:expr, $urn:literal, $title:literal;)*) => {
        impl Problem {
            $($(#[$doc])*
            #[must_use]
            pub fn $name(detail: impl Into<String>) -> Self {
                let r#type = concat!("urn:couponry:problem:", $urn);
                Self { r#type, title: $title, status: $status.as_u16(), detail: detail.into(), challenge: None, retry_after: None }
            })*
        }
    };
}

problems! {
    /// The request cannot be read or names what cannot be.
    invalid: StatusCode::BAD_REQUEST, "invalid-request", "Invalid request";
    /// Nobody knows who asks.
    unauthorized: StatusCode::UNAUTHORIZED, "unauthorized", "Not signed in";
    /// Who asks is known, and may not.
    forbidden: StatusCode::FORBIDDEN, "forbidden", "Not allowed";
    /// There is no such event, user or page.
    not_found: StatusCode::NOT_FOUND, "not-found", "Not found";
    /// It was there, and will not come back.
    gone: StatusCode::GONE, "gone", "No longer here";
    /// The page is not asked for in this way.
    method: StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "Method not allowed";
    /// The client took too long to send its request.
    slow: StatusCode::REQUEST_TIMEOUT, "request-timeout", "Request took too long";
    /// Something else is there already.
    conflict: StatusCode::CONFLICT, "conflict", "Already there";
    /// The body is too big.
    too_large: StatusCode::PAYLOAD_TOO_LARGE, "too-large", "Request too large";
    /// The body is not declared to be JSON.
    not_json: StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", "Not JSON";
    /// The request can be read, and breaks a rule.
    refused: StatusCode::UNPROCESSABLE_ENTITY, "refused", "Breaks a rule";
    /// Somebody asks more often than they may. Certainly nothing was done.
    too_often: StatusCode::TOO_MANY_REQUESTS, "too-many-requests", "Too many requests";
    /// The outcome is not known, or the service is too busy. The client should ask again.
    unavailable: StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Try again";
}

impl Problem {
    /// The HTTP status.
    #[must_use]
    pub const fn status(&self) -> u16 {
        self.status
    }

    /// Adds the header `WWW-Authenticate`, which says how to sign in: visible characters and spaces only.
    #[must_use]
    pub const fn with_challenge(mut self, challenge: &'static str) -> Self {
        self.challenge = Some(challenge);
        self
    }

    /// Adds the header `Retry-After`: the client should wait that long, in whole seconds that are rounded up.
    #[must_use]
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait.as_secs() + u64::from(wait.subsec_nanos() > 0));
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
        let default = (status == StatusCode::SERVICE_UNAVAILABLE).then_some(RETRY_AFTER);
        if let Some(seconds) = self.retry_after.or(default) {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if let Some(challenge) = self.challenge {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        response
    }
}
