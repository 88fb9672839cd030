//! What belongs to a request and not to what it asks for: its id, and in the log who sent it.

use std::net::{IpAddr, SocketAddr};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue},
    middleware::Next,
    response::Response,
};
use couponry_domain::Uuid;
use tracing::{Instrument as _, Level, Span};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");
const MAX_ID: usize = 128;
/// The log of requests has a name of its own, so that it can be had alone: `--log info,requests=debug`.
const TARGET: &str = "requests";

/// Answers with the id that the request came with, or a new one. Requests that fail are logged, if somebody wants to know.
pub(super) async fn with_id(State(trusted_proxies): State<u8>, mut request: Request, next: Next) -> Response {
    let headers = request.headers_mut();
    let id = match headers.get(REQUEST_ID).filter(|id| is_sound(id)) {
        Some(id) => id.clone(),
        None => fresh_id(),
    };
    let mut response = if tracing::enabled!(target: TARGET, Level::DEBUG) {
        logged(&id, trusted_proxies, request, next).await
    } else {
        next.run(request).await
    };
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

async fn logged(id: &HeaderValue, trusted_proxies: u8, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let span = tracing::debug_span!(
        target: TARGET,
        "request",
        id = id.to_str().unwrap_or_default(),
        method = %request.method(),
        // Not the path itself: users are named in it.
        route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str),
        traceparent = headers.get(TRACE_PARENT).filter(|value| is_sound(value)).and_then(|value| value.to_str().ok()),
        client = client(headers, trusted_proxies).map(tracing::field::display),
    );
    let in_span: Span = span.clone();
    async move {
        let response = next.run(request).await;
        let status = response.status().as_u16();
        if status >= 400 {
            tracing::debug!(target: TARGET, status, "not answered with a yes or a no");
        }
        response
    }
    .instrument(in_span)
    .await
}

/// Short, and nothing that would look like something else in a log.
fn is_sound(value: &HeaderValue) -> bool {
    (1..=MAX_ID).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic)
}

fn fresh_id() -> HeaderValue {
    HeaderValue::from_str(&Uuid::new_v4().to_string()).unwrap_or(HeaderValue::from_static("none"))
}

/// The client as the outermost trusted proxy has seen it. Each proxy appends whom it was asked by; what is further to the left
/// anyone may have written.
pub(crate) fn client(headers: &HeaderMap, trusted_proxies: u8) -> Option<IpAddr> {
    if trusted_proxies == 0 {
        return None;
    }
    // From the right, and no further: what is to the left may be long.
    // As bytes: what anyone wrote need not be text, and must not take with it what a proxy has put behind it.
    let lines = headers.get_all(FORWARDED_FOR).iter().rev();
    let mut seen = lines.flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b','));
    let seen = std::str::from_utf8(seen.nth(usize::from(trusted_proxies) - 1)?).ok()?.trim();
    // Some write the port as well.
    seen.parse().or_else(|_| seen.parse().map(|seen: SocketAddr| seen.ip())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_trusted_proxies_wrote_is_believed() {
        let headers: HeaderMap = ["9.9.9.9, 1.1.1.1", "2001:db8::1 , 10.0.0.1"]
            .into_iter()
            .map(|value| (FORWARDED_FOR, HeaderValue::from_static(value)))
            .collect();
        let client = |proxies| client(&headers, proxies).map(|address| address.to_string());
        assert_eq!(client(0), None);
        assert_eq!(client(1).as_deref(), Some("10.0.0.1"));
        assert_eq!(client(2).as_deref(), Some("2001:db8::1"));
        assert_eq!(client(5), None, "somebody left a proxy out");
        for (seen, address) in [
            ("1.2.3.4:567", Some("1.2.3.4")),
            ("[2001:db8::1]:567", Some("2001:db8::1")),
            ("unknown", None),
            ("", None),
        ] {
            let headers = HeaderMap::from_iter([(FORWARDED_FOR, HeaderValue::from_static(seen))]);
            assert_eq!(super::client(&headers, 1).map(|address| address.to_string()).as_deref(), address, "{seen}");
        }
    }

    #[test]
    fn what_is_no_text_hides_nothing_that_a_proxy_wrote() {
        let client = |lines: &[&[u8]], proxies| {
            let lines = lines.iter().map(|line| (FORWARDED_FOR, HeaderValue::from_bytes(line).unwrap()));
            client(&lines.collect(), proxies).map(|address| address.to_string())
        };
        assert_eq!(client(&[b"\xe9, 1.2.3.4"], 1).as_deref(), Some("1.2.3.4"));
        assert_eq!(client(&[b"6.6.6.6", b"\xe9, 1.2.3.4"], 1).as_deref(), Some("1.2.3.4"));
        assert_eq!(client(&[b"6.6.6.6", b"\xe9, 1.2.3.4"], 2), None, "it counts as an entry");
        assert_eq!(client(&[b"6.6.6.6, \xe9"], 1), None);
    }

    #[test]
    fn ids_are_short_and_visible() {
        let sound = |id: &[u8]| is_sound(&HeaderValue::from_bytes(id).unwrap());
        assert!(sound(b"5f0c2a1e-id:1/2"));
        assert!(!sound(b"") && !sound(b"a b") && !sound("\u{fc}".as_bytes()) && !sound(&[b'x'; 129]));
        assert!(is_sound(&fresh_id()));
    }
}
