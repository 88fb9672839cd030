//! The events whose outbox is swept each second.
//!
//! Most events are idle, and reading the outbox of each of thousands every second would cost more than issuing. Each
//! program that adds an entry to an outbox, or finds one there, therefore marks the event as active.
//!
//! # Caveats
//! A mark can be lost: with a crash between the entry and the mark, or with the data of Redis. Therefore the operator
//! marks the events in whose outbox it finds entries, and the sweeper reads all outboxes from time to time.

use std::time::Duration;

use couponry_domain::{EventName, Uuid};

use crate::{error::RedisStoreError, key, redis_store::RedisStore};

/// For how long a mark lasts.
const ACTIVE: Duration = Duration::from_mins(1);
impl RedisStore {
    /// Marks an event as active, unless this process has done so in the last seconds. Best effort: in a cluster, the
    /// marks may be on a node that is unavailable, while that of the event is available.
    pub async fn mark_active(&self, event: &EventName) {
        if !self.marks.is_due(event) {
            return;
        }
        let marked: Result<u8, _> = (self.scripts.mark_active)
            .key(key::active_events(self.prefix()))
            .arg(event.as_str())
            .invoke_async(&mut self.connection())
            .await;
        if marked.is_err() {
            self.marks.remove(event);
        }
    }

    /// The active events.
    pub async fn active_events(&self) -> Result<Vec<EventName>, RedisStoreError> {
        let names: Vec<String> = (self.scripts.active_events)
            .key(key::active_events(self.prefix()))
            .arg(u64::try_from(ACTIVE.as_millis()).unwrap_or(u64::MAX))
            .invoke_async(&mut self.connection())
            .await
            .map_err(self.failed("cannot list the active events in Redis"))?;
        Ok(names.into_iter().filter_map(|name| name.try_into().ok()).collect())
    }

    /// Acquires or renews the lease for reading the outboxes of all events. Returns whether `issuer` holds it.
    pub async fn acquire_walk_lease(&self, issuer: Uuid, duration: Duration) -> Result<bool, RedisStoreError> {
        (self.scripts.acquire_lease)
            .key(key::outbox_walk(self.prefix()))
            .arg(issuer.to_string())
            .arg(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
            .invoke_async(&mut self.connection())
            .await
            .map_err(self.failed("cannot acquire the lease for all outboxes in Redis"))
    }

    /// How many entries the outbox of the event has.
    pub async fn outbox_len(&self, event: &EventName) -> Result<u64, RedisStoreError> {
        redis::cmd("XLEN")
            .arg(self.keys(event).outbox)
            .query_async(&mut self.connection())
            .await
            .map_err(self.failed("cannot read the length of the outbox in Redis"))
    }
}
