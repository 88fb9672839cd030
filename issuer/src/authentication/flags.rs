//! Flags of user authentication.

use std::str::FromStr;

use axum::http::HeaderName;
use couponry_authentication::{JwtArgs, JwtArgsError};

/// The source of the userId.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum UserIdentity {
    Body,
    Header(HeaderName),
    Jwt,
}

impl FromStr for UserIdentity {
    type Err = String;

    fn from_str(source: &str) -> Result<Self, Self::Err> {
        match source {
            "body" => return Ok(Self::Body),
            "jwt" => return Ok(Self::Jwt),
            _ => {}
        }
        let name = source.strip_prefix("header:").ok_or("use `body`, `header:NAME` or `jwt`")?;
        HeaderName::from_str(name).map(Self::Header).map_err(|_| format!("{name:?} is not a valid header name"))
    }
}

/// Flags of user authentication.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "User authentication")]
pub(crate) struct AuthenticationArgs {
    /// Source of the userId: `body` trusts the request (for trials only), `header:NAME` trusts a header that a proxy
    /// sets, `jwt` verifies the token in `Authorization: Bearer`.
    #[arg(long, env, default_value = "body", value_name = "SOURCE")]
    pub(super) user_identity: UserIdentity,
    #[command(flatten)]
    pub(super) jwt: JwtArgs,
}

/// Flags that contradict each other.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthenticationArgsError {
    /// Keys without token verification.
    #[error("--jwt-jwks-url and --jwt-jwks-file require --user-identity jwt")]
    UnusedKeySource,
    /// The keys cannot be fetched.
    #[error(transparent)]
    Jwt(#[from] JwtArgsError),
}

impl AuthenticationArgs {
    /// Whether tokens are verified.
    pub(crate) fn needs_keys(&self) -> bool {
        self.user_identity == UserIdentity::Jwt
    }

    /// Where the userId comes from: body, header or jwt.
    pub(crate) const fn source(&self) -> &'static str {
        match self.user_identity {
            UserIdentity::Body => "body",
            UserIdentity::Header(_) => "header",
            UserIdentity::Jwt => "jwt",
        }
    }

    pub(super) fn check(&self) -> Result<(), AuthenticationArgsError> {
        if !self.needs_keys() && self.jwt.has_key_source() {
            return Err(AuthenticationArgsError::UnusedKeySource);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_identity_is_parsed_from_the_flag() {
        assert_eq!("body".parse(), Ok(UserIdentity::Body));
        assert_eq!("jwt".parse(), Ok(UserIdentity::Jwt));
        assert_eq!("header:X-User-Id".parse(), Ok(UserIdentity::Header(HeaderName::from_static("x-user-id"))));
        assert!("header:a b".parse::<UserIdentity>().is_err());
        assert!("cookie".parse::<UserIdentity>().is_err());
    }
}
