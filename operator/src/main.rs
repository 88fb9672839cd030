//! Turns `CouponEvent`s into stock in Postgres and Redis, and reports on them.
//!
//! [`startup`] waits for the servers, [`controller`] watches the events, [`reconcile`] does what is to be done about one of
//! them, [`finalizer`] cleans up after it, [`notices`] tells its story, [`durability`] says what Redis promises. Of several operators the [`leader`] does all that; each
//! serves the [`admin`] API. [`inspect`] has the commands that only look, [`verify`] the one that
//! takes a coupon the whole way.

mod admin;
mod config;
mod context;
mod controller;
mod durability;
mod farewell;
mod finalizer;
mod inspect;
mod leader;
mod metrics;
mod notices;
mod reconcile;
mod scaling;
mod startup;
mod verify;

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use config::{Command, Migrate, Run};
use context::{Context, Memory};
use couponry_kafka::Lag;
use couponry_postgres::Database;
use couponry_redis::Stock;
use couponry_runtime::{CancellationToken, Health};
use durability::DurabilityWatch;
use kube::{Api, client::ClientBuilder, runtime::events::Recorder};
use metrics::Metrics;
use prometheus_client::registry::Registry;
use reconcile::arrival::Arrivals;

/// How long Kubernetes may take to begin an answer. A connection whose other end has vanished gives no error of its own.
const KUBERNETES_TIMEOUT: Duration = Duration::from_secs(20);

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    match config::read(std::env::args_os()).unwrap_or_else(|error| error.exit()).command {
        Command::Run(config) => {
            config.telemetry.init()?;
            Box::pin(run(*config, couponry_runtime::shutdown().context("cannot listen to signals")?)).await?;
        }
        Command::Migrate(Migrate { postgres, telemetry }) => {
            telemetry.init()?;
            let shutdown = couponry_runtime::shutdown().context("cannot listen to signals")?;
            let database = Database::open(&postgres)?;
            anyhow::ensure!(startup::migrate(&database, &shutdown).await, "ended before the tables were up to date");
        }
        Command::Audit(audit) => return Ok(inspect::answer(&audit.telemetry, Box::pin(audit.run())).await),
        Command::Export(export) => return Ok(inspect::answer(&export.telemetry, Box::pin(export.run())).await),
        Command::Verify(verify) => {
            verify.telemetry.init()?;
            verify.run().await?;
        }
        Command::Check(check) => return Ok(inspect::answer(&check.telemetry, Box::pin(check.run())).await),
    }
    Ok(ExitCode::SUCCESS)
}

async fn run(config: Run, shutdown: CancellationToken) -> anyhow::Result<()> {
    let database = Database::open(&config.postgres)?;
    let stock = Stock::open(&config.redis)?;
    let cluster =
        kube::Config::infer().await.context("no Kubernetes cluster is configured: set KUBECONFIG, or run in a pod")?;
    // Not the client's own limit on reading: that would cut off watches on which nothing happens.
    let within = tower::timeout::TimeoutLayer::new(KUBERNETES_TIMEOUT);
    let client = ClientBuilder::try_from(cluster).context("cannot speak to Kubernetes as it is configured")?;
    let client = client.with_layer(&within).build();
    let namespace = config.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
    let events = Api::namespaced(client.clone(), &namespace);
    let lag = Lag::new(&config.kafka, &config.kafka_group)?;
    let arrivals = Arrivals::new(lag, Duration::from_secs(config.redis_recovery_grace_seconds));

    let mut registry = Registry::with_prefix("couponry_operator");
    let metrics = Metrics::register(&mut registry);
    let health = Health::new(&[startup::POSTGRES, startup::REDIS, startup::KAFKA, startup::KUBERNETES]);
    let monitor = config.monitor.start(health.clone(), registry, shutdown.clone()).await?;
    let admin = config.admin.start(client.clone(), &namespace, shutdown.clone()).await?;
    tracing::info!(namespace, monitor = %config.monitor.monitor_listen, "the operator starts");

    let kafka = (&config.kafka, &config.topics());
    if let Some(findings) = startup::wait(&database, &stock, kafka, &events, &health, &shutdown).await {
        let probe = startup::watch_stores(database.clone(), stock.clone(), health, shutdown.clone());
        let probe = tokio::spawn(probe);
        let context = Context {
            events,
            database,
            stock,
            recorder: Recorder::new(client.clone(), "couponry-operator".into()),
            metrics,
            memory: Memory::default(),
            durability: DurabilityWatch::default(),
            arrivals,
            remarks: startup::remarks(&findings),
            drain_timeout: Duration::from_secs(config.drain_timeout_seconds),
            scaling: config.scaling.watch(&client, &namespace),
        };
        tracing::info!("the operator is ready");
        let context = Arc::new(context);
        let work = async || {
            controller::run(Api::namespaced(client.clone(), &namespace), context.clone(), shutdown.clone()).await;
        };
        let election = config.leader.election(client.clone(), &namespace);
        leader::lead(election, &context.metrics, &shutdown, work).await;
        anyhow::ensure!(shutdown.is_cancelled(), "the watch of the CouponEvents has ended by itself");
        // Also by one that stands by: perhaps nobody leads at that moment.
        farewell::farewell(client, &namespace, &context).await;
        probe.await.context("the probe failed")?;
    }
    if let Some(admin) = admin {
        admin.await.context("the admin API failed")?;
    }
    monitor.await.context("the monitor failed")?;
    tracing::info!("the operator ends");
    Ok(())
}
