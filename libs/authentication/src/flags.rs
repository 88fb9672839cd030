//! Flags of token verification.

use std::path::PathBuf;

use couponry_settings::{CaCertificates, SecretString, parse_secret};

/// Flags of token verification.
#[derive(Clone, Debug, clap::Args)]
#[expect(clippy::struct_field_names, reason = "the fields are named after the flags")]
pub struct JwtArgs {
    /// URL of the JWKS with the keys that verify tokens: http:// or https://. Fetched at startup, periodically, and
    /// when a token names an unknown key. If a fetch fails, the known keys stay in use. HMAC keys are secrets and are
    /// only accepted from a file. `user:password@` before the host is sent as basic authentication. `@PATH` reads the
    /// URL from a file.
    #[arg(long, env, value_name = "URL", value_parser = parse_secret, hide_env_values = true)]
    pub(crate) jwt_jwks_url: Option<SecretString>,
    /// PEM file with CA certificates to verify --jwt-jwks-url with. Default: the public CAs (Mozilla's list).
    #[arg(long, env, value_name = "PATH", value_parser = CaCertificates::read)]
    pub(crate) jwt_ca_file: Option<CaCertificates>,
    /// File with the JWKS, instead of a URL. Reloaded when it changes.
    #[arg(long, env, value_name = "PATH")]
    pub(crate) jwt_jwks_file: Option<PathBuf>,
    /// Required issuer of tokens (`iss`). Default: any issuer with a known key.
    #[arg(long, env, value_name = "ISSUER")]
    pub(crate) jwt_issuer: Option<String>,
    /// Accepted audiences of tokens (`aud`). Default: only tokens without an audience are accepted.
    #[arg(long, env, value_name = "AUDIENCE,...", value_delimiter = ',')]
    pub(crate) jwt_audience: Vec<String>,
    /// Claim with the userId: a string of 1 to 256 bytes that is never reassigned to another user.
    #[arg(long, env, value_name = "CLAIM", default_value = "sub")]
    pub(crate) jwt_user_claim: String,
    /// Tolerated clock skew when `nbf` and `exp` of a token are checked.
    #[arg(
        long,
        env,
        value_name = "SECONDS",
        default_value_t = 30,
        value_parser = clap::value_parser!(u32).range(0..=600)
    )]
    pub(crate) jwt_leeway_seconds: u32,
    /// How often --jwt-jwks-url is fetched.
    #[arg(
        long,
        env,
        value_name = "SECONDS",
        default_value_t = 300,
        value_parser = clap::value_parser!(u32).range(1..=86_400)
    )]
    pub(crate) jwt_refresh_seconds: u32,
}

/// The flags cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JwtArgsError {
    /// No source of keys, or two.
    #[error("verifying tokens requires either --jwt-jwks-url or --jwt-jwks-file")]
    KeySource,
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

impl JwtArgs {
    /// Whether tokens must be for an audience.
    #[must_use]
    pub fn has_audience(&self) -> bool {
        !self.jwt_audience.is_empty()
    }

    /// Whether the flags name a source of keys.
    #[must_use]
    pub fn has_key_source(&self) -> bool {
        self.jwt_jwks_url.is_some() || self.jwt_jwks_file.is_some()
    }
}
