//! User authentication.

pub(crate) mod auth_scheme;
pub(crate) mod flags;

use axum::http::{HeaderMap, HeaderName};
use couponry_authentication::{Failure, Reason, Verifier};
use couponry_domain::UserId;
use couponry_runtime::{CancellationToken, Health, problem::Problem};

use self::{
    auth_scheme::AuthScheme,
    flags::{AuthenticationArgs, AuthenticationArgsError, UserIdentity},
};
use crate::metrics::Metrics;

/// Authenticates the user of a request.
pub(crate) struct Authenticator {
    source: Source,
    metrics: Metrics,
}

enum Source {
    /// The request itself: any client can act for any user.
    Body,
    /// A header that a trusted proxy sets.
    Header(HeaderName),
    /// A signed token.
    Jwt(Verifier),
}

impl Authenticator {
    /// Starts fetching the keys that verify tokens, if required. Until they are available, `health` reports
    /// [`couponry_authentication::JWKS`] as missing.
    pub(crate) fn start(
        args: AuthenticationArgs,
        metrics: Metrics,
        health: &Health,
        stop: CancellationToken,
    ) -> Result<Self, AuthenticationArgsError> {
        args.check()?;
        let source = match args.user_identity {
            UserIdentity::Body => {
                tracing::warn!("--user-identity body is for trials only: any client can act for any user");
                Source::Body
            }
            UserIdentity::Header(name) => Source::Header(name),
            UserIdentity::Jwt => {
                let key_metrics = metrics.clone();
                let on_keys = move |usable, ignored| key_metrics.set_jwks_keys(usable, ignored);
                Source::Jwt(Verifier::start(args.jwt, health, on_keys, stop)?)
            }
        };
        Ok(Self { source, metrics })
    }

    /// How clients authenticate their user.
    pub(crate) fn auth_scheme(&self) -> AuthScheme {
        match &self.source {
            Source::Body => AuthScheme::None,
            Source::Header(name) => AuthScheme::Header(name.clone()),
            Source::Jwt(_) => AuthScheme::Token,
        }
    }

    /// Authenticates the request and returns its user. `claimed` is the userId in the request; if present, it must
    /// match.
    pub(crate) async fn authenticate(&self, headers: &HeaderMap, claimed: Option<String>) -> Result<UserId, Problem> {
        let user = match &self.source {
            Source::Body => return parse_user(claimed.ok_or_else(|| Problem::invalid("missing field `userId`"))?),
            Source::Header(name) => user_in_header(name, headers),
            Source::Jwt(verifier) => verifier.verify(headers).await,
        };
        user.and_then(|user| {
            if claimed.is_some_and(|claimed| claimed != user) {
                Err(Failure::new(Reason::OtherUser, "the request names another user than the authenticated one"))
            } else {
                Ok(user)
            }
        })
        .map_err(|failure| {
            self.metrics.count_authentication_failure(failure.reason().label());
            failure.into()
        })
        .and_then(parse_user)
    }
}

fn parse_user(id: String) -> Result<UserId, Problem> {
    let user =
        UserId::try_from(id).map_err(|error: couponry_domain::names::InvalidId| Problem::invalid(error.to_string()))?;
    // Otherwise a client could ask for the coupon of an erased user.
    if user.is_pseudonym() {
        return Err(Problem::invalid("userId begins with \"erased:\""));
    }
    Ok(user)
}

fn user_in_header(name: &HeaderName, headers: &HeaderMap) -> Result<String, Failure> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().ok_or_else(|| Failure::new(Reason::NoHeader, format!("the header {name} is missing")))?;
    if values.next().is_some() {
        // The client sent this header as well, and the proxy appended its own; they cannot be told apart.
        return Err(Failure::new(Reason::BadHeader, format!("more than one {name} header")));
    }
    match std::str::from_utf8(value.as_bytes()) {
        // A proxy may also join the two headers into one list (RFC 9110, 5.3).
        Ok(user) if user.contains(',') => {
            Err(Failure::new(Reason::BadHeader, format!("the header {name} is a list of users (it contains a comma)")))
        }
        Ok(user) => Ok(user.to_owned()),
        Err(_) => Err(Failure::new(Reason::BadHeader, format!("the header {name} is not UTF-8"))),
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;

    #[tokio::test]
    async fn authenticate_with_header_rejects_another_user_in_the_request() {
        let source = Source::Header(HeaderName::from_static("x-user-id"));
        let authenticator = Authenticator { source, metrics: Metrics::register(&mut Registry::default()) };
        let status = async |headers: &HeaderMap, claimed: Option<&str>| {
            authenticator.authenticate(headers, claimed.map(Into::into)).await.map_err(|problem| problem.status())
        };
        let headers = HeaderMap::from_iter([(HeaderName::from_static("x-user-id"), "u1".parse().unwrap())]);
        let user: UserId = "u1".parse().unwrap();
        assert_eq!(status(&headers, None).await, Ok(user.clone()));
        assert_eq!(status(&headers, Some("u1")).await, Ok(user));
        assert_eq!(status(&headers, Some("u2")).await, Err(400));
        assert_eq!(status(&HeaderMap::new(), Some("u2")).await, Err(401));
        let mut forged = headers;
        forged.append("x-user-id", "u2".parse().unwrap());
        assert_eq!(status(&forged, None).await, Err(401));
        for (user, expected) in [("", 400), (" ", 400), ("a\tb", 400), ("erased:1", 400), ("\u{fc}", 200)] {
            let value = axum::http::HeaderValue::from_bytes(user.as_bytes()).unwrap();
            let headers = HeaderMap::from_iter([(HeaderName::from_static("x-user-id"), value)]);
            assert_eq!(status(&headers, None).await.err().unwrap_or(200), expected, "{user:?}");
        }
        for list in ["u1, u2", "u1,u1", ","] {
            let headers = HeaderMap::from_iter([(HeaderName::from_static("x-user-id"), list.parse().unwrap())]);
            assert_eq!(status(&headers, None).await, Err(401), "{list}");
        }
        let latin = axum::http::HeaderValue::from_bytes(b"\xfc").unwrap();
        let headers = HeaderMap::from_iter([(HeaderName::from_static("x-user-id"), latin)]);
        assert_eq!(status(&headers, None).await, Err(401));
    }
}
