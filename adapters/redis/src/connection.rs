//! The stock, and what can go wrong with it.

use std::sync::Arc;

use couponry_settings::{RedisSettings, SettingsError};
use redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::{key::EventKeys, link::Link, script::Script};

/// Why a call to Redis did not give an answer.
#[derive(Debug, thiserror::Error)]
pub enum StockError {
    /// The address is no Redis URL.
    #[error("the Redis URL is not of the form redis://[user:password@]host[:port][/database]: {0}")]
    Url(#[source] RedisError),
    /// The settings do not fit together.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// Redis cannot be reached, or does not let us in.
    #[error("reaching Redis at {address}: {source}{advice}")]
    Unreachable {
        /// Its hosts and ports.
        address: Arc<str>,
        /// What Redis or the connection said.
        source: RedisError,
        /// What to do about it, where the error does not say it.
        advice: &'static str,
    },
    /// Redis did not answer, or refused. After a timeout or a lost connection the call may have had its effect.
    #[error("{operation}: {source}{}", advice(source))]
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
    link: Link,
    is_tls: bool,
    prefix: Arc<str>,
    pub(crate) scripts: Arc<Scripts>,
}

pub(crate) struct Scripts {
    pub(crate) adopt: Script,
    pub(crate) issue: Script,
    pub(crate) lookup: Script,
    pub(crate) recover: Script,
    pub(crate) resend: Script,
    pub(crate) prepare: Script,
    pub(crate) load: Script,
    pub(crate) gate: Script,
    pub(crate) settle: Script,
    pub(crate) observe: Script,
    pub(crate) remove: Script,
    pub(crate) retire: Script,
    pub(crate) sweeper: Script,
    pub(crate) clock: Script,
}

impl Stock {
    /// A stock at this `redis://` URL, that needs nothing else. Connects with the first call. `prefix` is put before every key.
    pub fn connect(url: &str, prefix: &str) -> Result<Self, StockError> {
        Self::open(&RedisSettings::at(url, prefix))
    }

    /// A stock with these settings. Connects with the first call.
    pub fn open(settings: &RedisSettings) -> Result<Self, StockError> {
        let link = Link::new(settings)?;
        let scripts = Scripts {
            adopt: Script::new(include_str!("lua/adopt.lua")),
            lookup: Script::new(include_str!("lua/lookup.lua")),
            recover: Script::new(include_str!("lua/recover.lua")),
            resend: Script::new(include_str!("lua/resend.lua")),
            issue: Script::new(include_str!("lua/issue.lua")),
            prepare: Script::new(include_str!("lua/prepare.lua")),
            load: Script::new(include_str!("lua/load.lua")),
            gate: Script::new(include_str!("lua/gate.lua")),
            settle: Script::new(include_str!("lua/settle.lua")),
            observe: Script::new(include_str!("lua/observe.lua")),
            remove: Script::new(include_str!("lua/remove.lua")),
            retire: Script::new(include_str!("lua/retire.lua")),
            sweeper: Script::new(include_str!("lua/sweeper.lua")),
            clock: Script::new(include_str!("lua/clock.lua")),
        };
        Ok(Self {
            link,
            is_tls: settings.is_tls(),
            prefix: settings.key_prefix.as_str().into(),
            scripts: Arc::new(scripts),
        })
    }

    /// Whether Redis answers, to us, about our keys.
    pub async fn ping(&self) -> Result<(), StockError> {
        let answer = redis::cmd("EXISTS").arg(self.events_key()).query_async::<bool>(&mut self.connection()).await;
        let Err(error) = answer else { return Ok(()) };
        let source = self.link.diagnosis().await.unwrap_or(error);
        let is_hung_up = source.is_connection_dropped() && !source.is_connection_refusal();
        let advice = match self.is_tls {
            false if is_hung_up => ": if this lasts, Redis may want TLS at this address (rediss://)",
            true if source.is_timeout() => ": if this lasts, Redis may not speak TLS at this address (redis://)",
            _ => advice(&source),
        };
        Err(StockError::Unreachable { address: self.link.address(), source, advice })
    }

    pub(crate) fn connection(&self) -> Link {
        self.link.clone()
    }

    pub(crate) fn keys(&self, event: &couponry_domain::EventName) -> EventKeys {
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

/// What to do about an error whose own text does not say it.
fn advice(error: &RedisError) -> &'static str {
    match error.kind() {
        ErrorKind::AuthenticationFailed => " (check --redis-username and --redis-password)",
        ErrorKind::Server(ServerErrorKind::Moved) => " (this is a node of a Redis Cluster: set --redis-cluster)",
        _ => {
            let text = error.to_string();
            if text.contains("InvalidContentType") {
                " (no TLS is spoken at this address: redis://, or another port)"
            } else if ["UnknownIssuer", "BadSignature"].iter().any(|reason| text.contains(reason)) {
                " (the certificate is not from an authority in --redis-ca-file)"
            } else if text.contains("cluster support disabled") {
                " (this is no Redis Cluster: leave out --redis-cluster)"
            } else {
                ""
            }
        }
    }
}
