//! Writes the issued records from Kafka into Postgres.
//!
//! [`batch`] decides what becomes of a batch, [`pipeline`] makes it happen, [`watch`] looks after the servers.

mod batch;
mod metrics;
mod pipeline;
mod watch;

use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use couponry_kafka::{Consumer, DeadLetters, Lag};
use couponry_postgres::Database;
use couponry_redis::Stock;
use couponry_runtime::{Health, monitor::MonitorArgs, telemetry::Telemetry};
use couponry_settings::{KafkaSettings, PostgresSettings, RedisSettings};
use prometheus_client::registry::Registry;

use crate::{metrics::Metrics, pipeline::Pipeline, watch::Watch};

const KAFKA: &str = "kafka";
const POSTGRES: &str = "postgres";
const REDIS: &str = "redis";
/// Not a server: whether the batches under way get through.
const PIPELINE: &str = "pipeline";

/// Writes who got which coupon from Kafka into Postgres. Run as many as the topic has partitions side by side.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 120)]
struct Config {
    /// The consumer group that shares the topic.
    #[arg(long, env, default_value = "couponry-consumer", value_name = "GROUP")]
    kafka_group: String,
    /// How many messages one transaction may hold.
    #[arg(long, env, default_value_t = 1000, value_name = "MESSAGES", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    batch_size: u16,
    /// How long a batch that is not full waits for more.
    #[arg(long, env, default_value_t = 50, value_name = "MILLISECONDS", value_parser = clap::value_parser!(u16).range(0..=10_000))]
    batch_linger: u16,
    #[command(flatten)]
    kafka: KafkaSettings,
    #[command(flatten)]
    postgres: PostgresSettings,
    #[command(flatten)]
    redis: RedisSettings,
    #[command(flatten)]
    monitor: MonitorArgs,
    #[command(flatten)]
    telemetry: Telemetry,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let config = Config::parse();
    config.telemetry.init()?;
    let shutdown = couponry_runtime::shutdown().context("cannot listen to signals")?;

    let kafka = config.kafka;
    let database = Database::open(&config.postgres)?;
    let stock = Stock::open(&config.redis)?;
    let dead_letters = DeadLetters::new(&kafka)?;
    let mut registry = Registry::with_prefix("couponry_consumer");
    let metrics = Metrics::register(&mut registry);
    let health = Health::new(&[KAFKA, POSTGRES, REDIS, PIPELINE]);
    let monitor = config.monitor.start(health.clone(), registry, shutdown.clone()).await?;
    tracing::info!(group = config.kafka_group, topic = kafka.topic, "the consumer starts");

    let watch = Watch {
        dead_letters: dead_letters.clone(),
        lag: Lag::new(&kafka, &config.kafka_group)?,
        database: database.clone(),
        stock: stock.clone(),
        metrics: metrics.clone(),
        health: health.clone(),
        shutdown: shutdown.clone(),
    };
    if watch.wait_for_servers().await.is_some() {
        let watch = tokio::spawn(watch.run());
        health.set(PIPELINE, Ok::<_, String>(()));
        let pipeline = Pipeline {
            dead_letters,
            database,
            stock,
            metrics,
            health,
            shutdown,
            max_messages: config.batch_size.into(),
            linger: Duration::from_millis(config.batch_linger.into()),
        };
        pipeline.run(Consumer::new(&kafka, &config.kafka_group)?).await;
        watch.await.context("the watch over the servers failed")?;
    }
    monitor.await.context("the monitor failed")?;
    tracing::info!("the consumer ends");
    Ok(())
}
