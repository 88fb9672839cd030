//! The authentication scheme, as the OpenAPI document describes it.

use axum::http::HeaderName;

/// How clients authenticate their user.
#[derive(Clone, Debug)]
pub(crate) enum AuthScheme {
    /// No authentication: the user id is taken from the request.
    None,
    /// With this header, which a proxy sets.
    Header(HeaderName),
    /// With a bearer token.
    Token,
}
