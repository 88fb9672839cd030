//! Who the user is.

mod crypto;
mod flags;
mod keys;
mod refusal;
mod source;
mod verifier;

use axum::http::{HeaderMap, HeaderName};
use couponry_domain::UserId;
use couponry_runtime::{CancellationToken, Health};

pub(crate) use self::flags::IdentityArgs;
use self::{
    flags::UserIdentity,
    refusal::{Reason, Refusal},
    verifier::Verifier,
};
use crate::{metrics::Metrics, problem::Problem, routes::SignIn};

/// What the readiness says about the keys of tokens.
pub(crate) const JWT_KEYS: &str = "jwt keys";

/// Finds out who asks.
pub(crate) struct Identity {
    from: From,
    metrics: Metrics,
}

enum From {
    /// The request says it itself: anyone can ask for anyone.
    Body,
    /// A trusted proxy says it in this header.
    Header(HeaderName),
    /// A signed token says it.
    Jwt(Verifier),
}

impl Identity {
    /// Begins to fetch keys, if tokens need them: until they are there, `health` says that [`JWT_KEYS`] are missing.
    pub(crate) fn start(
        args: IdentityArgs,
        metrics: Metrics,
        health: &Health,
        stop: CancellationToken,
    ) -> Result<Self, flags::IdentityError> {
        args.check()?;
        let from = match args.user_identity {
            UserIdentity::Body => {
                tracing::warn!("--user-identity body: everyone can ask in everyone's name. Use this for trials only.");
                From::Body
            }
            UserIdentity::Header(name) => From::Header(name),
            UserIdentity::Jwt => From::Jwt(Verifier::start(args.jwt, health, stop)?),
        };
        Ok(Self { from, metrics })
    }

    /// How users sign in here.
    pub(crate) fn sign_in(&self) -> SignIn {
        match &self.from {
            From::Body => SignIn::None,
            From::Header(name) => SignIn::Header(name.clone()),
            From::Jwt(_) => SignIn::Token,
        }
    }

    /// The user of a request that names `claimed`, or nobody.
    pub(crate) async fn user(&self, headers: &HeaderMap, claimed: Option<String>) -> Result<UserId, Problem> {
        let user = match &self.from {
            From::Body => return checked(claimed.ok_or_else(|| Problem::invalid("missing field `userId`"))?),
            From::Header(name) => in_header(name, headers),
            From::Jwt(verifier) => verifier.user(headers).await,
        };
        user.and_then(|user| {
            if claimed.is_some_and(|claimed| claimed != user) {
                Err(Refusal::new(Reason::OtherUser, "the request names another user than the one who is signed in"))
            } else {
                Ok(user)
            }
        })
        .map_err(|refusal| {
            self.metrics.refuse(refusal.reason().label());
            refusal.into()
        })
        .and_then(checked)
    }
}

fn checked(id: String) -> Result<UserId, Problem> {
    id.try_into().map_err(|error: couponry_domain::identity::InvalidId| Problem::invalid(error.to_string()))
}

fn in_header(name: &HeaderName, headers: &HeaderMap) -> Result<String, Refusal> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().ok_or_else(|| Refusal::new(Reason::NoHeader, format!("no header {name}")))?;
    if values.next().is_some() {
        // The proxy has added its own to one that the client sent: nobody knows which is which.
        return Err(Refusal::new(Reason::BadHeader, format!("more than one header {name}")));
    }
    match std::str::from_utf8(value.as_bytes()) {
        Ok(user) => Ok(user.to_owned()),
        Err(_) => Err(Refusal::new(Reason::BadHeader, format!("the header {name} is not UTF-8"))),
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;

    #[tokio::test]
    async fn a_header_outranks_what_the_request_claims() {
        let from = From::Header(HeaderName::from_static("x-user-id"));
        let identity = Identity { from, metrics: Metrics::register(&mut Registry::default()) };
        let status = async |headers: &HeaderMap, claimed: Option<&str>| {
            identity.user(headers, claimed.map(Into::into)).await.map_err(|problem| problem.status())
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
        for (bad, why) in [("", 400), (" ", 400), ("a\tb", 400), ("\u{fc}", 200)] {
            let value = axum::http::HeaderValue::from_bytes(bad.as_bytes()).unwrap();
            let headers = HeaderMap::from_iter([(HeaderName::from_static("x-user-id"), value)]);
            assert_eq!(status(&headers, None).await.err().unwrap_or(200), why, "{bad:?}");
        }
        let latin = axum::http::HeaderValue::from_bytes(b"\xfc").unwrap();
        let headers = HeaderMap::from_iter([(HeaderName::from_static("x-user-id"), latin)]);
        assert_eq!(status(&headers, None).await, Err(401));
    }
}
