//! Only the browser that opened the link of this launch may use the dashboard.
//!
//! - The link contains a random token, which is valid once; the browser receives a cookie for it.
//! - `Host` must be the address of the dashboard: another site whose name resolves to 127.0.0.1 (DNS rebinding) is
//!   rejected.
//! - A request that changes something must have the dashboard as its `Origin`. Other sites also cannot send the cookie,
//!   which is `SameSite=Strict`.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Json,
    extract::{Request, State},
    middleware::Next,
    response::{Html, IntoResponse as _, Redirect, Response},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde_json::json;
use tokio::sync::Notify;

/// The response to the link. A redirect would continue the navigation of another site or of a file, in which browsers
/// send no `SameSite=Strict` cookie.
const CONTINUE: Html<&str> =
    Html("<!doctype html><meta http-equiv=\"refresh\" content=\"0;url=/\"><title>Couponry</title>");

const SECURITY_HEADERS: [(&str, &str); 7] = [
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("cache-control", "no-store"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("referrer-policy", "no-referrer"),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
];

/// The secrets of this launch.
pub(super) struct Access {
    /// The token of the link; none once it was used.
    token: Mutex<Option<String>>,
    redeemed: Notify,
    cookie_name: String,
    cookie: String,
    /// Accepted values of `Host`.
    hosts: [String; 2],
}

impl Access {
    pub(super) fn new(address: SocketAddr) -> Self {
        let port = address.port();
        Self {
            token: Mutex::new(Some(secret())),
            redeemed: Notify::new(),
            // Cookies of a host are shared by its ports.
            cookie_name: format!("couponry-dashboard-{port}"),
            cookie: secret(),
            hosts: [format!("127.0.0.1:{port}"), format!("localhost:{port}")],
        }
    }

    /// The link to open.
    pub(super) fn url(&self) -> String {
        let token = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        format!("http://{}/?token={}", self.hosts[0], token.as_deref().unwrap_or_default())
    }

    /// Returns once the link was used.
    pub(super) async fn redeemed(&self) {
        self.redeemed.notified().await;
    }

    /// The response to a request that must not be served.
    fn reject(&self, request: &Request) -> Option<Response> {
        let headers = request.headers();
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        if !host.is_some_and(|host| self.hosts.iter().any(|accepted| accepted == host)) {
            return Some(rejection(StatusCode::MISDIRECTED_REQUEST, "this is not the address of the dashboard"));
        }
        let origin = headers.get(header::ORIGIN);
        let is_own = |origin: &HeaderValue| {
            let origin = origin.to_str().ok().and_then(|origin| origin.strip_prefix("http://"));
            origin == host
        };
        let is_read = request.method() == Method::GET || request.method() == Method::HEAD;
        if !origin.map_or(is_read, is_own) {
            return Some(rejection(StatusCode::FORBIDDEN, "requests of other sites are rejected"));
        }
        if self.has_cookie(headers) {
            return None;
        }
        let token = request.uri().query().and_then(|query| query.strip_prefix("token="));
        if request.uri().path() == "/" && token.is_some_and(|token| self.redeem(token)) {
            let cookie = format!("{}={}; Path=/; HttpOnly; SameSite=Strict", self.cookie_name, self.cookie);
            return Some(([(header::SET_COOKIE, cookie)], CONTINUE).into_response());
        }
        let advice = if token.is_some() {
            "the link of the dashboard was used already, or belongs to an earlier launch: continue in the browser that \
             opened it, or start `kubectl couponry dashboard` again"
        } else {
            "open the link that `kubectl couponry dashboard` printed"
        };
        Some(rejection(StatusCode::UNAUTHORIZED, advice))
    }

    /// Uses up the token.
    fn redeem(&self, token: &str) -> bool {
        let mut expected = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        let is_valid = expected.as_deref().is_some_and(|expected| equal(expected, token));
        if is_valid {
            *expected = None;
            self.redeemed.notify_one();
        }
        is_valid
    }

    fn has_cookie(&self, headers: &HeaderMap) -> bool {
        let cookies = headers.get_all(header::COOKIE).iter().filter_map(|cookies| cookies.to_str().ok());
        let mut cookies = cookies.flat_map(|cookies| cookies.split(';')).filter_map(|it| it.trim().split_once('='));
        cookies.any(|(name, value)| name == self.cookie_name && equal(&self.cookie, value))
    }
}

/// Serves requests of the dashboard's own page, and redirects from the link.
pub(super) async fn guard(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    // The token must not stay in the address bar, also if the browser has the cookie.
    let has_query = request.uri().path() == "/" && request.uri().query().is_some();
    let mut response = match access.reject(&request) {
        Some(response) => response,
        None if has_query => Redirect::to("/").into_response(),
        None => next.run(request).await,
    };
    for (name, value) in SECURITY_HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

fn rejection(status: StatusCode, error: &str) -> Response {
    (status, Json(json!({"error": error}))).into_response()
}

/// 256 random bits.
fn secret() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())
}

/// Compares secrets in a time that does not depend on their contents.
fn equal(expected: &str, actual: &str) -> bool {
    let differences = expected.bytes().zip(actual.bytes()).fold(0, |differences, (a, b)| differences | (a ^ b));
    expected.len() == actual.len() && differences == 0
}
