//! Reserves, redeems and releases issued coupons over HTTP, for the servers of a shop.
//!
//! [`routes`] parses and authenticates requests, [`redemptions`] executes them. Postgres decides ([ADR
//! 0028](../../docs/adr/0028-redemptions.md)).

mod authentication;
mod metrics;
mod problems;
mod redemptions;
mod relay;
mod routes;
mod watch;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::Parser;
use couponry_authentication::JWKS;
use couponry_kafka::Producer;
use couponry_postgres::Database;
use couponry_redis::RedisStore;
use couponry_runtime::{
    CancellationToken, Health,
    http::{self, ConnectionLimits, HttpServer},
    monitor::MonitorArgs,
    telemetry::TelemetryArgs,
};
use couponry_settings::{KafkaSettings, PostgresSettings, RedisSettings};
use prometheus_client::registry::Registry;
use tokio::time;

use crate::{
    authentication::AuthenticationArgs,
    metrics::Metrics,
    redemptions::Redemptions,
    relay::Relay,
    routes::app::App,
    watch::{KAFKA, POSTGRES, REDIS, watch_servers},
};

/// How long a shutdown waits for the records that are being sent.
const RELAY_TIMEOUT: Duration = Duration::from_secs(5);

/// Reserves, redeems and releases issued coupons over HTTP, for the servers of a shop. Run any number of replicas.
#[derive(Debug, Parser)]
// The redeemer does not use the topic of the issued records.
#[command(version, max_term_width = 120, mut_arg("kafka_topic", |arg| arg.hide(true)))]
#[command(mut_arg("jwt_user_claim", |arg| arg.help("Claim with the name of the caller")))]
struct Config {
    /// Listen address of the HTTP API.
    #[arg(long, env, default_value = "0.0.0.0:8080", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// Timeout for the body of a request; then the response is 408.
    #[arg(long, env, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    body_timeout_seconds: u32,
    /// Timeout of a request; on expiry the response is 503, and a retry with the same idempotency key returns the
    /// outcome.
    #[arg(long, env, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=20))]
    response_timeout_seconds: u32,
    /// How long to keep serving after SIGTERM, with /readyz failing, so that proxies remove the endpoint. Each response
    /// then closes its connection. Afterwards, requests in progress have 20 seconds to finish.
    #[arg(
        long,
        env,
        default_value_t = 5,
        value_name = "SECONDS",
        value_parser = clap::value_parser!(u32).range(0..=3600)
    )]
    drain_seconds: u32,
    /// Maximum number of connections. Beyond it, each new connection closes the one that has been idle for longest; if
    /// none is idle, the new connection waits until another one becomes idle.
    #[arg(
        long,
        env,
        default_value_t = 1000,
        value_name = "CONNECTIONS",
        value_parser = clap::value_parser!(u32).range(1..=1_000_000)
    )]
    max_connections: u32,
    #[command(flatten)]
    authentication: AuthenticationArgs,
    #[command(flatten)]
    postgres: PostgresSettings,
    #[command(flatten)]
    redis: RedisSettings,
    #[command(flatten)]
    kafka: KafkaSettings,
    /// Topic of the uses of coupons. The operator creates it.
    #[arg(long, env, default_value = "coupon-used", value_name = "TOPIC", help_heading = "Kafka")]
    kafka_used_topic: String,
    #[command(flatten)]
    monitor: MonitorArgs,
    #[command(flatten)]
    telemetry: TelemetryArgs,
}

/// Serves requests until SIGTERM or SIGINT.
#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let config = Config::parse();
    let _telemetry = config.telemetry.init("couponry-redeemer")?;
    let shutdown = couponry_runtime::shutdown().context("cannot install the signal handlers")?;

    let database = Database::open(&config.postgres)?;
    let redis_store = RedisStore::open(&config.redis)?;
    let producer = Producer::new(&KafkaSettings { topic: config.kafka_used_topic, ..config.kafka })?;
    let mut registry = Registry::with_prefix("couponry_redeemer");
    let metrics = Metrics::register(&mut registry);
    // `shutdown` begins draining, then the other two are cancelled in this order.
    let (stop_accepting, stop_monitor) = (CancellationToken::new(), CancellationToken::new());
    let jwks = config.authentication.needs_keys().then_some(JWKS);
    let health = Health::new(&[&[POSTGRES, REDIS, KAFKA], jwks.as_slice()].concat());
    let authenticator = config.authentication.authenticator(metrics.clone(), &health, stop_accepting.clone()).await?;
    let namespace = authenticator.namespace().map(str::to_owned);
    let app = Arc::new(App {
        redemptions: Redemptions {
            database: database.clone(),
            redis_store: redis_store.clone(),
            metrics: metrics.clone(),
        },
        authenticator,
        metrics: metrics.clone(),
        body_timeout: Duration::from_secs(config.body_timeout_seconds.into()),
        response_timeout: Duration::from_secs(config.response_timeout_seconds.into()),
    });

    // The ports are bound before any server is reached, so that /readyz reports what is missing.
    let listener = http::bind("--listen", config.listen).await?;
    let monitor = config.monitor.start(health.clone(), registry, stop_monitor.clone()).await?;
    tracing::info!("redeemer started");
    let server = HttpServer {
        keep_alive: http::KEEP_ALIVE,
        limits: ConnectionLimits {
            total: usize::try_from(config.max_connections).unwrap_or(usize::MAX),
            per_address: 0,
        },
        metrics: metrics.connections(),
        needs_peer_address: false,
        draining: shutdown.clone(),
        stop: stop_accepting.clone(),
    };
    let mut endpoint = tokio::spawn(server.run(listener, routes::router(app)));
    let relay = Relay { database: database.clone(), producer: producer.clone(), metrics: metrics.clone() };
    let mut relay = tokio::spawn(relay.run(stop_accepting.clone()));
    let servers = (database, redis_store, producer);
    let watcher = tokio::spawn(watch_servers(servers, namespace, health.clone(), stop_accepting.clone()));

    tokio::select! {
        () = shutdown.cancelled() => {}
        end = &mut endpoint => {
            end.context("the HTTP server panicked")?;
            anyhow::bail!("the HTTP server has ended");
        }
        end = &mut relay => {
            end.context("the relay panicked")?;
            anyhow::bail!("the relay has ended");
        }
    }
    health.set_shutting_down();
    let drain = Duration::from_secs(config.drain_seconds.into());
    tracing::info!(?drain, "draining connections before shutdown");
    time::sleep(drain).await;
    stop_accepting.cancel();
    endpoint.await.context("the HTTP server panicked")?;
    watcher.await.context("the watcher of the servers panicked")?;
    // Its records can also be sent by another redeemer, or again.
    if let Ok(end) = time::timeout(RELAY_TIMEOUT, relay).await {
        end.context("the relay panicked")?;
    } else {
        tracing::warn!("shutdown before Kafka has acknowledged uses of coupons, they are sent again");
    }
    stop_monitor.cancel();
    monitor.await.context("the monitoring endpoint panicked")?;
    tracing::info!("redeemer stopped");
    Ok(())
}
