//! The event list: the names of all events.
//!
//! It is in another hash slot than the keys of an event: no script can write both, and a node of a cluster may be
//! unavailable with the list while the node of an event is available.
//!
//! # Guarantees
//! A *verified* list has every loaded event, also those that this Redis has lost, until the operator has restored them.
//! The list is unverified from each restart, failover or loss of data on until the operator verifies it.

use couponry_domain::EventName;

use crate::{error::RedisStoreError, redis_store::RedisStore};

impl RedisStore {
    /// The names of all events in Redis.
    pub async fn events(&self) -> Result<Vec<EventName>, RedisStoreError> {
        let names: Vec<String> = redis::cmd("SMEMBERS")
            .arg(self.events_key())
            .query_async(&mut self.connection())
            .await
            .map_err(self.failed("cannot read the event list in Redis"))?;
        Ok(names.into_iter().filter_map(|name| name.try_into().ok()).collect())
    }

    /// Whether the event may exist although Redis does not have its keys: it is listed, or the list is not verified.
    pub async fn may_exist(&self, event: &EventName) -> Result<bool, RedisStoreError> {
        let (is_verified, is_listed) = self.event_list_state(event.as_str()).await?;
        Ok(is_listed || !is_verified)
    }

    /// Whether [`RedisStore::verify_event_list`] was called since this Redis has restarted, failed over or lost data.
    pub async fn is_event_list_verified(&self) -> Result<bool, RedisStoreError> {
        Ok(self.event_list_state("").await?.0)
    }

    async fn event_list_state(&self, event: &str) -> Result<(bool, bool), RedisStoreError> {
        (self.scripts.event_list_state)
            .key(self.events_key())
            .arg(event)
            .invoke_async(&mut self.connection())
            .await
            .map_err(self.failed("cannot read the event list in Redis"))
    }

    /// Adds these names to [`RedisStore::events`] and marks it as verified, in one step. They must include every loaded
    /// event.
    pub async fn verify_event_list(
        &self,
        loaded: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<(), RedisStoreError> {
        let mut call = self.scripts.verify_event_list.key(self.events_key());
        for name in loaded {
            call.push(name.as_ref());
        }
        let verified: Result<u8, _> = call.invoke_async(&mut self.connection()).await;
        verified.map(drop).map_err(self.failed("cannot verify the event list in Redis"))
    }

    /// Adds an existing event to [`RedisStore::events`] again, and returns whether it was missing there. Idempotent.
    /// The programs call this regularly for every event that they observe: otherwise the outbox of an event whose name
    /// was lost would not be swept.
    pub async fn ensure_listed(&self, event: &EventName) -> Result<bool, RedisStoreError> {
        let is_added = self.add_to_event_list("cannot add the event to the event list in Redis", event).await?;
        // The event may have been removed in the meantime.
        if is_added && !self.exists(event).await? {
            self.remove_from_event_list(event).await?;
            return Ok(false);
        }
        Ok(is_added)
    }

    /// Adds the event to [`RedisStore::events`]. This precedes every call after which a coupon could be issued. Best
    /// effort, because an unavailable list must not stop an event: [`RedisStore::ensure_listed`] repeats it, and
    /// reports the failure.
    pub(crate) async fn ensure_in_event_list(&self, event: &EventName) {
        let _ = self.add_to_event_list("cannot add the event to the event list in Redis", event).await;
    }

    /// Removes the name of an event that was removed.
    pub(crate) async fn remove_from_event_list(&self, event: &EventName) -> Result<(), RedisStoreError> {
        const OPERATION: &str = "cannot remove the event from the event list in Redis";
        redis::cmd("SREM")
            .arg(self.events_key())
            .arg(event.as_str())
            .query_async::<()>(&mut self.connection())
            .await
            .map_err(self.failed(OPERATION))?;
        // The event may have been prepared again in the meantime.
        if self.exists(event).await? {
            self.add_to_event_list(OPERATION, event).await?;
        }
        Ok(())
    }

    async fn add_to_event_list(&self, operation: &'static str, event: &EventName) -> Result<bool, RedisStoreError> {
        (self.scripts.add_to_event_list)
            .key(self.events_key())
            .arg(event.as_str())
            .invoke_async(&mut self.connection())
            .await
            .map_err(self.failed(operation))
    }
}
