//! The version of Redis.

use std::{collections::HashMap, fmt};

use crate::{error::RedisStoreError, redis_store::RedisStore};

/// The oldest supported version of Redis: the scripts use its functions and flags.
const MIN_VERSION: (u32, u32) = (7, 0);

/// The version of one Redis or Valkey.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerVersion {
    /// `Redis` or `Valkey`.
    pub product: &'static str,
    /// Its version, for example `7.0.15`.
    pub version: String,
    /// The version of Redis with which it is compatible.
    compatible: String,
}

impl ServerVersion {
    /// Parses the reply to `INFO server`. Valkey reports its own version, and the last one of Redis that it resembles.
    fn parse(info: &str) -> Self {
        let lines: HashMap<&str, &str> = info.lines().filter_map(|line| line.trim_end().split_once(':')).collect();
        let compatible = (*lines.get("redis_version").unwrap_or(&"")).to_owned();
        match lines.get("valkey_version") {
            Some(version) => Self { product: "Valkey", version: (*version).to_owned(), compatible },
            None => Self { product: "Redis", version: compatible.clone(), compatible },
        }
    }

    /// Whether this version supports the scripts.
    #[must_use]
    pub fn is_supported(&self) -> bool {
        let mut numbers = self.compatible.split('.').map(|number| number.parse().unwrap_or(0));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= MIN_VERSION
    }
}

impl fmt::Display for ServerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.product, self.version)
    }
}

impl RedisStore {
    /// The versions of Redis, or of each master of a cluster.
    pub async fn server_versions(&self) -> Result<Vec<ServerVersion>, RedisStoreError> {
        let mut info = redis::cmd("INFO");
        info.arg("server");
        let infos: Vec<String> =
            self.query_masters(&info).await.map_err(self.failed("cannot read the version of Redis"))?;
        Ok(infos.iter().map(|info| ServerVersion::parse(info)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_of_redis_and_valkey_is_recognized() {
        for (info, name, is_supported) in [
            ("# Server\r\nredis_version:6.2.14\r\nredis_mode:standalone\r\n", "Redis 6.2.14", false),
            ("# Server\r\nredis_version:7.0.15\r\n", "Redis 7.0.15", true),
            ("# Server\r\nredis_version:8.4.0\r\n", "Redis 8.4.0", true),
            ("redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.1.1\r\n", "Valkey 8.1.1", true),
            ("", "Redis ", false),
        ] {
            let version = ServerVersion::parse(info);
            assert_eq!((version.to_string().as_str(), version.is_supported()), (name, is_supported));
        }
    }
}
