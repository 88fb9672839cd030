//! Connection settings of Redis.

use secrecy::{ExposeSecret as _, SecretString};

use crate::{
    ca_certificates::CaCertificates,
    error::{SettingsError, ensure},
    secret::parse_secret,
};

/// Connection settings of Redis.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Redis")]
pub struct RedisSettings {
    /// URL of Redis: `redis://[user:password@]host[:port][/database]`, or `rediss://...` for TLS. `@PATH` reads it
    /// from a file.
    ///
    /// With --redis-cluster, a comma-separated list of URLs: seed nodes from which the others are discovered.
    #[arg(
        id = "redis_url",
        long = "redis-url",
        env = "REDIS_URL",
        value_name = "URL",
        value_parser = parse_secret,
        hide_env_values = true
    )]
    pub url: SecretString,
    /// ACL user, overrides the one in the URL. `@PATH` reads it from a file.
    #[arg(
        id = "redis_username",
        long = "redis-username",
        env = "REDIS_USERNAME",
        value_name = "USER",
        value_parser = parse_secret,
        hide_env_values = true
    )]
    pub username: Option<SecretString>,
    /// Password, overrides the one in the URL. `@PATH` reads it from a file.
    #[arg(
        id = "redis_password",
        long = "redis-password",
        env = "REDIS_PASSWORD",
        value_name = "PASSWORD",
        value_parser = parse_secret,
        hide_env_values = true
    )]
    pub password: Option<SecretString>,
    /// PEM file with CA certificates to verify the server with. Default: the public CAs (Mozilla's list).
    #[arg(
        id = "redis_ca_file",
        long = "redis-ca-file",
        env = "REDIS_CA_FILE",
        value_name = "PATH",
        value_parser = CaCertificates::read
    )]
    pub ca_certificates: Option<CaCertificates>,
    /// The URL is that of a Redis Cluster.
    #[arg(
        id = "redis_cluster",
        long = "redis-cluster",
        env = "REDIS_CLUSTER",
        value_parser = clap::builder::BoolishValueParser::new()
    )]
    pub cluster: bool,
    /// Prefix of every key, so that several installations can share a Redis.
    #[arg(
        id = "redis_key_prefix",
        long = "redis-key-prefix",
        env = "REDIS_KEY_PREFIX",
        default_value = "",
        value_name = "PREFIX"
    )]
    pub key_prefix: String,
}

impl RedisSettings {
    /// Settings of a Redis that only needs this URL.
    #[must_use]
    pub fn at(url: &str, key_prefix: &str) -> Self {
        Self { url: url.into(), key_prefix: key_prefix.to_owned(), ..Self::default() }
    }

    /// Whether the URL requires TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.url.expose_secret().starts_with("rediss://")
    }

    /// Rejects settings that contradict each other.
    pub fn check(&self) -> Result<(), SettingsError> {
        ensure(
            self.ca_certificates.is_none() || self.is_tls(),
            "--redis-ca-file requires TLS: --redis-url must begin with rediss://",
        )?;
        ensure(
            !self.url.expose_secret().contains('#'),
            "--redis-url must not have a fragment (#): certificate verification cannot be disabled",
        )?;
        // The client would not send a user name without a password.
        let has_password = self.password.is_some() || self.url.expose_secret().contains('@');
        ensure(self.username.is_none() || has_password, "--redis-username requires --redis-password")?;
        ensure(
            !self.key_prefix.contains(['{', '}']),
            "--redis-key-prefix must not contain braces: they delimit the hash tag of a key in a cluster",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contradicting_settings_are_rejected_with_the_flag() {
        let settings = RedisSettings::at("redis://r:6379", "");
        assert_eq!(settings.check(), Ok(()));
        let error = |settings: RedisSettings| settings.check().unwrap_err().to_string();
        let user = Some("couponry".into());
        assert!(error(RedisSettings { username: user.clone(), ..settings.clone() }).contains("--redis-password"));
        let both = RedisSettings { username: user, password: Some("p".into()), ..settings };
        assert_eq!(both.check(), Ok(()));
        assert!(error(RedisSettings::at("rediss://r#insecure", "")).contains("cannot be disabled"));
        assert!(error(RedisSettings::at("redis://r", "{a}")).contains("--redis-key-prefix"));
    }
}
