//! Whether the servers are there: waited for at the start, looked at while the pipeline runs.

use std::{fmt::Display, time::Duration};

use couponry_kafka::{DeadLetters, Lag};
use couponry_postgres::Database;
use couponry_redis::Stock;
use couponry_runtime::{CancellationToken, Health, patiently};

use crate::{KAFKA, POSTGRES, REDIS, metrics::Metrics};

const PROBE_INTERVAL: Duration = Duration::from_secs(5);
const KAFKA_TIMEOUT: Duration = Duration::from_secs(5);
const POSTGRES_TIMEOUT: Duration = Duration::from_secs(10);

/// Asks each server how it is.
#[derive(Clone)]
pub(crate) struct Watch {
    pub(crate) dead_letters: DeadLetters,
    pub(crate) lag: Lag,
    pub(crate) database: Database,
    pub(crate) stock: Stock,
    pub(crate) metrics: Metrics,
    pub(crate) health: Health,
    pub(crate) shutdown: CancellationToken,
}

impl Watch {
    /// Waits until all servers are there and hold what they should: topics and tables. None when the shutdown came first.
    pub(crate) async fn wait_for_servers(&self) -> Option<()> {
        let (kafka, postgres, redis) = tokio::join!(
            patiently("waiting for Kafka", &self.shutdown, || self.kafka()),
            patiently("waiting for Postgres", &self.shutdown, || self.postgres()),
            patiently("waiting for Redis", &self.shutdown, || self.redis()),
        );
        kafka.and(postgres).and(redis)
    }

    /// Keeps the readiness and the lag up to date until the shutdown.
    pub(crate) async fn run(self) {
        while !self.shutdown.is_cancelled() {
            let _ = tokio::join!(self.kafka(), self.postgres(), self.redis());
            // Every member of the group shows the lag of the whole group, also while it cannot work.
            match self.lag.measure(KAFKA_TIMEOUT).await {
                Ok(lag) => {
                    self.metrics.lag.set(i64::try_from(lag).unwrap_or(i64::MAX));
                }
                Err(error) => tracing::debug!(%error, "the lag is not known"),
            }
            tokio::select! {
                () = tokio::time::sleep(PROBE_INTERVAL) => {}
                () = self.shutdown.cancelled() => {}
            }
        }
    }

    async fn kafka(&self) -> Result<(), String> {
        self.note(KAFKA, self.dead_letters.ping(KAFKA_TIMEOUT).await)
    }

    async fn postgres(&self) -> Result<(), String> {
        let state = match tokio::time::timeout(POSTGRES_TIMEOUT, self.database.is_migrated()).await {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => Err("its tables are not there yet: the operator makes them".to_owned()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("Postgres does not answer".to_owned()),
        };
        self.note(POSTGRES, state)
    }

    async fn redis(&self) -> Result<(), String> {
        self.note(REDIS, self.stock.ping().await)
    }

    fn note(&self, server: &'static str, state: Result<(), impl Display>) -> Result<(), String> {
        let state = state.map_err(|error| error.to_string());
        self.health.set(server, state.clone());
        state
    }
}
