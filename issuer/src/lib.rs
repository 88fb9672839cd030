//! Gives one coupon to one user over HTTP.
//!
//! The way of a request: [`routes`] reads it, [`batcher`] asks Redis for many users at once, [`relay`] sends what was issued to
//! Kafka, [`sweeper`] sends what a dead issuer left behind.

mod batcher;
mod identity;
mod limits;
mod metrics;
mod relay;
mod routes;
mod sightings;
mod sweeper;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::Parser;
use couponry_domain::Uuid;
use couponry_kafka::Producer;
use couponry_redis::Stock;
use couponry_runtime::{
    CancellationToken, Health,
    http::{self, Serving},
    monitor::MonitorArgs,
    patiently, problem,
    telemetry::Telemetry,
};
use couponry_settings::{KafkaSettings, RedisSettings};
use prometheus_client::registry::Registry;
use tokio::time;

#[cfg(any(test, fuzzing))]
pub use crate::routes::read_issue_request;
use crate::{
    batcher::Batchers,
    identity::{Identity, IdentityArgs, JWT_KEYS},
    limits::{LimitArgs, Limits},
    metrics::Metrics,
    relay::Relay,
    routes::App,
    sightings::Sightings,
    sweeper::Sweeper,
};

const REDIS: &str = "redis";
const KAFKA: &str = "kafka";
const PROBE_INTERVAL: Duration = Duration::from_secs(2);
const KAFKA_TIMEOUT: Duration = Duration::from_secs(5);
/// For all that is done after the last answer.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);

/// Gives coupons to users: POST /coupons/issue. Run as many as you like side by side.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 120)]
pub struct Config {
    /// Address of the HTTP endpoint.
    #[arg(long, env, default_value = "0.0.0.0:8080", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// How many users one call to Redis may serve.
    #[arg(long, env, default_value_t = 512, value_name = "USERS", value_parser = clap::value_parser!(u16).range(1..=3000))]
    max_batch: u16,
    /// How many requests of one event may wait for Redis; more are answered with 503.
    #[arg(long, env, default_value_t = 10_000, value_name = "REQUESTS", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_queued_requests: u32,
    /// How old an unconfirmed batch must be before another issuer sends it to Kafka as well.
    #[arg(long, env, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    outbox_takeover_seconds: u32,
    /// How long a client may take to send a request's body; after that: 408.
    #[arg(long, env, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    body_timeout_seconds: u32,
    /// How long a request may wait for its outcome; after that: 503, and asking again tells.
    #[arg(long, env, default_value_t = 5, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    answer_timeout_seconds: u32,
    /// How long to go on serving after SIGTERM, while not ready: proxies in front need that long to notice. Each answer then
    /// sends its connection away. What is under way after that is finished, which takes 30 seconds at the most.
    #[arg(long, env, default_value_t = 5, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(0..=3600))]
    drain_seconds: u32,
    /// How long a connection may be without a request. Must be longer than the proxy in front keeps one, or it sends requests
    /// into connections that are being closed; without a proxy in front, a minute is enough.
    #[arg(long, env, default_value_t = 4000, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    keep_alive_seconds: u32,
    /// How many connections there may be at once; more wait until one ends. Each takes up to 64 KiB.
    #[arg(long, env, default_value_t = 5000, value_name = "CONNECTIONS", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_connections: u32,
    /// How many proxies in front append to X-Forwarded-For: the log of failed requests (`--log info,requests=debug`) and
    /// --rate-limit-per-address know the client that the outermost of them has seen. 0: nobody's word is taken.
    #[arg(long, env, default_value_t = 0, value_name = "PROXIES", value_parser = clap::value_parser!(u8).range(0..=16))]
    trusted_proxies: u8,
    #[command(flatten)]
    identity: IdentityArgs,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    redis: RedisSettings,
    #[command(flatten)]
    kafka: KafkaSettings,
    #[command(flatten)]
    monitor: MonitorArgs,
    #[command(flatten)]
    telemetry: Telemetry,
}

/// Serves until it is told to end.
pub async fn run(config: Config) -> anyhow::Result<()> {
    config.telemetry.init()?;
    let shutdown = couponry_runtime::shutdown().context("cannot listen to signals")?;

    let stock = Stock::open(&config.redis)?;
    let producer = Producer::new(&config.kafka)?;
    let mut registry = Registry::with_prefix("couponry_issuer");
    let metrics = Metrics::register(&mut registry);
    let relay = Relay::start(stock.clone(), producer.clone(), metrics.clone());
    let sightings = Arc::<Sightings>::default();
    let batchers = Batchers::new(
        stock.clone(),
        relay.clone(),
        metrics.clone(),
        sightings.clone(),
        config.max_batch.into(),
        config.max_queued_requests,
    );
    // In this order: `shutdown` is asked for, from `stop` on nothing new is begun, and at the `end` nothing is shown any more.
    let (stop, end) = (CancellationToken::new(), CancellationToken::new());
    let mut needs = vec![REDIS, KAFKA];
    if config.identity.needs_keys() {
        needs.push(JWT_KEYS);
    }
    let health = Health::new(&needs);
    let limits = Limits::start(&config.limits, &metrics, &stop);
    let with_peers = limits.by_address();
    let app = Arc::new(App {
        batchers,
        relay: relay.clone(),
        stock: stock.clone(),
        sightings: sightings.clone(),
        identity: Identity::start(config.identity, metrics.clone(), &health, stop.clone())?,
        limits,
        metrics: metrics.clone(),
        body_timeout: Duration::from_secs(config.body_timeout_seconds.into()),
        answer_timeout: Duration::from_secs(config.answer_timeout_seconds.into()),
        trusted_proxies: config.trusted_proxies,
    });

    // Everything is bound before anything is waited for: who looks sees why the issuer is not ready.
    let listener = http::bind("--listen", config.listen).await?;
    let monitor = config.monitor.start(health.clone(), registry, end.clone()).await?;
    tracing::info!(listen = %config.listen, monitor = %config.monitor.monitor_listen, "the issuer starts");
    let serving = Serving {
        keep_alive: Duration::from_secs(config.keep_alive_seconds.into()),
        max_connections: usize::try_from(config.max_connections).unwrap_or(usize::MAX),
        with_peers,
        draining: shutdown.clone(),
        stop: stop.clone(),
    };
    let endpoint = tokio::spawn(serving.run(listener, routes::router(app)));
    let probe = tokio::spawn(watch_servers(stock.clone(), producer.clone(), health.clone(), stop.clone()));
    let sweeper = Sweeper {
        id: Uuid::new_v4(),
        stock,
        relay: relay.clone(),
        sightings,
        adopt_after: Duration::from_secs(config.outbox_takeover_seconds.into()),
        metrics,
    };
    let sweeper = tokio::spawn(sweeper.run(stop.clone()));

    shutdown.cancelled().await;
    health.end("shutting down");
    let drain = Duration::from_secs(config.drain_seconds.into());
    tracing::info!(?drain, "serving until everyone knows that this issuer ends");
    time::sleep(drain).await;
    stop.cancel();
    endpoint.await.context("the endpoint failed")?;
    // What could not be sent by then stays in the outbox, for another issuer or the next start.
    let sent = time::timeout(FLUSH_TIMEOUT, async {
        if let Err(error) = producer.flush(FLUSH_TIMEOUT).await {
            tracing::warn!(%error, "leaving what is not in Kafka yet in the outbox");
        }
        relay.finish(FLUSH_TIMEOUT).await;
        sweeper.await.context("the sweeper failed")?;
        probe.await.context("the probe failed")
    });
    if let Ok(ended) = sent.await {
        ended?;
    } else {
        tracing::warn!("ending with work under way: another issuer goes on with it");
    }
    end.cancel();
    monitor.await.context("the monitor failed")?;
    tracing::info!("the issuer ends");
    Ok(())
}

/// Keeps the readiness up to date: Kafka must have been there once (after that the outbox bridges its absence), Redis always.
async fn watch_servers(stock: Stock, producer: Producer, health: Health, shutdown: CancellationToken) {
    let kafka = async {
        patiently("waiting for Kafka", &shutdown, async || {
            let answer = producer.ping(KAFKA_TIMEOUT).await;
            health.set(KAFKA, answer.as_ref().map(drop));
            answer
        })
        .await;
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
