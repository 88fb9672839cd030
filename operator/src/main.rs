//! Turns `CouponEvent`s into stock in Postgres and Redis, and reports on them.
//!
//! [`startup`] waits for the servers, [`controller`] watches the events, [`reconcile`] does what is to be done about one of
//! them, [`finalizer`] cleans up after it, [`notices`] tells its story.

mod config;
mod context;
mod controller;
mod finalizer;
mod metrics;
mod notices;
mod reconcile;
mod startup;

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use config::{Command, Migrate, Run};
use context::{Context, Memory};
use kube::{Api, Client, runtime::events::Recorder};
use ledger::Ledger;
use metrics::Metrics;
use prometheus_client::registry::Registry;
use service::{CancellationToken, Health};
use stock::Stock;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match config::read(std::env::args_os()).unwrap_or_else(|error| error.exit()).command {
        Command::Run(config) => {
            config.telemetry.init()?;
            run(*config, service::shutdown().context("cannot listen to signals")?).await
        }
        Command::Migrate(Migrate { postgres, telemetry }) => {
            telemetry.init()?;
            let shutdown = service::shutdown().context("cannot listen to signals")?;
            let ledger = Ledger::connect(postgres.postgres_url.reveal())?;
            anyhow::ensure!(startup::migrate(&ledger, &shutdown).await, "ended before the tables were up to date");
            Ok(())
        }
    }
}

async fn run(config: Run, shutdown: CancellationToken) -> anyhow::Result<()> {
    let ledger = Ledger::connect(config.postgres.postgres_url.reveal())?;
    let stock = Stock::connect(config.redis.redis_url.reveal(), &config.redis.redis_key_prefix)?;
    let cluster =
        kube::Config::infer().await.context("no Kubernetes cluster is configured: set KUBECONFIG, or run in a pod")?;
    let client = Client::try_from(cluster).context("cannot speak to Kubernetes as it is configured")?;
    let namespace = config.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
    let events = Api::namespaced(client.clone(), &namespace);

    let mut registry = Registry::with_prefix("couponry_operator");
    let metrics = Metrics::register(&mut registry);
    let health = Health::new(&[startup::POSTGRES, startup::REDIS, startup::KAFKA, startup::KUBERNETES]);
    let monitor = config.monitor.start(health.clone(), registry, shutdown.clone()).await?;
    tracing::info!(namespace, monitor = %config.monitor.monitor_listen, "the operator starts");

    let kafka = (&config.kafka(), &config.topics());
    if let Some(findings) = startup::wait(&ledger, &stock, kafka, &events, &health, &shutdown).await {
        let probe = startup::watch_stores(ledger.clone(), stock.clone(), health, shutdown.clone());
        let probe = tokio::spawn(probe);
        let context = Context {
            events,
            ledger,
            stock,
            recorder: Recorder::new(client.clone(), "couponry-operator".into()),
            metrics,
            memory: Memory::default(),
            remarks: startup::remarks(&findings),
            drain_timeout: Duration::from_secs(config.drain_timeout_seconds),
        };
        tracing::info!("the operator is ready");
        controller::run(Api::namespaced(client, &namespace), Arc::new(context), shutdown.clone()).await;
        anyhow::ensure!(shutdown.is_cancelled(), "the watch of the CouponEvents has ended by itself");
        probe.await.context("the probe failed")?;
    }
    monitor.await.context("the monitor failed")?;
    tracing::info!("the operator ends");
    Ok(())
}
