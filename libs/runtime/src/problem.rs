//! HTTP error responses as problem details (RFC 9457).

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

/// `Retry-After` of a 503 response without a more specific value, in seconds.
const DEFAULT_RETRY_AFTER: u64 = 1;

/// An error response (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
pub struct Problem {
    /// The kind of problem.
    #[schema(example = "urn:couponry:problem:invalid-request")]
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
    /// The header `WWW-Authenticate`.
    #[serde(skip)]
    challenge: Option<&'static str>,
    /// The header `Retry-After`, in seconds.
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
                let (title, status, detail) = ($title, $status.as_u16(), detail.into());
                Self { r#type, title, status, detail, challenge: None, retry_after: None }
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

    /// Replaces the type and its summary by more specific ones.
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

    /// Adds the header `Retry-After`, rounded up to seconds.
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
        // The same request may succeed next time.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::REQUEST_TIMEOUT {
            // The rest of the body would be parsed as the next request.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        let default = (status == StatusCode::SERVICE_UNAVAILABLE).then_some(DEFAULT_RETRY_AFTER);
        if let Some(seconds) = self.retry_after.or(default) {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if let Some(challenge) = self.challenge {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        response
    }
}
