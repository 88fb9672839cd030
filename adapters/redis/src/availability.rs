//! Whether Redis is available.

use redis::RedisError;

use crate::{
    error::{DriverError, RedisStoreError, is_about_one_node},
    redis_store::RedisStore,
};

impl RedisStore {
    /// Checks that Redis responds, and allows this user to read the keys of this installation.
    ///
    /// # Errors
    /// If only some masters of a cluster are unavailable, the error [is a partial
    /// outage](RedisStoreError::is_partial_outage).
    pub async fn ping(&self) -> Result<(), RedisStoreError> {
        let probe = redis::cmd("EXISTS").arg(self.events_key()).query_async::<bool>(&mut self.connection()).await;
        let masters = match &probe {
            // Another node would return the same.
            Err(error) if !is_about_one_node(error) => Vec::new(),
            _ if !self.is_cluster => Vec::new(),
            _ => self.connection().query_masters(&redis::cmd("PING")).await,
        };
        let count = masters.len();
        let mut failures: Vec<RedisError> = masters.into_iter().filter_map(Result::err).collect();
        if failures.len() < count
            && let Some(cause) = failures.pop()
        {
            return Err(RedisStoreError::PartialOutage {
                unavailable: failures.len() + 1,
                masters: count,
                address: self.connection().address(),
                cause: DriverError(cause),
            });
        }
        let Err(error) = probe else { return Ok(()) };
        let cause = self.connection().diagnose().await.unwrap_or(error);
        let is_closed_by_peer = cause.is_connection_dropped() && !cause.is_connection_refusal();
        let advice = match self.is_tls {
            false if is_closed_by_peer => " (if this lasts, Redis may require TLS at this address: use rediss://)",
            true if cause.is_timeout() => " (if this lasts, Redis may not use TLS at this address: use redis://)",
            _ => self.advice(&cause),
        };
        Err(RedisStoreError::Unreachable { address: self.connection().address(), advice, cause: DriverError(cause) })
    }
}
