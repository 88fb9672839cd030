//! The client for everything that Redis holds.

use std::sync::Arc;

use couponry_domain::{EventName, Uuid};
use couponry_settings::RedisSettings;
use redis::RedisError;

use crate::{
    active_marks::ActiveMarks,
    error::{DriverError, RedisStoreError, advice},
    key::{self, EventKeys},
    reconnecting_connection::ReconnectingConnection,
    script::Scripts,
};

/// A client for the events in one Redis. Cheap to clone; all clones share one connection, which reconnects by itself.
#[derive(Clone)]
pub struct RedisStore {
    connection: ReconnectingConnection,
    is_tls: bool,
    prefix: Arc<str>,
    /// Whose events this program prepares.
    pub(crate) installation: Option<Uuid>,
    pub(crate) marks: Arc<ActiveMarks>,
    pub(crate) scripts: Arc<Scripts>,
}

impl RedisStore {
    /// A client for this `redis://` URL without further settings. Connects with the first call. `prefix` precedes every
    /// key.
    pub fn connect(url: &str, prefix: &str) -> Result<Self, RedisStoreError> {
        Self::open(&RedisSettings::at(url, prefix))
    }

    /// A client with these settings. Connects with the first call.
    pub fn open(settings: &RedisSettings) -> Result<Self, RedisStoreError> {
        Ok(Self {
            connection: ReconnectingConnection::new(settings)?,
            is_tls: settings.is_tls(),
            prefix: settings.key_prefix.as_str().into(),
            installation: None,
            marks: Arc::default(),
            scripts: Arc::new(Scripts::new()),
        })
    }

    /// The same store, which marks the events that it prepares with their installation.
    #[must_use]
    pub fn of_installation(self, id: Uuid) -> Self {
        Self { installation: Some(id), ..self }
    }

    /// Checks that Redis responds, and allows this user to read the keys of this installation.
    pub async fn ping(&self) -> Result<(), RedisStoreError> {
        let response = redis::cmd("EXISTS").arg(self.events_key()).query_async::<bool>(&mut self.connection()).await;
        let Err(error) = response else { return Ok(()) };
        let cause = self.connection.diagnose().await.unwrap_or(error);
        let is_closed_by_peer = cause.is_connection_dropped() && !cause.is_connection_refusal();
        let advice = match self.is_tls {
            false if is_closed_by_peer => " (if this lasts, Redis may require TLS at this address: use rediss://)",
            true if cause.is_timeout() => " (if this lasts, Redis may not use TLS at this address: use redis://)",
            _ => advice(&cause),
        };
        Err(RedisStoreError::Unreachable { address: self.connection.address(), advice, cause: DriverError(cause) })
    }

    /// The names of all events in Redis.
    pub async fn events(&self) -> Result<Vec<EventName>, RedisStoreError> {
        let names: Vec<String> = redis::cmd("SMEMBERS")
            .arg(self.events_key())
            .query_async(&mut self.connection())
            .await
            .map_err(self.failed("cannot list the events in Redis"))?;
        Ok(names.into_iter().filter_map(|name| name.try_into().ok()).collect())
    }

    /// Whether Redis has the event.
    pub async fn exists(&self, event: &EventName) -> Result<bool, RedisStoreError> {
        let exists = redis::cmd("EXISTS").arg(self.keys(event).meta).query_async(&mut self.connection()).await;
        exists.map_err(self.failed("cannot look up the event in Redis"))
    }

    /// Adds an existing event to [`RedisStore::events`] again, and returns whether it was missing there. Idempotent.
    /// The programs call this regularly for every event that they observe: otherwise the outbox of an event whose name
    /// was lost would not be swept.
    pub async fn ensure_listed(&self, event: &EventName) -> Result<bool, RedisStoreError> {
        let is_added = self.add_to_event_set("cannot list the event in Redis", event).await?;
        // The event may have been removed in the meantime.
        if is_added && !self.exists(event).await? {
            self.unlist_event(event).await?;
            return Ok(false);
        }
        Ok(is_added)
    }

    /// Removes the name of an event that was removed.
    pub(crate) async fn unlist_event(&self, event: &EventName) -> Result<(), RedisStoreError> {
        const OPERATION: &str = "cannot remove the event from the set of events in Redis";
        redis::cmd("SREM")
            .arg(self.events_key())
            .arg(event.as_str())
            .query_async::<()>(&mut self.connection())
            .await
            .map_err(self.failed(OPERATION))?;
        // The event may have been prepared again in the meantime.
        if self.exists(event).await? {
            self.add_to_event_set(OPERATION, event).await?;
        }
        Ok(())
    }

    /// Adds the event to `couponEvents`, the set of all events. The set is in another hash slot than the keys of the
    /// event, so no script can write both. Instead, this precedes every call after which a coupon could be issued.
    pub(crate) async fn add_to_event_set(
        &self,
        operation: &'static str,
        event: &EventName,
    ) -> Result<bool, RedisStoreError> {
        (self.scripts.add_to_event_set)
            .key(self.events_key())
            .arg(event.as_str())
            .invoke_async(&mut self.connection())
            .await
            .map_err(self.failed(operation))
    }

    /// Converts an error of the driver into the error of this operation, whose text ends with "Redis".
    pub(crate) fn failed(&self, operation: &'static str) -> impl FnOnce(RedisError) -> RedisStoreError + use<> {
        let address = self.connection.address();
        move |cause| RedisStoreError::Redis { operation, address, cause: DriverError(cause) }
    }

    pub(crate) fn connection(&self) -> ReconnectingConnection {
        self.connection.clone()
    }

    pub(crate) fn keys(&self, event: &EventName) -> EventKeys {
        EventKeys::new(&self.prefix, event)
    }

    pub(crate) fn pending_deletions_key(&self) -> String {
        key::pending_deletions(&self.prefix)
    }

    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(crate) fn events_key(&self) -> String {
        key::events(&self.prefix)
    }
}
