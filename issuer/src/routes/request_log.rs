//! Request ids, and the log of failed requests.

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderName, HeaderValue},
    middleware::Next,
    response::Response,
};
use couponry_domain::Uuid;
use tracing::{Instrument as _, Level};

use crate::client_ip::client_ip;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");
const MAX_ID_BYTES: usize = 128;
/// The target of the log of requests, which can be enabled on its own: `--log info,requests=debug`.
const TARGET: &str = "requests";

/// Copies the request id into the response, or generates one. Logs failed requests, if enabled.
pub(super) async fn with_request_id(State(trusted_proxies): State<u8>, mut request: Request, next: Next) -> Response {
    let headers = request.headers_mut();
    let id = match headers.get(REQUEST_ID).filter(|id| is_loggable(id)) {
        Some(id) => id.clone(),
        None => generate_id(),
    };
    let mut response = if tracing::enabled!(target: TARGET, Level::DEBUG) {
        log_failure(&id, trusted_proxies, request, next).await
    } else {
        next.run(request).await
    };
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

async fn log_failure(id: &HeaderValue, trusted_proxies: u8, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let traceparent = headers.get(TRACE_PARENT).filter(|value| is_loggable(value));
    let span = tracing::debug_span!(
        target: TARGET,
        "request",
        id = id.to_str().unwrap_or_default(),
        method = %request.method(),
        // The route, because the path contains the user.
        route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str),
        traceparent = traceparent.and_then(|value| value.to_str().ok()),
        client = client_ip(headers, trusted_proxies).map(tracing::field::display),
    );
    async move {
        let response = next.run(request).await;
        let status = response.status().as_u16();
        if status >= 400 {
            tracing::debug!(target: TARGET, status, "request failed");
        }
        response
    }
    .instrument(span)
    .await
}

/// Short and printable, so that a header cannot forge log entries.
fn is_loggable(value: &HeaderValue) -> bool {
    (1..=MAX_ID_BYTES).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic)
}

fn generate_id() -> HeaderValue {
    HeaderValue::from_str(&Uuid::new_v4().to_string()).unwrap_or(HeaderValue::from_static("none"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_id_is_short_and_printable() {
        let is_loggable = |id: &[u8]| is_loggable(&HeaderValue::from_bytes(id).unwrap());
        assert!(is_loggable(b"5f0c2a1e-id:1/2"));
        assert!(!is_loggable(b"") && !is_loggable(b"a b"));
        assert!(!is_loggable("\u{fc}".as_bytes()) && !is_loggable(&[b'x'; 129]));
        assert!(is_loggable(generate_id().as_bytes()));
    }
}
