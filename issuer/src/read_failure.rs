//! Why the state of an event or a user is not known.

use couponry_domain::EventName;
use couponry_redis::{RedisStore, RedisStoreError};
use couponry_runtime::error_chain;

use crate::recent_events::RecentEvents;

/// Why a read has no result. Several requests share a read, so each of them makes its own response of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadFailure {
    /// The event does not exist.
    UnknownEvent,
    /// This Redis is not verified.
    Unverified,
    /// Redis contains a value that cannot be parsed.
    InvalidValue,
    /// Redis did not respond in time.
    Unavailable,
    /// Too many requests wait for Redis. This one was not processed.
    Overloaded,
}

impl ReadFailure {
    /// An event that Redis does not have.
    pub(crate) async fn of_missing(event: &EventName, recent: &RecentEvents, redis_store: &RedisStore) -> Self {
        if recent.may_exist(event, redis_store).await { Self::Unverified } else { Self::UnknownEvent }
    }
}

impl From<RedisStoreError> for ReadFailure {
    fn from(error: RedisStoreError) -> Self {
        let is_invalid = matches!(error, RedisStoreError::InvalidValue { .. });
        tracing::warn!(error = error_chain(error), "cannot read from Redis");
        if is_invalid { Self::InvalidValue } else { Self::Unavailable }
    }
}
