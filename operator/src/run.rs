//! The commands `run` and `migrate`.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::Args;
use couponry_kafka::LagClient;
use couponry_postgres::Database;
use couponry_redis::RedisStore;
use couponry_runtime::{CancellationToken, Health, monitor::MonitorArgs, telemetry::TelemetryArgs};
use couponry_settings::{KafkaSettings, PostgresSettings, RedisSettings};
use kube::{Api, runtime::events::Recorder};
use prometheus_client::registry::Registry;

use crate::{
    admin::AdminArgs,
    context::Context,
    controller,
    durable_condition::DurabilityCache,
    kafka_topics::TopicArgs,
    kubernetes::{self, FIELD_MANAGER},
    leader::{self, LeaderArgs},
    limiter::Limiter,
    metrics::Metrics,
    namespace_cleanup,
    reconcile::{
        drain::DrainTracker, idle::IdleEvents, preload_queue::PreloadQueue, recording::RecordingTracker,
        void_comparisons::VoidComparisons,
    },
    scaling::scaler::ScalingArgs,
    startup,
    transient_state::TransientState,
};

/// The service name of exported spans.
const SERVICE: &str = "couponry-operator";

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Namespace whose coupon events are reconciled. Default: the namespace of the service account or of the
    /// kubeconfig.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// How long the deletion of an event waits until its issued coupons are recorded in Postgres. With `deletionPolicy:
    /// Delete`, also until their uses are sent to Kafka.
    #[arg(long, env, default_value_t = 60, value_name = "SECONDS")]
    deletion_timeout_seconds: u64,
    /// How long to wait, after Redis has restarted or failed over, for issuance records that issuers still hold in
    /// memory. Issuing is suspended meanwhile. Must not be shorter than --response-timeout-seconds of the issuers, nor
    /// than 4: for that long, a program may still use a connection to a replaced Redis.
    #[arg(long, env, default_value_t = 5, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(4..))]
    redis_recovery_grace_seconds: u64,
    /// Consumer group that records the issuances in Postgres, without the id of the installation, which is appended.
    #[arg(long, env, default_value = "couponry-consumer", value_name = "GROUP")]
    kafka_group: String,
    #[command(flatten)]
    redis: RedisSettings,
    #[command(flatten)]
    postgres: PostgresSettings,
    #[command(flatten)]
    kafka: KafkaSettings,
    #[command(flatten)]
    topics: TopicArgs,
    #[command(flatten)]
    leader: LeaderArgs,
    #[command(flatten)]
    admin: AdminArgs,
    #[command(flatten)]
    scaling: ScalingArgs,
    #[command(flatten)]
    monitor: MonitorArgs,
    #[command(flatten)]
    telemetry: TelemetryArgs,
}

#[derive(Debug, Args)]
pub(crate) struct Migrate {
    #[command(flatten)]
    postgres: PostgresSettings,
    #[command(flatten)]
    telemetry: TelemetryArgs,
}

impl Migrate {
    pub(crate) async fn run(&self) -> anyhow::Result<()> {
        let _telemetry = self.telemetry.init(SERVICE)?;
        let shutdown = couponry_runtime::shutdown().context("cannot install the signal handlers")?;
        let database = Database::open(&self.postgres)?;
        startup::migrate(&database, &shutdown).await
    }
}

impl Run {
    /// Checks what clap cannot: Kafka clients are created later, inside retry loops, where invalid settings would be
    /// retried.
    pub(crate) fn validate(&self) -> Result<(), String> {
        self.topics.validate()?;
        self.kafka.check().map_err(|error| error.to_string())?;
        self.scaling.validate()
    }

    pub(crate) async fn run(&self) -> anyhow::Result<()> {
        let _telemetry = self.telemetry.init(SERVICE)?;
        let shutdown = couponry_runtime::shutdown().context("cannot install the signal handlers")?;
        let database = Database::open(&self.postgres)?;
        let redis_store = RedisStore::open(&self.redis)?;
        let (client, namespace) = kubernetes::connect(self.namespace.as_deref()).await?;
        let events = Api::namespaced(client.clone(), &namespace);

        let mut registry = Registry::with_prefix("couponry_operator");
        let metrics = Metrics::register(&mut registry);
        let health = Health::new(&[
            startup::POSTGRES,
            startup::REDIS,
            startup::KAFKA,
            startup::KUBERNETES,
            startup::INSTALLATION,
        ]);
        let monitor = self.monitor.start(health.clone(), registry, shutdown.clone()).await?;
        let admin = self.admin.start(client.clone(), &namespace, shutdown.clone()).await?;
        tracing::info!(namespace, monitor = %self.monitor.monitor_listen, "operator starting");

        let topics = self.topics.settings();
        let kafka = (&self.kafka, &topics);
        if let Some(mismatches) =
            startup::wait_for_backends(&database, &redis_store, kafka, &events, &health, &shutdown).await
            && let Some((installation, owner)) =
                startup::wait_for_installation(&database, &redis_store, (&client, &namespace), &health, &shutdown).await
        {
            let redis_store = redis_store.of_installation(installation);
            let lag = LagClient::new(&self.kafka, &couponry_kafka::consumer_group(&self.kafka_group, installation))?;
            let watch =
                startup::watch_stores(database.clone(), redis_store.clone(), owner, health.clone(), shutdown.clone());
            let watch = tokio::spawn(watch);
            tokio::spawn(startup::keep_topics(self.kafka.clone(), topics.clone(), health.clone(), shutdown.clone()));
            tokio::spawn(startup::watch_kubernetes(events.clone(), health.clone(), shutdown.clone()));
            let context = Arc::new(Context {
                events,
                database,
                redis_store,
                kafka: self.kafka.clone(),
                health,
                recorder: Recorder::new(client.clone(), FIELD_MANAGER.into()),
                metrics,
                limiter: Limiter::default(),
                preloads: PreloadQueue::default(),
                idle_events: IdleEvents::default(),
                transient: TransientState::default(),
                durability: DurabilityCache::default(),
                recording: RecordingTracker::new(lag.clone()),
                voids: VoidComparisons::default(),
                drains: DrainTracker::new(lag, Duration::from_secs(self.redis_recovery_grace_seconds)),
                topic_mismatches: startup::topic_mismatches(&mismatches),
                are_uses_sent: topics.used_topic.is_some(),
                deletion_timeout: Duration::from_secs(self.deletion_timeout_seconds),
                scaling: self.scaling.scaler(&client, &namespace),
            });
            tracing::info!("operator ready");
            self.reconcile_while_leader(&client, &namespace, &context, &shutdown).await?;
            // Before the cleanup, which must not remove the data of an installation that was taken over.
            watch.await.context("the task that watches the stores failed")??;
            // On a standby replica too: there may be no leader at that moment.
            Box::pin(namespace_cleanup::clean_up_terminating_namespace(client, &namespace, &context)).await;
        }
        if let Some(admin) = admin {
            admin.await.context("the admin API failed")?;
        }
        monitor.await.context("the monitor endpoint failed")?;
        tracing::info!("operator stopped");
        Ok(())
    }

    async fn reconcile_while_leader(
        &self,
        client: &kube::Client,
        namespace: &str,
        context: &Arc<Context>,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<()> {
        let work = async || Box::pin(controller::run(context.clone(), shutdown.clone())).await;
        let election = self.leader.election(client.clone(), namespace);
        leader::run_while_leader(election, &context.metrics, shutdown, work).await;
        anyhow::ensure!(shutdown.is_cancelled(), "the watch of the CouponEvents ended unexpectedly");
        Ok(())
    }
}
