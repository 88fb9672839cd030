//! Removing an event, or only its coupons.

use couponry_domain::{EventName, Uuid};

use crate::{error::RedisStoreError, fenced_write::FencedWrite, redis_store::RedisStore};

impl RedisStore {
    /// Removes the coupons of an ended event, and keeps its counts and its window behind a closed gate. Idempotent.
    ///
    /// Returns false and changes nothing if the event has not ended, an issued coupon is not recorded, this Redis is
    /// not verified, or the current generation is newer than `generation`.
    pub async fn retire(
        &self,
        event: &EventName,
        uid: Uuid,
        stock_epoch: u32,
        generation: i64,
    ) -> Result<FencedWrite<bool>, RedisStoreError> {
        let keys = self.keys(event);
        let retired: Option<bool> = (self.scripts.retire)
            .key(keys.meta)
            .key(keys.queue)
            .key(keys.issued)
            .key(keys.outbox)
            .key(keys.sweeper)
            .arg(uid.to_string())
            .arg(stock_epoch)
            .arg(generation)
            .invoke_async(&mut self.connection())
            .await
            .map_err(self.failed("cannot remove the coupons of the ended event from Redis"))?;
        Ok(retired.into())
    }

    /// Removes the keys if they belong to the event with this uid; returns whether they did.
    pub async fn remove(&self, event: &EventName, uid: Uuid) -> Result<bool, RedisStoreError> {
        self.remove_if(event, uid, "").await
    }

    /// As [`RedisStore::remove`], for one stock epoch: a newer one stays.
    pub async fn remove_stock_epoch(
        &self,
        event: &EventName,
        uid: Uuid,
        stock_epoch: u32,
    ) -> Result<bool, RedisStoreError> {
        self.remove_if(event, uid, &stock_epoch.to_string()).await
    }

    async fn remove_if(&self, event: &EventName, uid: Uuid, stock_epoch: &str) -> Result<bool, RedisStoreError> {
        const OPERATION: &str = "cannot remove the event from Redis";
        let keys = self.keys(event);
        let removed: bool = (self.scripts.remove)
            .key(keys.meta)
            .key(keys.queue)
            .key(keys.issued)
            .key(keys.outbox)
            .key(keys.sweeper)
            .arg(uid.to_string())
            .arg(stock_epoch)
            .invoke_async(&mut self.connection())
            .await
            .map_err(self.failed(OPERATION))?;
        // Also if nothing was removed: the response to an earlier call may have been lost.
        if removed || !self.exists(event).await? {
            self.remove_from_event_list(event).await?;
        }
        Ok(removed)
    }
}
