//! Cross-origin requests of browsers (CORS).
//!
//! Not a layer of the router, which would cost each request several allocations, and would not see issue requests.

use std::{str::FromStr, sync::Arc};

use axum::{
    http::{
        HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode,
        header::{
            ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
            ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
        },
        uri::Authority,
    },
    response::{IntoResponse as _, Response},
};

const ALLOWED_METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST");
/// The headers that a page may set, besides those that need no permission.
const ALLOWED_HEADERS: HeaderValue =
    HeaderValue::from_static("authorization, content-type, if-none-match, traceparent, x-request-id");
/// The headers that a page may read, besides those that need no permission.
const EXPOSED_HEADERS: HeaderValue =
    HeaderValue::from_static("age, date, etag, retry-after, www-authenticate, x-request-id");
/// How long a browser may keep the response to a preflight request, in seconds. Browsers have lower limits.
const MAX_AGE: HeaderValue = HeaderValue::from_static("86400");

/// Flags for browsers.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Browsers")]
pub(crate) struct CorsArgs {
    /// Origins whose pages may call the API from a browser (CORS), separated by commas, such as
    /// `https://shop.example.com,https://m.example.com`; or * for every origin. Empty: only pages of the same origin.
    /// Cookies of other origins are not accepted.
    #[arg(long, env, default_value = "", value_name = "ORIGINS")]
    pub(crate) cors_allowed_origins: AllowedOrigins,
}

/// The origins whose pages may read responses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AllowedOrigins {
    /// None but that of the API.
    Same,
    Any,
    Listed(Vec<HeaderValue>),
}

impl FromStr for AllowedOrigins {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() {
            "" => Ok(Self::Same),
            "*" => Ok(Self::Any),
            list => {
                list.split(',').map(|origin| parse_origin(origin.trim())).collect::<Result<_, _>>().map(Self::Listed)
            }
        }
    }
}

/// An origin as browsers send it.
fn parse_origin(text: &str) -> Result<HeaderValue, String> {
    let invalid = |reason: &str| Err(format!("{text:?} is not an origin: {reason}"));
    if text == "*" {
        return invalid("* allows every origin, so it must be the only entry");
    }
    let Some((scheme, authority)) = text.split_once("://") else {
        return invalid("expected SCHEME://HOST or SCHEME://HOST:PORT, such as https://shop.example.com");
    };
    if authority.contains('*') {
        return invalid("a * inside of an origin is not supported; list every origin");
    }
    if authority.contains(['/', '?', '#']) {
        return invalid("it must not have a path, not even a final slash");
    }
    if text.chars().any(char::is_uppercase) {
        return invalid("browsers send it in lower case");
    }
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_lowercase())
        && scheme.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c));
    let (Ok(parsed), true) = (authority.parse::<Authority>(), is_scheme && !authority.contains('@')) else {
        return invalid(
            "the scheme or the host is not valid; a host with other characters than ASCII is written as xn--",
        );
    };
    if matches!((scheme, parsed.port_u16()), ("http", Some(80)) | ("https", Some(443))) {
        return invalid("browsers do not send the default port of the scheme; omit it");
    }
    HeaderValue::from_str(text).or_else(|_| invalid("it has characters that are not allowed in a header"))
}

/// Adds the headers of CORS to responses, and responds to preflight requests.
#[derive(Clone)]
pub(crate) struct Cors(Arc<AllowedOrigins>);

impl Cors {
    /// None if no other origin is allowed.
    pub(crate) fn new(args: CorsArgs) -> Option<Self> {
        let origins = args.cors_allowed_origins;
        (origins != AllowedOrigins::Same).then(|| Self(origins.into()))
    }

    /// The response to a preflight request, or None if it is another request.
    pub(crate) fn preflight_response<B>(&self, request: &Request<B>) -> Option<Response> {
        let origin = request.headers().get(ORIGIN)?;
        if request.method() != Method::OPTIONS || !request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD) {
            return None;
        }
        let mut response = StatusCode::NO_CONTENT.into_response();
        if self.allow_origin(response.headers_mut(), Some(origin)) {
            let headers: [(HeaderName, HeaderValue); 3] = [
                (ACCESS_CONTROL_ALLOW_METHODS, ALLOWED_METHODS),
                (ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED_HEADERS),
                (ACCESS_CONTROL_MAX_AGE, MAX_AGE),
            ];
            response.headers_mut().extend(headers);
        }
        Some(response)
    }

    /// Adds the headers to a response to a request of this origin.
    pub(crate) fn add_headers(&self, headers: &mut HeaderMap, origin: Option<&HeaderValue>) {
        if self.allow_origin(headers, origin) {
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED_HEADERS);
        }
    }

    /// Returns whether the origin is allowed.
    fn allow_origin(&self, headers: &mut HeaderMap, origin: Option<&HeaderValue>) -> bool {
        let allowed = match &*self.0 {
            AllowedOrigins::Same => None,
            AllowedOrigins::Any => Some(HeaderValue::from_static("*")),
            AllowedOrigins::Listed(origins) => {
                // Also without an allowed origin: a cache must not return this response to one.
                headers.append(VARY, HeaderValue::from_static("Origin"));
                origin.filter(|origin| origins.contains(origin)).cloned()
            }
        };
        let is_allowed = allowed.is_some();
        headers.extend(allowed.map(|allowed| (ACCESS_CONTROL_ALLOW_ORIGIN, allowed)));
        is_allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allowed_origins_are_parsed() {
        let listed = |origins: &[&'static str]| {
            Ok(AllowedOrigins::Listed(origins.iter().map(|origin| HeaderValue::from_static(origin)).collect()))
        };
        assert_eq!("".parse(), Ok(AllowedOrigins::Same));
        assert_eq!(" * ".parse(), Ok(AllowedOrigins::Any));
        assert_eq!("https://a.example".parse(), listed(&["https://a.example"]));
        assert_eq!(
            "http://localhost:3000, capacitor://localhost,http://[::1]:8080".parse(),
            listed(&["http://localhost:3000", "capacitor://localhost", "http://[::1]:8080"])
        );
    }

    #[test]
    fn error_of_an_invalid_origin_says_what_to_change() {
        for (text, expected) in [
            ("https://a.example,*", "must be the only entry"),
            ("a.example", "such as https://shop.example.com"),
            ("null", "such as https://shop.example.com"),
            ("https://a.example,", "such as https://shop.example.com"),
            ("https://*.example", "list every origin"),
            ("https://a.example/", "not even a final slash"),
            ("https://A.example", "lower case"),
            ("https://a.example:443", "omit it"),
            ("http://a.example:80", "omit it"),
            ("https://u@a.example", "not valid"),
            ("https://", "not valid"),
            ("https://b\u{fc}cher.example", "xn--"),
            ("://a.example", "not valid"),
        ] {
            let error = text.parse::<AllowedOrigins>().unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
