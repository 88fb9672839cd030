//! Events whose rows in Postgres are still to be deleted, because Postgres was unavailable when they were deleted.

use couponry_domain::{EventName, Uuid};

use crate::{error::RedisStoreError, redis_store::RedisStore};

impl RedisStore {
    /// Adds an event to the pending deletions. Idempotent.
    pub async fn add_pending_deletion(&self, uid: Uuid, event: &EventName) -> Result<(), RedisStoreError> {
        self.change_pending_deletions("SADD", uid, event).await
    }

    /// Removes an event from the pending deletions. Idempotent.
    pub async fn remove_pending_deletion(&self, uid: Uuid, event: &EventName) -> Result<(), RedisStoreError> {
        self.change_pending_deletions("SREM", uid, event).await
    }

    async fn change_pending_deletions(
        &self,
        command: &str,
        uid: Uuid,
        event: &EventName,
    ) -> Result<(), RedisStoreError> {
        redis::cmd(command)
            .arg(self.pending_deletions_key())
            .arg(format!("{uid}/{event}"))
            .query_async(&mut self.connection())
            .await
            .map_err(self.failed("cannot change the pending deletions in Redis"))
    }

    /// The events whose rows are still to be deleted, by uid and name.
    pub async fn pending_deletions(&self) -> Result<Vec<(Uuid, EventName)>, RedisStoreError> {
        let members: Vec<String> = redis::cmd("SMEMBERS")
            .arg(self.pending_deletions_key())
            .query_async(&mut self.connection())
            .await
            .map_err(self.failed("cannot read the pending deletions from Redis"))?;
        let parse = |member: &String| {
            let (uid, event) = member.split_once('/')?;
            Some((uid.parse().ok()?, event.parse().ok()?))
        };
        Ok(members.iter().filter_map(parse).collect())
    }
}
