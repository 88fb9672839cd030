//! Issues one coupon per user over HTTP.
//!
//! [`routes`] parses and authenticates a request, [`event_queues`] collects the requests of an event, [`issuing`]
//! issues coupons to many users in one call to Redis, [`relay`] sends the issued records to Kafka, [`sweeper`] sends
//! the entries of any issuer that were not confirmed in time.

mod authentication;
mod client_ip;
mod cors;
mod event_cache;
mod event_queues;
mod issuing;
mod lookups;
mod metrics;
mod page;
mod rate_limits;
mod read_failure;
mod recent_events;
mod relay;
mod request_threads;
mod routes;
mod sweeper;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::Parser;
use couponry_authentication::JWKS;
use couponry_domain::Uuid;
use couponry_kafka::Producer;
use couponry_redis::{RedisStore, RedisStoreError};
use couponry_runtime::{
    CancellationToken, Health, error_chain,
    http::{self, ConnectionLimits, HttpServer},
    monitor::MonitorArgs,
    telemetry::TelemetryArgs,
};
use couponry_settings::{KafkaSettings, RedisSettings};
use prometheus_client::registry::Registry;
use tokio::time;

#[cfg(any(test, fuzzing))]
pub use crate::routes::read_issue_request;
use crate::{
    authentication::{Authenticator, flags::AuthenticationArgs},
    cors::{Cors, CorsArgs},
    event_cache::EventCache,
    issuing::IssueQueues,
    lookups::Lookups,
    metrics::Metrics,
    page::PageArgs,
    rate_limits::{RateLimits, flags::RateLimitArgs},
    recent_events::RecentEvents,
    relay::Relay,
    request_threads::{REQUEST_THREADS, RequestThreads},
    routes::{Routes, app::App},
    sweeper::Sweeper,
};

const REDIS: &str = "redis";
const KAFKA: &str = "kafka";
const PROBE_INTERVAL: Duration = Duration::from_secs(2);
const KAFKA_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between pings of Kafka once it was reached. Each ping also reads the number of partitions.
const KAFKA_INTERVAL: Duration = Duration::from_secs(10);
/// Timeout of flushing records after the last response.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);

/// Issues coupons to users over HTTP: POST /coupons/issue. Run any number of replicas.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 120)]
pub struct Config {
    /// Listen address of the HTTP API.
    #[arg(long, env, default_value = "0.0.0.0:8080", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// Maximum number of users per call to Redis.
    #[arg(
        long,
        env,
        default_value_t = 512,
        value_name = "USERS",
        value_parser = clap::value_parser!(u16).range(1..=3000)
    )]
    max_batch: u16,
    /// Maximum number of requests per event that wait for Redis; more are rejected with 503.
    #[arg(
        long,
        env,
        default_value_t = 10_000,
        value_name = "REQUESTS",
        value_parser = clap::value_parser!(u32).range(1..=1_000_000)
    )]
    max_queued_requests: u32,
    /// Age of an unconfirmed outbox entry after which the sweeper of any issuer sends it to Kafka.
    #[arg(long, env, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    outbox_takeover_seconds: u32,
    /// Timeout for the body of a request; then the response is 408.
    #[arg(long, env, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    body_timeout_seconds: u32,
    /// Timeout of an issue request; on expiry the response is 503, and a retry returns the outcome.
    #[arg(long, env, default_value_t = 5, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    response_timeout_seconds: u32,
    /// How long to keep serving after SIGTERM, with /readyz failing, so that proxies remove the endpoint. Each response
    /// then closes its connection. Afterwards, requests in progress have 20 seconds to finish, and their records 10
    /// seconds to reach Kafka.
    #[arg(
        long,
        env,
        default_value_t = 5,
        value_name = "SECONDS",
        value_parser = clap::value_parser!(u32).range(0..=3600)
    )]
    drain_seconds: u32,
    /// Keep-alive timeout of idle connections. Must be longer than that of the proxy, otherwise the proxy may send a
    /// request over a connection that is being closed. Without a proxy, a minute is enough.
    #[arg(
        long,
        env,
        default_value_t = 4000,
        value_name = "SECONDS",
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    keep_alive_seconds: u32,
    /// Maximum number of connections. Beyond it, each new connection closes the one that has been idle for longest; if
    /// none is idle, the new connection waits until another one becomes idle. Each buffers up to 64 KiB.
    #[arg(
        long,
        env,
        default_value_t = 5000,
        value_name = "CONNECTIONS",
        value_parser = clap::value_parser!(u32).range(1..=1_000_000)
    )]
    max_connections: u32,
    /// Maximum number of connections per peer address (IPv6: per /64 prefix); more are closed at once. 0 disables the
    /// limit. Leave it off behind proxies: all connections come from their addresses.
    #[arg(
        long,
        env,
        default_value_t = 0,
        value_name = "CONNECTIONS",
        value_parser = clap::value_parser!(u32).range(0..=1_000_000)
    )]
    max_connections_per_address: u32,
    /// Number of threads that serve requests; one more calls Redis and Kafka. With one, an issuer uses at most one core
    /// for requests: run as many issuers as the load needs, or let each use more cores.
    #[arg(long, env, default_value_t = 1, value_name = "THREADS", value_parser = clap::value_parser!(u16).range(1..=256))]
    worker_threads: u16,
    /// Number of trusted proxies that append to X-Forwarded-For. The client address is the one from which the outermost
    /// of them received the request; --rate-limit-per-address and the log of failed requests (`--log
    /// info,requests=debug`) use it. 0: the header is ignored.
    #[arg(long, env, default_value_t = 0, value_name = "PROXIES", value_parser = clap::value_parser!(u8).range(0..=16))]
    trusted_proxies: u8,
    #[command(flatten)]
    identity: AuthenticationArgs,
    #[command(flatten)]
    limits: RateLimitArgs,
    #[command(flatten)]
    cors: CorsArgs,
    #[command(flatten)]
    page: PageArgs,
    #[command(flatten)]
    redis: RedisSettings,
    #[command(flatten)]
    kafka: KafkaSettings,
    #[command(flatten)]
    monitor: MonitorArgs,
    #[command(flatten)]
    telemetry: TelemetryArgs,
}

/// Serves requests until SIGTERM or SIGINT.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let _telemetry = config.telemetry.init("couponry-issuer")?;
    let shutdown = couponry_runtime::shutdown().context("cannot install the signal handlers")?;

    let redis_store = RedisStore::open(&config.redis)?;
    let producer = Producer::new(&config.kafka)?;
    let mut registry = Registry::with_prefix("couponry_issuer");
    let metrics = Metrics::register(&mut registry);
    let relay = Relay::start(redis_store.clone(), producer.clone(), metrics.clone());
    let recent_events = Arc::<RecentEvents>::default();
    let issue_queues = IssueQueues::new(
        redis_store.clone(),
        relay.clone(),
        metrics.clone(),
        recent_events.clone(),
        config.max_batch.into(),
        config.max_queued_requests,
    );
    // `shutdown` begins draining, then the other two are cancelled in this order.
    let (stop_accepting, stop_monitor) = (CancellationToken::new(), CancellationToken::new());
    let mut dependencies = vec![REDIS, KAFKA, REQUEST_THREADS];
    if config.identity.needs_keys() {
        dependencies.push(JWKS);
    }
    let health = Health::new(&dependencies);
    let limits = RateLimits::start(&config.limits, &metrics, &stop_accepting);
    let needs_peer_address = limits.limits_addresses();
    let page = config.page.routes(config.identity.source())?;
    let app = App {
        issue_queues,
        relay: relay.clone(),
        lookups: Lookups::new(redis_store.clone(), recent_events.clone(), config.max_queued_requests),
        // A connection of its own: that of the batches must not be opened, and served, by the threads of the requests.
        event_cache: EventCache::new(
            RedisStore::open(&config.redis)?,
            recent_events.clone(),
            metrics.event_reads.clone(),
        ),
        authenticator: Authenticator::start(config.identity, metrics.clone(), &health, stop_accepting.clone())?,
        limits,
        metrics: metrics.clone(),
        body_timeout: Duration::from_secs(config.body_timeout_seconds.into()),
        response_timeout: Duration::from_secs(config.response_timeout_seconds.into()),
        trusted_proxies: config.trusted_proxies,
    };

    // The ports are bound before any server is reached, so that /readyz reports what is missing.
    let listener = http::bind("--listen", config.listen).await?.into_std().context("cannot serve on --listen")?;
    let monitor = config.monitor.start(health.clone(), registry, stop_monitor.clone()).await?;
    tracing::info!("issuer started");
    let server = HttpServer {
        keep_alive: Duration::from_secs(config.keep_alive_seconds.into()),
        limits: ConnectionLimits {
            total: usize::try_from(config.max_connections).unwrap_or(usize::MAX),
            per_address: usize::try_from(config.max_connections_per_address).unwrap_or(usize::MAX),
        },
        metrics: metrics.connections(),
        needs_peer_address,
        draining: shutdown.clone(),
        stop: stop_accepting.clone(),
    };
    let mut requests =
        RequestThreads::start(config.worker_threads, listener, server, Routes::new(app, Cors::new(config.cors), page))?;
    let probe =
        tokio::spawn(watch_servers(redis_store.clone(), producer.clone(), health.clone(), stop_accepting.clone()));
    let sweeper = Sweeper {
        id: Uuid::new_v4(),
        redis_store,
        relay: relay.clone(),
        recent_events,
        takeover_after: Duration::from_secs(config.outbox_takeover_seconds.into()),
        metrics,
    };
    let sweeper = tokio::spawn(sweeper.run(stop_accepting.clone()));

    // After a failure, the records that are not confirmed stay in the outbox for another issuer.
    tokio::select! {
        () = shutdown.cancelled() => {}
        error = requests.failure(&health) => return Err(error),
    }
    health.set_shutting_down();
    let drain = Duration::from_secs(config.drain_seconds.into());
    tracing::info!(?drain, "draining connections before shutdown");
    time::sleep(drain).await;
    stop_accepting.cancel();
    requests.finish().await?;
    // Entries that are not sent by then stay in the outbox for another issuer.
    let flushed = time::timeout(FLUSH_TIMEOUT, async {
        if let Err(error) = producer.flush(FLUSH_TIMEOUT).await {
            tracing::warn!(
                error = error_chain(error),
                "cannot flush the producer, unconfirmed records stay in the outbox"
            );
        }
        relay.finish(FLUSH_TIMEOUT).await;
        sweeper.await.context("the sweeper panicked")?;
        probe.await.context("the watcher of the servers panicked")
    });
    if let Ok(flushed) = flushed.await {
        flushed?;
    } else {
        tracing::warn!(timeout = ?FLUSH_TIMEOUT, "shutdown before all records were sent, they stay in the outbox");
    }
    stop_monitor.cancel();
    monitor.await.context("the monitoring endpoint panicked")?;
    tracing::info!("issuer stopped");
    Ok(())
}

/// Updates the readiness. An issuer is ready if its response is more useful than that of a proxy without any issuer.
///
/// An issuer that has reached Redis once, or one node of a cluster, stays ready: during an outage of Redis, which
/// concerns all issuers, it returns 503 with `Retry-After` itself; otherwise the proxy would have no issuer left and
/// return an error of its own. Kafka may be unavailable, also at startup, because the outbox bridges its outages. An
/// issuer that Kafka rejects is not ready until it was accepted once, so that a rollout with wrong settings stops.
async fn watch_servers(redis_store: RedisStore, producer: Producer, health: Health, shutdown: CancellationToken) {
    let pause = async |time| {
        tokio::select! {
            () = time::sleep(time) => {}
            () = shutdown.cancelled() => {}
        }
    };
    let kafka = async {
        let mut was_reached = false;
        while !shutdown.is_cancelled() {
            // Each call also updates the number of partitions.
            let result = producer.ping(KAFKA_TIMEOUT).await;
            was_reached |= result.is_ok();
            match result {
                Err(error) if was_reached || error.is_outage() => health.degrade(KAFKA, error),
                result => health.set(KAFKA, result),
            }
            pause(if was_reached { KAFKA_INTERVAL } else { PROBE_INTERVAL }).await;
        }
    };
    let redis = async {
        let mut was_reached = false;
        while !shutdown.is_cancelled() {
            let result = redis_store.ping().await;
            was_reached |= result.as_ref().map_or_else(RedisStoreError::is_partial_outage, |()| true);
            match result {
                Err(error) if was_reached => health.degrade(REDIS, error),
                result => health.set(REDIS, result),
            }
            pause(PROBE_INTERVAL).await;
        }
    };
    tokio::join!(kafka, redis);
}
