//! The connection to Redis, and what can go wrong with it.

use std::{sync::Arc, time::Duration};

use redis::{
    Client, RedisError, Script,
    aio::{ConnectionManager, ConnectionManagerConfig},
};

use crate::key::EventKeys;

/// How long an answer may take. After that the outcome is unknown: Redis may still run the script.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(2);
const LONGEST_RECONNECT_DELAY: Duration = Duration::from_secs(1);

/// Why a call to Redis did not give an answer.
#[derive(Debug, thiserror::Error)]
pub enum StockError {
    /// The address is no Redis URL.
    #[error("the Redis URL is not of the form redis://[user:password@]host[:port][/database]: {0}")]
    Url(#[source] RedisError),
    /// Redis did not answer, or refused. After a timeout or a lost connection the call may have had its effect.
    #[error("{operation}: {source}")]
    Redis {
        /// What was asked for.
        operation: &'static str,
        /// What Redis or the connection said.
        source: RedisError,
    },
    /// Redis holds a value that this version did not write.
    #[error("{operation}: Redis holds {what}")]
    Unreadable {
        /// What was asked for.
        operation: &'static str,
        /// The value.
        what: String,
    },
}

/// The stock of all events in one Redis. Cheap to clone; all clones share one connection, which comes back by itself.
#[derive(Clone)]
pub struct Stock {
    connection: ConnectionManager,
    prefix: Arc<str>,
    pub(crate) scripts: Arc<Scripts>,
}

pub(crate) struct Scripts {
    pub(crate) issue: Script,
    pub(crate) prepare: Script,
    pub(crate) load: Script,
    pub(crate) gate: Script,
    pub(crate) settle: Script,
    pub(crate) observe: Script,
    pub(crate) remove: Script,
    pub(crate) sweeper: Script,
}

impl Stock {
    /// A stock at this `redis://` URL. Connects with the first call. `prefix` is put before every key.
    pub fn connect(url: &str, prefix: &str) -> Result<Self, StockError> {
        let client = Client::open(url).map_err(StockError::Url)?;
        let config = ConnectionManagerConfig::new()
            .set_response_timeout(Some(RESPONSE_TIMEOUT))
            .set_connection_timeout(Some(CONNECTION_TIMEOUT))
            .set_max_delay(LONGEST_RECONNECT_DELAY);
        let connection = ConnectionManager::new_lazy_with_config(client, config).map_err(StockError::Url)?;
        let scripts = Scripts {
            issue: Script::new(include_str!("lua/issue.lua")),
            prepare: Script::new(include_str!("lua/prepare.lua")),
            load: Script::new(include_str!("lua/load.lua")),
            gate: Script::new(include_str!("lua/gate.lua")),
            settle: Script::new(include_str!("lua/settle.lua")),
            observe: Script::new(include_str!("lua/observe.lua")),
            remove: Script::new(include_str!("lua/remove.lua")),
            sweeper: Script::new(include_str!("lua/sweeper.lua")),
        };
        Ok(Self { connection, prefix: prefix.into(), scripts: Arc::new(scripts) })
    }

    /// Whether Redis answers.
    pub async fn ping(&self) -> Result<(), StockError> {
        redis::cmd("PING").query_async::<()>(&mut self.connection()).await.map_err(failed("ping Redis"))
    }

    pub(crate) fn connection(&self) -> ConnectionManager {
        self.connection.clone()
    }

    pub(crate) fn keys(&self, event: &domain::EventId) -> EventKeys {
        EventKeys::new(&self.prefix, event)
    }

    pub(crate) fn events_key(&self) -> String {
        crate::key::events(&self.prefix)
    }
}

/// Names the operation in which Redis failed.
pub(crate) fn failed(operation: &'static str) -> impl FnOnce(RedisError) -> StockError {
    move |source| StockError::Redis { operation, source }
}
