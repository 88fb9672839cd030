//! Events whose rows in Postgres are still to be deleted, because Postgres was unavailable when they were deleted.

use couponry_domain::Uuid;

use crate::{error::RedisStoreError, redis_store::RedisStore};

impl RedisStore {
    /// Adds an event to the pending deletions. Idempotent.
    pub async fn add_pending_deletion(&self, uid: Uuid) -> Result<(), RedisStoreError> {
        self.change_pending_deletions("SADD", uid).await
    }

    /// Removes an event from the pending deletions. Idempotent.
    pub async fn remove_pending_deletion(&self, uid: Uuid) -> Result<(), RedisStoreError> {
        self.change_pending_deletions("SREM", uid).await
    }

    async fn change_pending_deletions(&self, command: &str, uid: Uuid) -> Result<(), RedisStoreError> {
        redis::cmd(command)
            .arg(self.pending_deletions_key())
            .arg(uid.to_string())
            .query_async(&mut self.connection())
            .await
            .map_err(self.failed("cannot change the pending deletions in Redis"))
    }

    /// The uids of the events whose rows are still to be deleted.
    pub async fn pending_deletions(&self) -> Result<Vec<Uuid>, RedisStoreError> {
        let uids: Vec<String> = redis::cmd("SMEMBERS")
            .arg(self.pending_deletions_key())
            .query_async(&mut self.connection())
            .await
            .map_err(self.failed("cannot read the pending deletions from Redis"))?;
        Ok(uids.iter().filter_map(|uid| uid.parse().ok()).collect())
    }
}
