//! The commands that look and change nothing: [`audit`], [`export`] and [`check`]. They take the same environment as `run`, so
//! that in the operator's pod they need nothing else.

pub(crate) mod audit;
pub(crate) mod check;
mod definition;
pub(crate) mod export;
mod pods;
mod words;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use couponry_audit::Stores;
use couponry_crds::CouponEvent;
use couponry_domain::{EventName, Uuid};
use couponry_postgres::Database;
use couponry_redis::Stock;
use couponry_runtime::telemetry::Telemetry;
use couponry_settings::{KafkaSettings, PostgresSettings, RedisSettings};
use kube::{Api, Client};

/// The exit code that says: it could not be found out.
const COULD_NOT_LOOK: u8 = 2;

/// Which event.
#[derive(Debug, Args)]
pub(crate) struct EventArgs {
    /// The event: the name of its resource.
    #[arg(value_name = "EVENT")]
    event: EventName,
    /// The event's uid, when its resource is gone, or Kubernetes is not to be asked.
    #[arg(long, value_name = "UID")]
    uid: Option<Uuid>,
    /// The namespace of the event. Without it: that of the service account or of the kubeconfig.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAMESPACE")]
    namespace: Option<String>,
}

/// All stores, and who brings the records from Kafka to Postgres.
#[derive(Debug, Args)]
pub(crate) struct StoreArgs {
    /// The consumer group that brings the records into Postgres.
    #[arg(long, env, default_value = "couponry-consumer", value_name = "GROUP")]
    kafka_group: String,
    #[command(flatten)]
    redis: RedisSettings,
    #[command(flatten)]
    postgres: PostgresSettings,
    #[command(flatten)]
    kafka: KafkaSettings,
}

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Text,
    /// One JSON object.
    Json,
}

impl EventArgs {
    /// The uid: as given, or that of the resource.
    async fn uid(&self, database: &Database) -> anyhow::Result<Uuid> {
        if let Some(uid) = self.uid {
            return Ok(uid);
        }
        let (events, namespace) = cluster(self.namespace.as_deref()).await?;
        let found = events.get_metadata_opt(self.event.as_str()).await.context("cannot read the CouponEvent")?;
        if let Some(uid) = found.and_then(|event| event.metadata.uid?.parse().ok()) {
            return Ok(uid);
        }
        let event = &self.event;
        match &database.uids_of(event).await?[..] {
            [] => anyhow::bail!("there is no event {event}, neither in the namespace {namespace} nor in Postgres"),
            uids => {
                let uids: Vec<String> = uids.iter().map(Uuid::to_string).collect();
                anyhow::bail!(
                    "there is no CouponEvent {event} in the namespace {namespace}; Postgres has what is left of {}: \
                     choose with --uid",
                    uids.join(", ")
                )
            }
        }
    }
}

impl StoreArgs {
    fn stores(&self) -> anyhow::Result<Stores> {
        self.kafka.check()?;
        Ok(Stores {
            stock: Stock::open(&self.redis)?,
            database: Database::open(&self.postgres)?,
            kafka: self.kafka.clone(),
            group: self.kafka_group.clone(),
        })
    }
}

/// The events of the namespace, and its name.
async fn cluster(namespace: Option<&str>) -> anyhow::Result<(Api<CouponEvent>, String)> {
    let config =
        kube::Config::infer().await.context("no Kubernetes cluster is configured: set KUBECONFIG, or run in a pod")?;
    let client = Client::try_from(config).context("cannot speak to Kubernetes as it is configured")?;
    let namespace = namespace.unwrap_or_else(|| client.default_namespace()).to_owned();
    Ok((Api::namespaced(client, &namespace), namespace))
}

/// Says why nothing could be found out, and that by the exit code as well.
pub(crate) async fn answer(
    telemetry: &Telemetry,
    question: impl Future<Output = anyhow::Result<ExitCode>>,
) -> ExitCode {
    let asked = async {
        // Reading a whole event takes its time, and that is no reason to warn. What is wrong with Kafka is in the answer.
        Telemetry { log: format!("sqlx::query=error,journal=warn,{}", telemetry.log), ..telemetry.clone() }.init()?;
        question.await
    };
    asked.await.unwrap_or_else(|error| {
        eprintln!("Error: {error:#}");
        ExitCode::from(COULD_NOT_LOOK)
    })
}
