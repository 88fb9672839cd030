//! The masters of Redis: their replication state, and the settings that determine which data a crash can lose.

use std::collections::HashMap;

use redis::{Cmd, ErrorKind, FromRedisValue, RedisError, ServerErrorKind, Value};

use crate::{error::RedisStoreError, redis_store::RedisStore};

/// What one Redis, or one master of a cluster, reports about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MasterInfo {
    /// Its `master_replid`, the replication id.
    pub replication_id: String,
    /// Whether it is a master, not a replica.
    pub is_master: bool,
    /// How many replicas are connected and up to date.
    pub replicas: u64,
    /// Whether the append-only file is enabled. None: Redis does not report it.
    pub aof_enabled: Option<bool>,
    /// Whether the last write to that file failed.
    pub aof_write_failed: bool,
    /// Its configuration. None: this user may not read it, as with many managed services.
    pub settings: Option<DurabilitySettings>,
}

/// The current configuration, as far as it affects durability.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DurabilitySettings {
    /// When the append-only file is synced to disk: `always`, `everysec` or `no`.
    pub appendfsync: String,
    /// What Redis evicts when its memory is full.
    pub maxmemory_policy: String,
    /// How many replicas must be connected for Redis to accept a write.
    pub min_replicas_to_write: u64,
}

impl RedisStore {
    /// Reads the state of Redis, or of each master of a cluster. Cheap for Redis.
    pub async fn masters(&self) -> Result<Vec<MasterInfo>, RedisStoreError> {
        const OPERATION: &str = "cannot read the replication and durability settings of Redis";
        let mut info = redis::cmd("INFO");
        info.arg("replication").arg("persistence");
        let infos: Vec<String> = self.query_masters(&info).await.map_err(self.failed(OPERATION))?;

        let mut config = redis::cmd("CONFIG");
        config.arg("GET").arg("appendfsync").arg("maxmemory-policy").arg("min-replicas-to-write");
        let settings: Vec<HashMap<String, String>> = match self.query_masters(&config).await {
            Ok(settings) => settings,
            Err(error) if is_denied(&error) => Vec::new(),
            Err(error) => return Err(self.failed(OPERATION)(error)),
        };
        // Masters respond in any order, so settings may be paired with another master's info. The worst settings are
        // reported in any case.
        let mut settings = settings.iter().map(DurabilitySettings::parse);
        Ok(infos.iter().map(|info| MasterInfo { settings: settings.next(), ..MasterInfo::parse(info) }).collect())
    }

    /// The clock of Redis, or of each master of a cluster in any order, in milliseconds since the Unix epoch.
    pub async fn clocks(&self) -> Result<Vec<i64>, RedisStoreError> {
        let times = self.query_masters::<(i64, i64)>(&redis::cmd("TIME")).await;
        let times = times.map_err(self.failed("cannot read the clock of Redis"))?;
        Ok(times.into_iter().map(|(seconds, micros)| seconds * 1000 + micros / 1000).collect())
    }

    /// Sends a command to each master, and returns the responses of those that are available.
    pub(crate) async fn query_masters<T: FromRedisValue>(&self, command: &Cmd) -> Result<Vec<T>, RedisError> {
        let responses = self.connection().query_masters(command).await;
        let decode =
            |response: Result<Value, RedisError>| Ok(redis::from_redis_value(Value::extract_error(response?)?)?);
        let (found, failed): (Vec<_>, Vec<_>) = responses.into_iter().map(decode).partition(Result::is_ok);
        match failed.into_iter().next() {
            Some(Err(error)) if found.is_empty() => Err(error),
            _ => found.into_iter().collect(),
        }
    }
}

/// Whether Redis rejected the command for this user.
fn is_denied(error: &RedisError) -> bool {
    let denied = [ErrorKind::Extension, ErrorKind::Server(ServerErrorKind::NoPerm)];
    // A renamed or disabled command is an unknown command, which is a plain error.
    denied.contains(&error.kind()) || error.kind() == ErrorKind::Server(ServerErrorKind::ResponseError)
}

impl MasterInfo {
    /// Parses the response to `INFO`.
    fn parse(info: &str) -> Self {
        let lines: HashMap<&str, &str> = info.lines().filter_map(|line| line.trim_end().split_once(':')).collect();
        let is = |field: &str, value: &str| lines.get(field) == Some(&value);
        Self {
            replication_id: lines.get("master_replid").copied().unwrap_or_default().to_owned(),
            is_master: is("role", "master"),
            replicas: count_replicas(&lines),
            aof_enabled: lines.get("aof_enabled").map(|enabled| *enabled == "1"),
            aof_write_failed: lines.get("aof_last_write_status").is_some_and(|status| *status != "ok"),
            settings: None,
        }
    }
}

/// A replica that copies the data set is not counted. `redis-cli --rdb` does this for a moment.
fn count_replicas(info: &HashMap<&str, &str>) -> u64 {
    let is_replica = |field: &str| field.strip_prefix("slave").is_some_and(|n| n.parse::<u32>().is_ok());
    info.iter().filter(|(field, value)| is_replica(field) && value.contains("state=online")).count() as u64
}

impl DurabilitySettings {
    /// Parses the response to `CONFIG GET`.
    fn parse(settings: &HashMap<String, String>) -> Self {
        let text = |name: &str| settings.get(name).cloned().unwrap_or_default();
        Self {
            appendfsync: text("appendfsync"),
            maxmemory_policy: text("maxmemory-policy"),
            min_replicas_to_write: text("min-replicas-to-write").parse().unwrap_or_default(),
        }
    }
}
