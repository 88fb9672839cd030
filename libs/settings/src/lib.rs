//! Connection settings of Redis, Postgres and Kafka: addresses, credentials, TLS.
//!
//! Each server has one settings type, which is a group of command-line flags, the same in every program, and which
//! the adapters connect with. Invalid settings are reported at startup with the name of the flag. Secrets are
//! redacted in debug output.

mod ca_certificates;
mod error;
mod kafka;
mod postgres;
mod redis;
mod secret;

pub use ca_certificates::{CaCertificates, CaCertificatesError};
pub use error::SettingsError;
pub use kafka::{KafkaSettings, SaslMechanism, SecurityProtocol};
pub use postgres::PostgresSettings;
pub use redis::RedisSettings;
pub use secrecy::{ExposeSecret, SecretString};
pub use secret::{SecretError, parse_secret};
