//! Flags that several commands share.

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use couponry_audit::Stores;
use couponry_crds::CouponEvent;
use couponry_domain::{EventName, Uuid};
use couponry_postgres::{Database, Owner};
use couponry_redis::RedisStore;
use couponry_runtime::telemetry::TelemetryArgs;
use couponry_settings::{KafkaSettings, PostgresSettings, RedisSettings};
use jiff::Timestamp;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;

use crate::{installation, kubernetes};

#[derive(Debug, Args)]
pub(super) struct EventArgs {
    /// Name of the event.
    #[arg(value_name = "EVENT")]
    pub(super) event: EventName,
    /// Uid of the event. Required if its resource was deleted or the API server is not reachable.
    #[arg(long, value_name = "UID")]
    uid: Option<Uuid>,
    /// Namespace of the event. Default: the namespace of the service account or of the kubeconfig.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAMESPACE")]
    namespace: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct StoreArgs {
    /// Consumer group that records the issuances in Postgres, without the id of the installation, which is appended.
    #[arg(long, env, default_value = "couponry-consumer", value_name = "GROUP")]
    kafka_group: String,
    #[command(flatten)]
    redis: RedisSettings,
    #[command(flatten)]
    postgres: PostgresSettings,
    #[command(flatten)]
    kafka: KafkaSettings,
}

/// For commands about an installation as a whole.
#[derive(Debug, Args)]
pub(crate) struct InstallationArgs {
    /// Namespace of the installation. Default: the namespace of the service account or of the kubeconfig.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAMESPACE")]
    namespace: Option<String>,
    #[command(flatten)]
    redis: RedisSettings,
    #[command(flatten)]
    postgres: PostgresSettings,
    #[command(flatten)]
    pub(crate) telemetry: TelemetryArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum OutputFormat {
    /// Human-readable text.
    Text,
    /// JSON.
    Json,
}

impl EventArgs {
    /// The uid from the flag or of the `CouponEvent`.
    pub(super) async fn uid(&self, database: &Database) -> anyhow::Result<Uuid> {
        if let Some(uid) = self.uid {
            return Ok(uid);
        }
        let (events, namespace) = self.events().await?;
        let found = events.get_metadata_opt(self.event.as_str()).await.context("cannot read the CouponEvent")?;
        if let Some(uid) = found.and_then(|event| Some(couponry_crds::stored_identity(&event.metadata)?.0)) {
            return Ok(uid);
        }
        let event = &self.event;
        match &database.event_uids(event).await?[..] {
            [] => {
                anyhow::bail!("the event {event} does not exist, neither in the namespace {namespace} nor in Postgres")
            }
            uids => {
                let uids: Vec<String> = uids.iter().map(Uuid::to_string).collect();
                anyhow::bail!(
                    "the CouponEvent {event} does not exist in the namespace {namespace}; Postgres holds data of {}: \
                     select one with --uid",
                    uids.join(", ")
                )
            }
        }
    }

    /// The `CouponEvent`.
    pub(super) async fn resource(&self) -> anyhow::Result<CouponEvent> {
        let (events, namespace) = self.events().await?;
        let found = events.get_opt(self.event.as_str()).await.context("cannot read the CouponEvent")?;
        found.with_context(|| format!("the CouponEvent {} does not exist in the namespace {namespace}", self.event))
    }

    /// Lets the operator reconcile the event now: it watches the annotations.
    pub(super) async fn wake_operator(&self) -> anyhow::Result<()> {
        let (events, _) = self.events().await?;
        let annotations = json!({"couponry.dev/repair-requested-at": Timestamp::now().to_string()});
        let patch = Patch::Merge(json!({"metadata": {"annotations": annotations}}));
        events.patch_metadata(self.event.as_str(), &PatchParams::default(), &patch).await?;
        Ok(())
    }

    async fn events(&self) -> anyhow::Result<(Api<CouponEvent>, String)> {
        let (client, namespace) = kubernetes::connect(self.namespace.as_deref()).await?;
        Ok((Api::namespaced(client, &namespace), namespace))
    }
}

impl InstallationArgs {
    /// Opens the stores, which connect with the first call.
    pub(crate) fn stores(&self) -> anyhow::Result<(Database, RedisStore)> {
        Ok((Database::open(&self.postgres)?, RedisStore::open(&self.redis)?))
    }

    /// The events of the namespace, and its identity.
    pub(crate) async fn events(&self) -> anyhow::Result<(Api<CouponEvent>, Owner)> {
        let (client, namespace) = kubernetes::connect(self.namespace.as_deref()).await?;
        let owner = installation::owner(&client, &namespace).await.map_err(anyhow::Error::from_boxed)?;
        Ok((Api::namespaced(client, &namespace), owner))
    }
}

impl StoreArgs {
    pub(super) fn stores(&self) -> anyhow::Result<Stores> {
        self.kafka.check()?;
        Ok(Stores {
            redis_store: RedisStore::open(&self.redis)?,
            database: Database::open(&self.postgres)?,
            kafka: self.kafka.clone(),
            group: self.kafka_group.clone(),
        })
    }
}
