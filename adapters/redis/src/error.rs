//! Errors of Redis operations.

use std::sync::Arc;

use couponry_settings::SettingsError;
use redis::{ErrorKind, RedisError, ServerErrorKind};

/// An error of Redis or of its driver. `Display` of the driver error already includes its sources, so `source()`
/// returns None, and a printed chain shows each cause once.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct DriverError(pub(crate) RedisError);

/// A failed Redis operation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RedisStoreError {
    /// The URL is not a valid Redis URL. The message does not contain it, because it may have a password.
    #[error("the Redis URL is not of the form redis://[user:password@]host[:port][/database]")]
    Url(#[source] DriverError),
    /// The settings contradict each other.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// Redis cannot be reached, or rejects the connection.
    #[error("cannot reach Redis at {address}{advice}")]
    Unreachable {
        /// Its hosts and ports.
        address: Arc<str>,
        /// A possible fix, where the cause does not name one.
        advice: &'static str,
        /// The error of Redis or of the connection.
        #[source]
        cause: DriverError,
    },
    /// Some masters of a Redis Cluster are unavailable, and with them the keys on them. The others are available.
    #[error("{unavailable} of {masters} masters of the Redis Cluster at {address} are unavailable")]
    PartialOutage {
        /// How many masters are unavailable.
        unavailable: usize,
        /// How many masters there are.
        masters: usize,
        /// The hosts and ports of Redis.
        address: Arc<str>,
        /// The error of one of them.
        #[source]
        cause: DriverError,
    },
    /// Redis returned an error, or the connection failed. After a timeout or a lost connection the outcome is unknown.
    #[error("{operation} at {address}{advice}")]
    Redis {
        /// The failed operation.
        operation: &'static str,
        /// The hosts and ports of Redis.
        address: Arc<str>,
        /// A possible fix, where the cause does not name one.
        advice: &'static str,
        /// The error of Redis or of the connection.
        #[source]
        cause: DriverError,
    },
    /// Redis contains a value that this version does not write.
    #[error("{operation}: Redis contains the invalid value {value}")]
    InvalidValue {
        /// The failed operation.
        operation: &'static str,
        /// The value, quoted.
        value: String,
    },
}

impl RedisStoreError {
    /// The code of an error that Redis returned, such as `OOM`.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Unreachable { cause, .. } | Self::PartialOutage { cause, .. } | Self::Redis { cause, .. } => {
                cause.0.code()
            }
            Self::Url(_) | Self::Settings(_) | Self::InvalidValue { .. } => None,
        }
    }

    /// Whether Redis is available for events on other nodes of the cluster.
    #[must_use]
    pub const fn is_partial_outage(&self) -> bool {
        matches!(self, Self::PartialOutage { .. })
    }

    pub(crate) fn url(cause: RedisError) -> Self {
        Self::Url(DriverError(cause))
    }
}

pub(crate) fn invalid_value(operation: &'static str, value: &str) -> RedisStoreError {
    RedisStoreError::InvalidValue { operation, value: format!("{value:?}") }
}

/// A possible fix for an error whose own text does not name one.
pub(crate) fn advice(error: &RedisError, is_cluster: bool) -> &'static str {
    match error.kind() {
        ErrorKind::Server(ServerErrorKind::Moved) if is_cluster => " (the node that has the key is unavailable)",
        ErrorKind::AuthenticationFailed => " (check --redis-username and --redis-password)",
        ErrorKind::Server(ServerErrorKind::Moved) => " (this is a node of a Redis Cluster: set --redis-cluster)",
        _ => {
            let text = error.to_string();
            if text.contains("InvalidContentType") {
                " (the server does not use TLS at this address: use redis://, or another port)"
            } else if ["UnknownIssuer", "BadSignature"].iter().any(|reason| text.contains(reason)) {
                " (the server certificate was not issued by a CA in --redis-ca-file)"
            } else if text.contains("cluster support disabled") {
                " (this is not a Redis Cluster: remove --redis-cluster)"
            } else {
                ""
            }
        }
    }
}

/// Whether the error of a Redis Cluster may concern only the node that has the key.
pub(crate) fn is_about_one_node(error: &RedisError) -> bool {
    use ServerErrorKind::{Ask, BusyLoading, MasterDown, Moved, TryAgain};

    matches!(
        error.kind(),
        ErrorKind::Io
            | ErrorKind::ClusterConnectionNotFound
            | ErrorKind::Server(Ask | BusyLoading | MasterDown | Moved | TryAgain)
    )
}
