//! Waiting for the servers, in the order in which they are needed.

use std::{collections::BTreeSet, fmt::Display, time::Duration};

use anyhow::Context as _;
use couponry_crds::CouponEvent;
use couponry_kafka::{Finding, KafkaSettings, TopicSettings};
use couponry_postgres::Database;
use couponry_redis::Stock;
use couponry_runtime::{CancellationToken, Health, patiently};
use kube::{Api, api::ListParams};

pub(crate) const POSTGRES: &str = "postgres";
pub(crate) const REDIS: &str = "redis";
pub(crate) const KAFKA: &str = "kafka";
pub(crate) const KUBERNETES: &str = "kubernetes";

const MIGRATING: &str = "bringing the tables in Postgres up to date";

/// How often the stores are asked whether they are there.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// Brings the tables up to date as soon as Postgres is there. False: the shutdown came first.
pub(crate) async fn migrate(database: &Database, shutdown: &CancellationToken) -> bool {
    patiently(MIGRATING, shutdown, async || database.migrate().await).await.is_some()
}

/// Waits for everything that the operator needs. None: the shutdown came first. Otherwise what it does not like about the
/// topics.
pub(crate) async fn wait(
    database: &Database,
    stock: &Stock,
    kafka: (&KafkaSettings, &TopicSettings),
    events: &Api<CouponEvent>,
    health: &Health,
    shutdown: &CancellationToken,
) -> Option<Vec<Finding>> {
    let (settings, topics) = kafka;
    let (postgres, redis, kafka, kubernetes) = tokio::join!(
        patiently(MIGRATING, shutdown, async || noted(health, POSTGRES, database.migrate().await)),
        patiently("waiting for Redis", shutdown, async || noted(health, REDIS, stock.ping().await)),
        patiently("making the topics in Kafka", shutdown, async || {
            noted(health, KAFKA, couponry_kafka::topics::ensure(settings, topics).await)
        }),
        patiently("waiting for Kubernetes", shutdown, async || noted(health, KUBERNETES, probe(events).await)),
    );
    postgres.and(redis).and(kubernetes).and(kafka)
}

/// The same result, shown by the readiness as well.
fn noted<T, E: Display>(health: &Health, server: &'static str, result: Result<T, E>) -> Result<T, E> {
    health.set(server, result.as_ref().map(drop));
    result
}

async fn probe(events: &Api<CouponEvent>) -> anyhow::Result<()> {
    // Only the metadata: an event that cannot be read is no reason not to begin.
    match events.list_metadata(&ListParams::default().limit(1)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => {
            anyhow::bail!("the definition of CouponEvent is not installed: apply {}", couponry_crds::DEFINITION_FILE)
        }
        Err(error) => Err(error).context("cannot list the CouponEvents"),
    }
}

/// Keeps the readiness up to date.
pub(crate) async fn watch_stores(database: Database, stock: Stock, health: Health, shutdown: CancellationToken) {
    while !shutdown.is_cancelled() {
        tokio::select! {
            () = tokio::time::sleep(PROBE_INTERVAL) => {}
            () = shutdown.cancelled() => return,
        }
        health.set(POSTGRES, database.ping().await);
        health.set(REDIS, stock.ping().await);
    }
}

/// What to say in every report about topics that are not as they should be.
pub(crate) fn remarks(findings: &[Finding]) -> Vec<String> {
    let remarks: BTreeSet<String> = findings.iter().map(ToString::to_string).collect();
    for remark in &remarks {
        tracing::warn!("{remark}");
    }
    remarks.into_iter().collect()
}
