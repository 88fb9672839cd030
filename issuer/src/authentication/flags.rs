//! Flags of user authentication.

use std::{path::PathBuf, str::FromStr};

use axum::http::HeaderName;
use couponry_settings::{CaCertificates, SecretString, parse_secret};

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

/// Flags of token verification.
#[derive(Clone, Debug, clap::Args)]
#[expect(clippy::struct_field_names, reason = "the fields are named after the flags")]
pub(super) struct JwtArgs {
    /// URL of the JWKS with the keys that verify tokens: http:// or https://. Fetched at startup, periodically, and
    /// when a token names an unknown key. If a fetch fails, the known keys stay in use. HMAC keys are secrets and are
    /// only accepted from a file. `user:password@` before the host is sent as basic authentication. `@PATH` reads the
    /// URL from a file.
    #[arg(long, env, value_name = "URL", value_parser = parse_secret, hide_env_values = true)]
    pub(super) jwt_jwks_url: Option<SecretString>,
    /// PEM file with CA certificates to verify --jwt-jwks-url with. Default: the public CAs (Mozilla's list).
    #[arg(long, env, value_name = "PATH", value_parser = CaCertificates::read)]
    pub(super) jwt_ca_file: Option<CaCertificates>,
    /// File with the JWKS, instead of a URL. Reloaded when it changes.
    #[arg(long, env, value_name = "PATH")]
    pub(super) jwt_jwks_file: Option<PathBuf>,
    /// Required issuer of tokens (`iss`). Default: any issuer with a known key.
    #[arg(long, env, value_name = "ISSUER")]
    pub(super) jwt_issuer: Option<String>,
    /// Accepted audiences of tokens (`aud`). Default: only tokens without an audience are accepted.
    #[arg(long, env, value_name = "AUDIENCE,...", value_delimiter = ',')]
    pub(super) jwt_audience: Vec<String>,
    /// Claim with the userId: a string of 1 to 256 bytes that is never reassigned to another user.
    #[arg(long, env, value_name = "CLAIM", default_value = "sub")]
    pub(super) jwt_user_claim: String,
    /// Tolerated clock skew when `nbf` and `exp` of a token are checked.
    #[arg(
        long,
        env,
        value_name = "SECONDS",
        default_value_t = 30,
        value_parser = clap::value_parser!(u32).range(0..=600)
    )]
    pub(super) jwt_leeway_seconds: u32,
    /// How often --jwt-jwks-url is fetched.
    #[arg(
        long,
        env,
        value_name = "SECONDS",
        default_value_t = 300,
        value_parser = clap::value_parser!(u32).range(1..=86_400)
    )]
    pub(super) jwt_refresh_seconds: u32,
}

/// Flags that contradict each other.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthenticationArgsError {
    /// No source of keys, or two.
    #[error("--user-identity jwt requires either --jwt-jwks-url or --jwt-jwks-file")]
    KeySource,
    /// Keys without token verification.
    #[error("--jwt-jwks-url and --jwt-jwks-file require --user-identity jwt")]
    UnusedKeySource,
    /// An unsupported URL.
    #[error("--jwt-jwks-url is not of the form http://host/path or https://host/path")]
    Url,
    /// TLS cannot be set up.
    #[error("--jwt-jwks-url: cannot set up TLS")]
    Tls(#[from] rustls::Error),
    /// The CA certificates are invalid.
    #[error("--jwt-ca-file: invalid certificate")]
    Certificates(#[from] rustls_pki_types::pem::Error),
}

impl AuthenticationArgs {
    /// Whether tokens are verified.
    pub(crate) fn needs_keys(&self) -> bool {
        self.user_identity == UserIdentity::Jwt
    }

    pub(super) fn check(&self) -> Result<(), AuthenticationArgsError> {
        match (self.needs_keys(), &self.jwt.jwt_jwks_url, &self.jwt.jwt_jwks_file) {
            (true, Some(_), None) | (true, None, Some(_)) | (false, None, None) => Ok(()),
            (true, ..) => Err(AuthenticationArgsError::KeySource),
            (false, ..) => Err(AuthenticationArgsError::UnusedKeySource),
        }
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
