//! The authentication scheme, as the OpenAPI document describes it.

use axum::http::HeaderName;

/// How clients authenticate their user.
#[derive(Clone, Debug)]
pub(crate) enum SignIn {
    /// Not at all: the request names the user.
    None,
    /// With this header, which a proxy sets.
    Header(HeaderName),
    /// With a bearer token.
    Token,
}
