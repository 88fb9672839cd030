//! Where Postgres is.

use crate::{Authorities, Secret};

/// Where Postgres is.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
#[command(next_help_heading = "Postgres")]
pub struct PostgresSettings {
    /// Address of Postgres: `postgres://user[:password]@host[:port]/database`. `@PATH` reads it from a file.
    ///
    /// `?sslmode=verify-full` at its end asks for TLS and a certificate in the server's name from a public authority.
    #[arg(id = "postgres_url", long = "postgres-url", env = "POSTGRES_URL", value_name = "URL", value_parser = Secret::parse, hide_env_values = true)]
    pub url: Secret,
    /// The password, instead of the one in the URL. `@PATH` reads it from a file.
    #[arg(id = "postgres_password", long = "postgres-password", env = "POSTGRES_PASSWORD", value_name = "PASSWORD", value_parser = Secret::parse, hide_env_values = true)]
    pub password: Option<Secret>,
    /// PEM file with authorities that Postgres's certificate may come from, besides the public ones (Mozilla's list). With it
    /// the server must speak TLS and have a certificate in its name (`verify-full`), whatever the URL says.
    #[arg(id = "postgres_ca_file", long = "postgres-ca-file", env = "POSTGRES_CA_FILE", value_name = "PATH", value_parser = Authorities::read)]
    pub authorities: Option<Authorities>,
}

impl PostgresSettings {
    /// A Postgres at this address that needs nothing else.
    #[must_use]
    pub fn at(url: &str) -> Self {
        Self { url: Secret::from(url), ..Self::default() }
    }
}
