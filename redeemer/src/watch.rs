//! Watches the availability of the servers.

use std::time::Duration;

use couponry_kafka::Producer;
use couponry_postgres::Database;
use couponry_redis::RedisStore;
use couponry_runtime::{CancellationToken, Health, error_chain};
use tokio::time;

pub(crate) const POSTGRES: &str = "postgres";
pub(crate) const REDIS: &str = "redis";
pub(crate) const KAFKA: &str = "kafka";

const PROBE_INTERVAL: Duration = Duration::from_secs(2);
const POSTGRES_TIMEOUT: Duration = Duration::from_secs(10);
const KAFKA_TIMEOUT: Duration = Duration::from_secs(5);

/// Updates the readiness until the shutdown.
///
/// A redeemer that has reached Postgres once stays ready: during an outage, which concerns all redeemers, it returns
/// 503 with `Retry-After` itself. Redis is needed only for coupons that are not recorded yet, and Kafka only to send
/// the uses of coupons, which wait in Postgres.
pub(crate) async fn watch_servers(
    (database, redis_store, producer): (Database, RedisStore, Producer),
    namespace: Option<String>,
    health: Health,
    shutdown: CancellationToken,
) {
    let pause = async || {
        tokio::select! {
            () = time::sleep(PROBE_INTERVAL) => {}
            () = shutdown.cancelled() => {}
        }
    };
    // The redeemer stays ready without this server.
    let report_optional = |server, result: Result<(), String>| match result {
        Err(error) => health.degrade(server, error),
        result => health.set(server, result),
    };
    let postgres = async {
        let mut was_reached = false;
        while !shutdown.is_cancelled() {
            let result = check_postgres(&database, namespace.as_deref(), was_reached).await;
            was_reached |= result.is_ok();
            if was_reached {
                report_optional(POSTGRES, result);
            } else {
                health.set(POSTGRES, result);
            }
            pause().await;
        }
    };
    let redis = async {
        while !shutdown.is_cancelled() {
            report_optional(REDIS, redis_store.ping().await.map_err(error_chain));
            pause().await;
        }
    };
    let kafka = async {
        while !shutdown.is_cancelled() {
            report_optional(KAFKA, producer.ping(KAFKA_TIMEOUT).await.map_err(error_chain));
            pause().await;
        }
    };
    tokio::join!(postgres, redis, kafka);
}

/// `namespace`: that in which callers are authorized. Migrations only add, and the owner rarely changes, so both are
/// checked only before the first success.
async fn check_postgres(database: &Database, namespace: Option<&str>, was_reached: bool) -> Result<(), String> {
    let check = async {
        database.ping_writable().await.map_err(error_chain)?;
        if was_reached {
            return Ok(());
        }
        if !database.is_migrated().await.map_err(error_chain)? {
            return Err("the database schema is outdated: the operator applies the migrations".to_owned());
        }
        let owner = database.installation().await.map_err(error_chain)?.owner;
        match (namespace, owner) {
            (Some(namespace), Some(owner)) if owner.namespace != namespace => {
                Err(format!("the database belongs to {owner}, but callers are authorized in the namespace {namespace}"))
            }
            _ => Ok(()),
        }
    };
    time::timeout(POSTGRES_TIMEOUT, check).await.unwrap_or_else(|_| Err("no response in time".to_owned()))
}
