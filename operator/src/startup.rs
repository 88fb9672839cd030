//! Waits for the backends and Kubernetes, and prepares the database schema and the Kafka topics.

use std::{collections::BTreeSet, error::Error, time::Duration};

use anyhow::Context as _;
use couponry_crds::CouponEvent;
use couponry_domain::Uuid;
use couponry_kafka::{KafkaError, KafkaSettings, TopicMismatch, TopicSettings};
use couponry_postgres::{Database, DatabaseError, Owner};
use couponry_redis::RedisStore;
use couponry_runtime::{CancellationToken, Health, error_chain, retry_until_ok};
use kube::{Api, Client, api::ListParams};

use crate::{
    installation::{self, ClaimError, ForeignInstallation},
    server_requirements,
};

pub(crate) const POSTGRES: &str = "postgres";
pub(crate) const REDIS: &str = "redis";
pub(crate) const KAFKA: &str = "kafka";
pub(crate) const KUBERNETES: &str = "kubernetes";
/// Whether the stores belong to this installation.
pub(crate) const INSTALLATION: &str = "installation";

const MIGRATE: &str = "migrate the database schema";

/// How often the availability and the installation of Postgres and Redis are checked after the start.
const STORES_INTERVAL: Duration = Duration::from_secs(5);

/// How often missing topics are created after the start, and whether Kafka is available is checked.
const TOPICS_INTERVAL: Duration = Duration::from_secs(15);

/// The same while Kafka is unavailable: events that need it are blocked until a check has succeeded.
const TOPICS_OUTAGE_INTERVAL: Duration = Duration::from_secs(2);

/// How often the API server is checked after the start, and how long it may take to respond.
const KUBERNETES_INTERVAL: Duration = Duration::from_secs(5);

/// Migrates the schema, retrying until Postgres is available. Fails if the database is not suitable, or if the shutdown
/// came first.
pub(crate) async fn migrate(database: &Database, shutdown: &CancellationToken) -> anyhow::Result<()> {
    let attempt = async || match database.migrate().await {
        Err(error @ DatabaseError::Encoding(_)) => Ok(Err(error)),
        result => result.map(Ok),
    };
    let migrated = retry_until_ok(MIGRATE, shutdown, attempt).await;
    Ok(migrated.context("shut down before the schema was migrated")??)
}

/// Waits for everything that the operator needs. Returns the mismatches of existing topics from the settings, or None
/// if the shutdown came first.
pub(crate) async fn wait_for_backends(
    database: &Database,
    redis_store: &RedisStore,
    kafka: (&KafkaSettings, &TopicSettings),
    events: &Api<CouponEvent>,
    health: &Health,
    shutdown: &CancellationToken,
) -> Option<Vec<TopicMismatch>> {
    let (settings, topics) = kafka;
    let (postgres, redis, kafka, kubernetes) = tokio::join!(
        retry_until_ok(MIGRATE, shutdown, async || set_health(health, POSTGRES, prepare_postgres(database).await)),
        retry_until_ok("connect to Redis", shutdown, async || set_health(
            health,
            REDIS,
            prepare_redis(redis_store).await
        )),
        retry_until_ok("create the Kafka topics", shutdown, async || {
            set_health(health, KAFKA, couponry_kafka::topics::ensure(settings, topics).await)
        }),
        retry_until_ok("list the CouponEvents", shutdown, async || {
            set_health(health, KUBERNETES, check_kubernetes(events).await)
        }),
    );
    postgres.and(redis).and(kubernetes).and(kafka)
}

/// Waits until the stores belong to the installation of this namespace. Returns its id and its owner, or None if the
/// shutdown came first.
pub(crate) async fn wait_for_installation(
    database: &Database,
    redis_store: &RedisStore,
    (client, namespace): (&Client, &str),
    health: &Health,
    shutdown: &CancellationToken,
) -> Option<(Uuid, Owner)> {
    let claimed = retry_until_ok("claim the installation", shutdown, async || {
        let claim = async {
            let owner = installation::owner(client, namespace).await?;
            let id = installation::claim(database, redis_store, &owner).await?;
            Ok::<_, Box<dyn Error + Send + Sync>>((id, owner))
        };
        set_health(health, INSTALLATION, claim.await)
    });
    claimed.await.inspect(|(id, owner)| tracing::info!(installation = %id, %owner, "claimed the installation"))
}

async fn prepare_postgres(database: &Database) -> Result<(), Box<dyn Error + Send + Sync>> {
    // Its errors report that Postgres cannot be reached, those of the later operations name the operation.
    database.ping().await?;
    server_requirements::require_postgres(database).await?;
    Ok(database.migrate().await?)
}

async fn prepare_redis(redis_store: &RedisStore) -> Result<(), Box<dyn Error + Send + Sync>> {
    // Its errors contain advice about the address and the user.
    match redis_store.ping().await {
        // The events on the other nodes of the cluster must not wait.
        Err(error) if error.is_partial_outage() => tracing::warn!(error = error_chain(error), "starting"),
        state => state?,
    }
    server_requirements::require_redis(redis_store).await
}

/// Reports the result in the readiness probe, and returns it.
fn set_health<T, E>(
    health: &Health,
    backend: &'static str,
    result: Result<T, E>,
) -> Result<T, Box<dyn Error + Send + Sync>>
where
    E: Into<Box<dyn Error + Send + Sync>>,
{
    let result = result.map_err(Into::into);
    health.set(backend, result.as_ref().map(drop).map_err(AsRef::as_ref));
    result
}

async fn check_kubernetes(events: &Api<CouponEvent>) -> anyhow::Result<()> {
    // Metadata only, so that an invalid event does not block the start.
    match events.list_metadata(&ListParams::default().limit(1)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => {
            anyhow::bail!("the CRD CouponEvent is not installed: apply {}", couponry_crds::CRD_FILE)
        }
        Err(error) => Err(error).context("cannot list the CouponEvents"),
    }
}

/// Keeps the readiness probe up to date. If the stores belong to another installation by now, because it was taken over
/// or Redis was replaced, it initiates the shutdown and returns the reason.
pub(crate) async fn watch_stores(
    database: Database,
    redis_store: RedisStore,
    owner: Owner,
    health: Health,
    shutdown: CancellationToken,
) -> Result<(), ForeignInstallation> {
    while !shutdown.is_cancelled() {
        tokio::select! {
            () = tokio::time::sleep(STORES_INTERVAL) => {}
            () = shutdown.cancelled() => break,
        }
        let installation = database.installation().await;
        health.set(POSTGRES, installation.as_ref().map(drop));
        match redis_store.ping().await {
            Err(error) if error.is_partial_outage() => health.degrade(REDIS, error),
            state => health.set(REDIS, state),
        }
        // A Redis that has lost its data has lost the id of its installation, too.
        if let Ok(installation) = installation
            && let Err(ClaimError::ForeignInstallation(foreign)) =
                installation::claim_redis(&installation, &redis_store, &owner).await
        {
            health.set(INSTALLATION, Err(foreign.to_string()));
            shutdown.cancel();
            return Err(foreign);
        }
    }
    Ok(())
}

/// Creates topics again that were deleted after the start, and reports whether Kafka is available. Without the topics,
/// issued records remain in the outboxes.
pub(crate) async fn keep_topics(
    kafka: KafkaSettings,
    topics: TopicSettings,
    health: Health,
    shutdown: CancellationToken,
) {
    let mut interval = TOPICS_INTERVAL;
    while shutdown.run_until_cancelled(tokio::time::sleep(interval)).await.is_some() {
        interval = match couponry_kafka::topics::ensure(&kafka, &topics).await {
            Ok(_) => {
                health.set(KAFKA, Ok::<_, KafkaError>(()));
                TOPICS_INTERVAL
            }
            // Open events continue to issue coupons, and everything that needs Kafka retries.
            Err(error) => {
                health.degrade(KAFKA, error);
                TOPICS_OUTAGE_INTERVAL
            }
        }
    }
}

/// Reports whether the API server responds. A watch of a server that has stopped responding remains open.
pub(crate) async fn watch_kubernetes(events: Api<CouponEvent>, health: Health, shutdown: CancellationToken) {
    while shutdown.run_until_cancelled(tokio::time::sleep(KUBERNETES_INTERVAL)).await.is_some() {
        let checked = tokio::time::timeout(KUBERNETES_INTERVAL, check_kubernetes(&events)).await;
        let state = checked
            .unwrap_or_else(|_| Err(anyhow::anyhow!("the API server did not respond within {KUBERNETES_INTERVAL:?}")));
        health.set(KUBERNETES, state);
    }
}

/// The distinct mismatches of the topics, which the condition `Ready` of loaded events reports.
pub(crate) fn topic_mismatches(mismatches: &[TopicMismatch]) -> Vec<String> {
    let warnings: BTreeSet<String> = mismatches.iter().map(ToString::to_string).collect();
    for warning in &warnings {
        tracing::warn!(warning, "Kafka topic deviates from the settings");
    }
    warnings.into_iter().collect()
}
