//! When an issued coupon may be returned to its user.

use serde::{Deserialize, Serialize};

/// When an issued coupon may be returned to its user. The manifest and Redis use the same names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Acknowledge {
    /// After the atomic step in Redis.
    #[default]
    Redis,
    /// After the brokers have confirmed the record as well.
    Kafka,
}

impl Acknowledge {
    /// The name in Redis and in the manifest.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Redis => "Redis",
            Self::Kafka => "Kafka",
        }
    }

    /// The variant with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Redis, Self::Kafka].into_iter().find(|acknowledge| acknowledge.as_str() == name)
    }
}
