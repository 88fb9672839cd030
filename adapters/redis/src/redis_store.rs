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
    pub(crate) is_cluster: bool,
    pub(crate) is_tls: bool,
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
            is_cluster: settings.cluster,
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

    /// Whether Redis has the event.
    pub async fn exists(&self, event: &EventName) -> Result<bool, RedisStoreError> {
        let exists = redis::cmd("EXISTS").arg(self.keys(event).meta).query_async(&mut self.connection()).await;
        exists.map_err(self.failed("cannot look up the event in Redis"))
    }

    /// Converts an error of the driver into the error of this operation, whose text ends with "Redis".
    pub(crate) fn failed(&self, operation: &'static str) -> impl FnOnce(RedisError) -> RedisStoreError + use<> {
        let (address, is_cluster) = (self.connection.address(), self.is_cluster);
        move |cause| {
            let advice = advice(&cause, is_cluster);
            RedisStoreError::Redis { operation, address, advice, cause: DriverError(cause) }
        }
    }

    /// A possible fix for an error whose own text does not name one.
    pub(crate) fn advice(&self, error: &RedisError) -> &'static str {
        advice(error, self.is_cluster)
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
