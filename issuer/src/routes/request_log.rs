//! The log of failed requests.

use axum::{
    extract::{MatchedPath, Request, State},
    http::HeaderName,
    middleware::Next,
    response::Response,
};
use couponry_runtime::http::{REQUEST_ID, is_loggable};
use tracing::{Instrument as _, Level};

use crate::client_ip::client_ip;

const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");
/// The target of the log of requests, which can be enabled on its own: `--log info,requests=debug`.
const TARGET: &str = "requests";

/// Whether failed requests are logged.
pub(super) fn is_enabled() -> bool {
    tracing::enabled!(target: TARGET, Level::DEBUG)
}

/// Logs a request that fails.
pub(super) async fn log_failure(State(trusted_proxies): State<u8>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let text = |name| headers.get(name).filter(|value| is_loggable(value)).and_then(|value| value.to_str().ok());
    let span = tracing::debug_span!(
        target: TARGET,
        "request",
        id = text(REQUEST_ID),
        method = %request.method(),
        // The route, because the path contains the user.
        route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str),
        traceparent = text(TRACE_PARENT),
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
