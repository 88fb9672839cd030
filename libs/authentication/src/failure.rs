//! Authentication failures. The reason is a label of a metric; the detail helps the developer of a client and
//! contains no secret.

use std::time::Duration;

use couponry_runtime::problem::Problem;

/// The kind of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The header with the user is missing.
    NoHeader,
    /// The header with the user is malformed.
    BadHeader,
    /// The token is missing.
    NoToken,
    /// The token is not a signed JWT.
    Malformed,
    /// The key does not support the algorithm of the token.
    Algorithm,
    /// The key of the token is unknown.
    UnknownKey,
    /// The signature is invalid.
    Signature,
    /// `exp` has passed.
    Expired,
    /// `nbf` has not been reached.
    NotYetValid,
    /// `iss` is not the required issuer.
    Issuer,
    /// `aud` does not contain the required audience.
    Audience,
    /// A claim is missing or malformed.
    Claims,
    /// The claim with the user is invalid.
    User,
    /// The request names another user.
    OtherUser,
    /// The keys are unavailable, so the token cannot be verified.
    JwksUnavailable,
    /// The key of the token is unknown, and the keys were fetched too recently to fetch them again.
    RefreshLimited,
}

impl Reason {
    /// The label of the metric.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::NoHeader => "no_header",
            Self::BadHeader => "bad_header",
            Self::NoToken => "no_token",
            Self::Malformed => "malformed",
            Self::Algorithm => "algorithm",
            Self::UnknownKey => "unknown_key",
            Self::Signature => "signature",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::Claims => "claims",
            Self::User => "user",
            Self::OtherUser => "other_user",
            Self::JwksUnavailable => "jwks_unavailable",
            Self::RefreshLimited => "refresh_limited",
        }
    }
}

/// Why a request is not authenticated.
#[derive(Debug)]
pub struct Failure {
    reason: Reason,
    detail: String,
    retry_after: Option<Duration>,
}

impl Failure {
    /// A failure for this reason.
    #[must_use]
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into(), retry_after: None }
    }

    /// The keys are fetched again for a request after this time.
    pub(crate) fn refresh_limited(wait: Duration) -> Self {
        let detail = "The key of the token (kid) is unknown; it may have been published just now. Retry later.";
        Self { retry_after: Some(wait), ..Self::new(Reason::RefreshLimited, detail) }
    }

    /// The reason.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        self.reason
    }
}

impl From<Failure> for Problem {
    fn from(Failure { reason, detail, retry_after }: Failure) -> Self {
        match reason {
            Reason::OtherUser => Self::invalid(detail),
            // A valid token must not be rejected because of an outage.
            Reason::JwksUnavailable | Reason::RefreshLimited => {
                let problem = Self::unavailable(detail).with_cause(reason.label());
                if let Some(wait) = retry_after { problem.with_retry_after(wait) } else { problem }
            }
            // A 401 requires a challenge; no registered scheme describes a header that a proxy sets.
            Reason::NoHeader | Reason::BadHeader => {
                Self::unauthorized(detail).with_challenge(r#"Header realm="couponry""#)
            }
            Reason::NoToken => Self::unauthorized(detail).with_challenge(r#"Bearer realm="couponry""#),
            _ => Self::unauthorized(detail).with_challenge(r#"Bearer realm="couponry", error="invalid_token""#),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse as _;

    use super::*;

    #[test]
    fn refresh_limited_returns_503_with_the_time_of_the_next_fetch() {
        let response = Problem::from(Failure::refresh_limited(Duration::from_millis(6500))).into_response();
        let seconds: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
        assert_eq!(response.status().as_u16(), 503);
        assert!((7..=9).contains(&seconds), "{seconds}");
    }
}
