//! Where Redis is.

use crate::{Authorities, Secret, SettingsError, ensure};

/// Where Redis is.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
#[command(next_help_heading = "Redis")]
pub struct RedisSettings {
    /// Address of Redis: `redis://[user:password@]host[:port][/database]`, or `rediss://...` to speak TLS. `@PATH` reads it
    /// from a file.
    ///
    /// With --redis-cluster several addresses may be given, separated by commas: nodes to ask for the others.
    #[arg(id = "redis_url", long = "redis-url", env = "REDIS_URL", value_name = "URL", value_parser = Secret::parse, hide_env_values = true)]
    pub url: Secret,
    /// The ACL user, instead of the one in the URL. `@PATH` reads it from a file.
    #[arg(id = "redis_username", long = "redis-username", env = "REDIS_USERNAME", value_name = "USER", value_parser = Secret::parse, hide_env_values = true)]
    pub username: Option<Secret>,
    /// The password, instead of the one in the URL. `@PATH` reads it from a file.
    #[arg(id = "redis_password", long = "redis-password", env = "REDIS_PASSWORD", value_name = "PASSWORD", value_parser = Secret::parse, hide_env_values = true)]
    pub password: Option<Secret>,
    /// PEM file with the authorities that Redis's certificate may come from. Without it: the public ones (Mozilla's list).
    #[arg(id = "redis_ca_file", long = "redis-ca-file", env = "REDIS_CA_FILE", value_name = "PATH", value_parser = Authorities::read)]
    pub authorities: Option<Authorities>,
    /// The address is that of a Redis Cluster.
    #[arg(id = "redis_cluster", long = "redis-cluster", env = "REDIS_CLUSTER", value_parser = clap::builder::BoolishValueParser::new())]
    pub cluster: bool,
    /// Put before every key, so that several installations can share a Redis.
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
    /// A Redis at this address that needs nothing else.
    #[must_use]
    pub fn at(url: &str, key_prefix: &str) -> Self {
        Self { url: Secret::from(url), key_prefix: key_prefix.to_owned(), ..Self::default() }
    }

    /// Whether the address asks for TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.url.reveal().starts_with("rediss://")
    }

    /// Whether the settings fit together.
    pub fn check(&self) -> Result<(), SettingsError> {
        ensure(
            self.authorities.is_none() || self.is_tls(),
            "--redis-ca-file is given, but --redis-url does not begin with rediss://: without TLS no certificate is looked at",
        )?;
        ensure(
            !self.url.reveal().contains('#'),
            "--redis-url may not have a part after #: a server's certificate is always verified",
        )?;
        // A name without a password would not even be sent.
        let has_password = self.password.is_some() || self.url.reveal().contains('@');
        ensure(self.username.is_none() || has_password, "--redis-username needs --redis-password")?;
        ensure(
            !self.key_prefix.contains(['{', '}']),
            "--redis-key-prefix may not contain braces: those in the keys say which keys stay together in a cluster",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_together_is_named() {
        let settings = RedisSettings::at("redis://r:6379", "");
        assert_eq!(settings.check(), Ok(()));
        let refused = |settings: RedisSettings| settings.check().unwrap_err().to_string();
        let user = Some(Secret::from("couponry"));
        assert!(refused(RedisSettings { username: user.clone(), ..settings.clone() }).contains("--redis-password"));
        let both = RedisSettings { username: user, password: Some(Secret::from("p")), ..settings.clone() };
        assert_eq!(both.check(), Ok(()));
        assert!(refused(RedisSettings::at("rediss://r#insecure", "")).contains("always verified"));
        assert!(refused(RedisSettings::at("redis://r", "{a}")).contains("--redis-key-prefix"));
    }
}
