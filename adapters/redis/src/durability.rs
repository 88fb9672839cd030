//! What Redis does with what it is told: on which depends what a crash of it can lose.

use std::collections::HashMap;

use redis::{Cmd, ErrorKind, FromRedisValue, RedisError, ServerErrorKind, Value};

use crate::connection::{Stock, StockError, failed};

/// How one Redis, or one master of a cluster, keeps what it is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Durability {
    /// Whether it takes writes at all: it is no replica.
    pub is_master: bool,
    /// How many replicas follow it.
    pub replicas: u64,
    /// Whether it belongs to a cluster, in which a replica takes over by itself.
    pub is_clustered: bool,
    /// Whether writes go to the append-only file. None: it does not say.
    pub appends: Option<bool>,
    /// Whether the last write to that file failed.
    pub append_failed: bool,
    /// What it is configured to do. None: this user may not ask, as with many managed ones.
    pub settings: Option<DurabilitySettings>,
}

/// The settings of Redis that decide what a crash of it can lose, as they are now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DurabilitySettings {
    /// When the append-only file reaches the disk: `always`, `everysec` or `no`.
    pub appendfsync: String,
    /// What goes when the memory is full.
    pub maxmemory_policy: String,
    /// How many replicas must be there for a write to be taken.
    pub min_replicas_to_write: u64,
}

impl Stock {
    /// How Redis keeps what it is told: one answer, or one of each master of a cluster. It costs Redis next to nothing.
    pub async fn durability(&self) -> Result<Vec<Durability>, StockError> {
        const OPERATION: &str = "ask Redis how it keeps its data";
        let mut info = redis::cmd("INFO");
        info.arg("replication").arg("persistence").arg("cluster");
        let told: Vec<String> = self.ask_each(&info).await.map_err(failed(OPERATION))?;

        let mut config = redis::cmd("CONFIG");
        config.arg("GET").arg("appendfsync").arg("maxmemory-policy").arg("min-replicas-to-write");
        let settings: Vec<HashMap<String, String>> = match self.ask_each(&config).await {
            Ok(settings) => settings,
            Err(error) if is_refused(&error) => Vec::new(),
            Err(error) => return Err(failed(OPERATION)(error)),
        };
        // The masters of a cluster answer in any order. Where one is worse than the others, it is told of all the same.
        let mut settings = settings.iter().map(DurabilitySettings::read);
        Ok(told.iter().map(|info| Durability { settings: settings.next(), ..Durability::read(info) }).collect())
    }

    async fn ask_each<T: FromRedisValue>(&self, command: &Cmd) -> Result<Vec<T>, RedisError> {
        let answers = self.connection().ask_each(command).await?;
        answers.into_iter().map(|answer| Ok(redis::from_redis_value(Value::extract_error(answer)?)?)).collect()
    }
}

/// Whether Redis answered, but not to this user.
fn is_refused(error: &RedisError) -> bool {
    let refusal = [ErrorKind::Extension, ErrorKind::Server(ServerErrorKind::NoPerm)];
    // A command that is renamed or taken away is unknown, which is a plain error.
    refusal.contains(&error.kind()) || error.kind() == ErrorKind::Server(ServerErrorKind::ResponseError)
}

impl Durability {
    /// From what `INFO` says.
    fn read(info: &str) -> Self {
        let lines: HashMap<&str, &str> = info.lines().filter_map(|line| line.trim_end().split_once(':')).collect();
        let is = |field: &str, value: &str| lines.get(field) == Some(&value);
        Self {
            is_master: is("role", "master"),
            replicas: lines.get("connected_slaves").and_then(|count| count.parse().ok()).unwrap_or_default(),
            is_clustered: is("cluster_enabled", "1"),
            appends: lines.get("aof_enabled").map(|enabled| *enabled == "1"),
            append_failed: lines.get("aof_last_write_status").is_some_and(|status| *status != "ok"),
            settings: None,
        }
    }
}

impl DurabilitySettings {
    /// From what `CONFIG GET` says.
    fn read(settings: &HashMap<String, String>) -> Self {
        let text = |name: &str| settings.get(name).cloned().unwrap_or_default();
        Self {
            appendfsync: text("appendfsync"),
            maxmemory_policy: text("maxmemory-policy"),
            min_replicas_to_write: text("min-replicas-to-write").parse().unwrap_or_default(),
        }
    }
}
