//! Flags that say who the user is.

use std::{path::PathBuf, str::FromStr};

use axum::http::{HeaderName, Uri};
use couponry_settings::Authorities;

/// Where the userId comes from.
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
        HeaderName::from_str(name).map(Self::Header).map_err(|_| format!("{name:?} is no name of a header"))
    }
}

/// Who the user is.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Who the user is")]
pub(crate) struct IdentityArgs {
    /// Who the user is: `body` takes the request's word for it (for trials), `header:NAME` takes the header that a trusted
    /// proxy sets, `jwt` takes the token in `Authorization: Bearer`.
    #[arg(long, env, default_value = "body", value_name = "SOURCE")]
    pub(super) user_identity: UserIdentity,
    #[command(flatten)]
    pub(super) jwt: JwtArgs,
}

/// Which tokens are believed.
#[derive(Clone, Debug, clap::Args)]
#[expect(clippy::struct_field_names, reason = "they are the names of the flags")]
pub(super) struct JwtArgs {
    /// Where the keys of the tokens are (JWKS): http:// or https://. Read at the start, then regularly, and when a token names
    /// a key that is not known; while it does not answer, the keys stay. Keys of HMAC are secrets: they are taken from a file.
    #[arg(long, env, value_name = "URL")]
    pub(super) jwt_jwks_url: Option<Uri>,
    /// Who signs the certificate of --jwt-jwks-url (PEM); without it, the authorities that browsers trust.
    #[arg(long, env, value_name = "PATH", value_parser = Authorities::read)]
    pub(super) jwt_ca_file: Option<Authorities>,
    /// The file that has the keys (JWKS), in place of a URL. A changed file is read again.
    #[arg(long, env, value_name = "PATH")]
    pub(super) jwt_jwks_file: Option<PathBuf>,
    /// What a token must say who made it (`iss`); without it, anyone who has a key.
    #[arg(long, env, value_name = "ISSUER")]
    pub(super) jwt_issuer: Option<String>,
    /// Whom a token must be for (`aud`), one of these; without it, only tokens that are for nobody in particular are taken.
    #[arg(long, env, value_name = "AUDIENCE,...", value_delimiter = ',')]
    pub(super) jwt_audience: Vec<String>,
    /// The claim that names the user: 1 to 256 bytes of text, which must never pass to another user.
    #[arg(long, env, value_name = "CLAIM", default_value = "sub")]
    pub(super) jwt_user_claim: String,
    /// How far clocks may be apart when it is decided whether a token is valid yet (`nbf`) or still (`exp`).
    #[arg(long, env, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(0..=600))]
    pub(super) jwt_leeway_seconds: u32,
    /// How often the keys are read again from --jwt-jwks-url.
    #[arg(long, env, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub(super) jwt_refresh_seconds: u32,
}

/// Flags that do not go together.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    /// Tokens need keys, from one place.
    #[error("--user-identity jwt needs either --jwt-jwks-url or --jwt-jwks-file")]
    KeysFrom,
    /// Whoever names keys believes that they are used.
    #[error("--jwt-jwks-url and --jwt-jwks-file need --user-identity jwt")]
    Unused,
    /// The URL cannot be asked.
    #[error("--jwt-jwks-url {0} is not of the form http://host/path or https://host/path")]
    Url(Uri),
    /// TLS cannot be set up.
    #[error("--jwt-jwks-url: cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The certificates cannot be read.
    #[error("--jwt-ca-file: {0}")]
    Certificates(#[from] rustls_pki_types::pem::Error),
}

impl IdentityArgs {
    /// Whether tokens are asked for.
    pub(crate) fn needs_keys(&self) -> bool {
        self.user_identity == UserIdentity::Jwt
    }

    pub(super) fn check(&self) -> Result<(), IdentityError> {
        match (self.needs_keys(), &self.jwt.jwt_jwks_url, &self.jwt.jwt_jwks_file) {
            (true, Some(_), None) | (true, None, Some(_)) | (false, None, None) => Ok(()),
            (true, ..) => Err(IdentityError::KeysFrom),
            (false, ..) => Err(IdentityError::Unused),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_is_read_from_its_flag() {
        assert_eq!("body".parse(), Ok(UserIdentity::Body));
        assert_eq!("jwt".parse(), Ok(UserIdentity::Jwt));
        assert_eq!("header:X-User-Id".parse(), Ok(UserIdentity::Header(HeaderName::from_static("x-user-id"))));
        assert!("header:a b".parse::<UserIdentity>().is_err());
        assert!("cookie".parse::<UserIdentity>().is_err());
    }
}
