//! Waits for the servers at startup and watches their availability afterwards.

use std::{error::Error, time::Duration};

use couponry_domain::Uuid;
use couponry_kafka::{ConsumerState, DeadLetterProducer, LagClient};
use couponry_postgres::Database;
use couponry_redis::RedisStore;
use couponry_runtime::{CancellationToken, Health, error_chain, retry_until_ok};

use crate::metrics::Metrics;

pub(crate) const KAFKA: &str = "kafka";
pub(crate) const POSTGRES: &str = "postgres";
pub(crate) const REDIS: &str = "redis";
/// Whether Redis and Postgres belong to the same installation.
pub(crate) const INSTALLATION: &str = "installation";
/// Whether the messages of the assigned partitions are received.
pub(crate) const CONSUMER: &str = "consumer";

const PROBE_INTERVAL: Duration = Duration::from_secs(5);
const KAFKA_TIMEOUT: Duration = Duration::from_secs(5);
const POSTGRES_TIMEOUT: Duration = Duration::from_secs(10);

/// Checks each server.
#[derive(Clone)]
pub(crate) struct Watcher {
    pub(crate) dead_letters: DeadLetterProducer,
    pub(crate) database: Database,
    pub(crate) redis_store: RedisStore,
    pub(crate) metrics: Metrics,
    pub(crate) health: Health,
    pub(crate) shutdown: CancellationToken,
}

impl Watcher {
    /// Waits until all servers are available, have their topics and tables, and belong to the same installation, whose
    /// id is returned. None if the shutdown begins first.
    pub(crate) async fn wait_for_servers(&self) -> Option<Uuid> {
        let (kafka, postgres, redis) = tokio::join!(
            retry_until_ok("waiting for Kafka", &self.shutdown, || self.check_kafka()),
            retry_until_ok("waiting for Postgres", &self.shutdown, || self.check_postgres()),
            retry_until_ok("waiting for Redis", &self.shutdown, || self.check_redis()),
        );
        kafka.and(postgres).and(redis)?;
        retry_until_ok("checking the installation", &self.shutdown, || self.check_installation()).await
    }

    /// Updates the readiness and the lag until the shutdown.
    pub(crate) async fn run(self, lag: LagClient, mut consumer: ConsumerState) {
        while !self.shutdown.is_cancelled() {
            let state = consumer.borrow_and_update().clone();
            let _ = self.report(CONSUMER, state);
            let _ = tokio::join!(self.check_kafka(), self.check_postgres(), self.check_redis());
            let _ = self.check_installation().await;
            // Every member reports the lag of the complete group, also while it cannot process batches.
            match lag.measure(KAFKA_TIMEOUT).await {
                Ok(lag) => {
                    self.metrics.lag.set(i64::try_from(lag).unwrap_or(i64::MAX));
                }
                Err(error) => tracing::debug!(error = error_chain(error), "cannot measure the lag"),
            }
            tokio::select! {
                () = tokio::time::sleep(PROBE_INTERVAL) => {}
                Ok(()) = consumer.changed() => {}
                () = self.shutdown.cancelled() => {}
            }
        }
    }

    async fn check_kafka(&self) -> Result<(), String> {
        self.report(KAFKA, self.dead_letters.ping(KAFKA_TIMEOUT).await)
    }

    async fn check_postgres(&self) -> Result<(), String> {
        let is_migrated = async {
            self.database.ping().await?;
            self.database.is_migrated().await
        };
        let state = match tokio::time::timeout(POSTGRES_TIMEOUT, is_migrated).await {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => Err("the database schema is outdated: the operator applies the migrations".to_owned()),
            Ok(Err(error)) => Err(error_chain(error)),
            Err(_) => Err("no response in time".to_owned()),
        };
        self.report(POSTGRES, state)
    }

    async fn check_redis(&self) -> Result<(), String> {
        match self.redis_store.ping().await {
            // Events on the other nodes of the cluster are recorded and settled.
            Err(error) if error.is_partial_outage() => {
                self.health.degrade(REDIS, error);
                Ok(())
            }
            state => self.report(REDIS, state),
        }
    }

    /// A Redis without an id was emptied: the operator claims it again. The id does not have to be readable while a
    /// node of a cluster is unavailable: settling compares the uid of each event.
    async fn check_installation(&self) -> Result<Uuid, String> {
        let compared = async {
            let postgres = self.database.installation().await.map_err(error_chain)?.id;
            let redis = match self.redis_store.installation().await {
                Err(_) if self.redis_store.ping().await.is_err_and(|error| error.is_partial_outage()) => None,
                found => found.map_err(error_chain)?,
            };
            match redis {
                Some(redis) if redis != postgres => Err(format!(
                    "Redis belongs to the installation {redis}, but the database to the installation {postgres}: set a \
                     different --redis-key-prefix for each installation"
                )),
                _ => Ok(postgres),
            }
        };
        let state = compared.await;
        self.report(INSTALLATION, state.clone().map(drop))?;
        state
    }

    /// Publishes the state of a server as readiness.
    fn report<E>(&self, server: &'static str, state: Result<(), E>) -> Result<(), String>
    where
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let state = state.map_err(error_chain);
        self.health.set(server, state.clone());
        state
    }
}
