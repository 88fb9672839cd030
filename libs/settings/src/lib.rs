//! Where Redis, Postgres and Kafka are, and how to log in there.
//!
//! Each server has one settings type. It is a group of flags, the same in every program, and it is what `stock`, `database` and
//! `journal` connect with. What is wrong with it is told at the start, by flag; none of it can get into a log.

mod authorities;
mod kafka;
mod postgres;
mod redis;
mod secret;

pub use authorities::{Authorities, AuthoritiesError};
pub use kafka::{KafkaSettings, SaslMechanism, SecurityProtocol};
pub use postgres::PostgresSettings;
pub use redis::RedisSettings;
pub use secret::{Secret, SecretError};

/// Settings that do not fit together. The text says which flag to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SettingsError(String);

impl SettingsError {
    /// An error with this text, in which nothing may be secret.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// Fails with the text when the condition does not hold.
fn ensure(holds: bool, text: &str) -> Result<(), SettingsError> {
    if holds { Ok(()) } else { Err(SettingsError::new(text)) }
}
