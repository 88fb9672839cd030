//! Gives one coupon to one user over HTTP.
//!
//! The way of a request: [`routes`] reads it, [`batcher`] asks Redis for many users at once, [`relay`] sends what was issued to
//! Kafka, [`sweeper`] sends what a dead issuer left behind.

mod batcher;
mod identity;
mod metrics;
mod problem;
mod relay;
mod routes;
mod sweeper;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::Parser;
use domain::Uuid;
use journal::{KafkaSettings, Producer};
use prometheus_client::registry::Registry;
use service::{
    CancellationToken, Health,
    backend::{KafkaArgs, RedisArgs},
    http,
    monitor::MonitorArgs,
    patiently,
    telemetry::Telemetry,
};
use stock::Stock;

use crate::{batcher::Batchers, identity::UserIdentity, metrics::Metrics, relay::Relay, routes::App, sweeper::Sweeper};

const REDIS: &str = "redis";
const KAFKA: &str = "kafka";
const PROBE_INTERVAL: Duration = Duration::from_secs(2);
const KAFKA_TIMEOUT: Duration = Duration::from_secs(5);
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);

/// Gives coupons to users: POST /coupons/issue. Run as many as you like side by side.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 120)]
struct Config {
    /// Address of the HTTP endpoint.
    #[arg(long, env, default_value = "0.0.0.0:8080", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Who the user is: `body` takes the request's word for it (for trials), `header:NAME` takes the header that a trusted
    /// proxy sets.
    #[arg(long, env, default_value = "body", value_name = "SOURCE")]
    user_identity: UserIdentity,
    /// How many users one call to Redis may serve.
    #[arg(long, env, default_value_t = 512, value_name = "USERS", value_parser = clap::value_parser!(u16).range(1..=3000))]
    max_batch: u16,
    /// How many requests of one event may wait for Redis; more are answered with 503.
    #[arg(long, env, default_value_t = 10_000, value_name = "REQUESTS", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_waiting: u32,
    /// How old an unconfirmed batch must be before another issuer sends it to Kafka as well.
    #[arg(long, env, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    adopt_after_seconds: u32,
    /// How long a client may take to send a request's body; after that: 408.
    #[arg(long, env, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    body_timeout_seconds: u32,
    /// How long a request may wait for its outcome; after that: 503, and asking again tells.
    #[arg(long, env, default_value_t = 5, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    answer_timeout_seconds: u32,
    #[command(flatten)]
    redis: RedisArgs,
    #[command(flatten)]
    kafka: KafkaArgs,
    #[command(flatten)]
    monitor: MonitorArgs,
    #[command(flatten)]
    telemetry: Telemetry,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let config = Config::parse();
    config.telemetry.init()?;
    let shutdown = service::shutdown().context("cannot listen to signals")?;
    config.user_identity.warn_if_unsafe();

    let stock = Stock::connect(config.redis.redis_url.reveal(), &config.redis.redis_key_prefix)?;
    let producer = Producer::new(&KafkaSettings {
        brokers: config.kafka.kafka_brokers.clone(),
        topic: config.kafka.kafka_topic.clone(),
    })?;
    let mut registry = Registry::with_prefix("couponry_issuer");
    let metrics = Metrics::register(&mut registry);
    let relay = Relay::start(stock.clone(), producer.clone(), metrics.clone());
    let batchers =
        Batchers::new(stock.clone(), relay.clone(), metrics.clone(), config.max_batch.into(), config.max_waiting);
    let app = Arc::new(App {
        batchers,
        relay: relay.clone(),
        stock: stock.clone(),
        identity: config.user_identity,
        metrics: metrics.clone(),
        body_timeout: Duration::from_secs(config.body_timeout_seconds.into()),
        answer_timeout: Duration::from_secs(config.answer_timeout_seconds.into()),
    });

    // Everything is bound before anything is waited for: who looks sees why the issuer is not ready.
    let listener = http::bind("--listen", config.listen).await?;
    let health = Health::new(&[REDIS, KAFKA]);
    let monitor = config.monitor.start(health.clone(), registry, shutdown.clone()).await?;
    tracing::info!(listen = %config.listen, monitor = %config.monitor.monitor_listen, "the issuer starts");
    let endpoint = tokio::spawn(http::serve(listener, routes::router(app), shutdown.clone()));
    let probe = tokio::spawn(watch_servers(stock.clone(), producer.clone(), health, shutdown.clone()));
    let sweeper = Sweeper {
        id: Uuid::new_v4(),
        stock,
        relay: relay.clone(),
        adopt_after: Duration::from_secs(config.adopt_after_seconds.into()),
        metrics,
    };
    let sweeper = tokio::spawn(sweeper.run(shutdown.clone()));

    shutdown.cancelled().await;
    endpoint.await.context("the endpoint failed")?;
    // What could not be sent by then stays in the outbox, for another issuer or the next start.
    if let Err(error) = producer.flush(FLUSH_TIMEOUT).await {
        tracing::warn!(%error, "leaving what is not in Kafka yet in the outbox");
    }
    relay.finish(FLUSH_TIMEOUT).await;
    sweeper.await.context("the sweeper failed")?;
    probe.await.context("the probe failed")?;
    monitor.await.context("the monitor failed")?;
    tracing::info!("the issuer ends");
    Ok(())
}

/// Keeps the readiness up to date: Kafka must have been there once (after that the outbox bridges its absence), Redis always.
async fn watch_servers(stock: Stock, producer: Producer, health: Health, shutdown: CancellationToken) {
    let kafka = async {
        if patiently("waiting for Kafka", &shutdown, || producer.ping(KAFKA_TIMEOUT)).await.is_some() {
            health.set(KAFKA, Ok::<_, String>(()));
        }
    };
    let redis = async {
        while !shutdown.is_cancelled() {
            health.set(REDIS, stock.ping().await);
            tokio::select! {
                () = tokio::time::sleep(PROBE_INTERVAL) => {}
                () = shutdown.cancelled() => {}
            }
        }
    };
    tokio::join!(kafka, redis);
}
