//! Connection settings of Postgres.

use secrecy::SecretString;

use crate::{ca_certificates::CaCertificates, secret::parse_secret};

/// Connection settings of Postgres.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Postgres")]
pub struct PostgresSettings {
    /// URL of Postgres: `postgres://user[:password]@host[:port]/database`. `@PATH` reads it from a file.
    ///
    /// Append `?sslmode=verify-full` to require TLS and a certificate for the server's name from a public CA.
    #[arg(
        id = "postgres_url",
        long = "postgres-url",
        env = "POSTGRES_URL",
        value_name = "URL",
        value_parser = parse_secret,
        hide_env_values = true
    )]
    pub url: SecretString,
    /// Password, overrides the one in the URL. `@PATH` reads it from a file.
    #[arg(
        id = "postgres_password",
        long = "postgres-password",
        env = "POSTGRES_PASSWORD",
        value_name = "PASSWORD",
        value_parser = parse_secret,
        hide_env_values = true
    )]
    pub password: Option<SecretString>,
    /// PEM file with CA certificates to verify the server with, in addition to the public CAs (Mozilla's list).
    /// Requires TLS and a certificate for the server's name (`verify-full`), regardless of the URL.
    #[arg(
        id = "postgres_ca_file",
        long = "postgres-ca-file",
        env = "POSTGRES_CA_FILE",
        value_name = "PATH",
        value_parser = CaCertificates::read
    )]
    pub ca_certificates: Option<CaCertificates>,
}

impl PostgresSettings {
    /// Settings of a Postgres that only needs this URL.
    #[must_use]
    pub fn at(url: &str) -> Self {
        Self { url: url.into(), ..Self::default() }
    }
}
