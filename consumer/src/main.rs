//! Records issuances from Kafka in Postgres.
//!
//! [`batch`] decides the follow-ups of a batch, [`pipeline`] executes them, [`deferred`] holds records that wait,
//! [`commits`] commits the offsets, [`watch`] checks the servers.

mod batch;
mod commits;
mod deferred;
mod metrics;
mod pipeline;
mod watch;

use std::{sync::Mutex, time::Duration};

use anyhow::Context as _;
use clap::Parser;
use couponry_kafka::{Consumer, DeadLetterProducer, LagClient};
use couponry_postgres::Database;
use couponry_redis::RedisStore;
use couponry_runtime::{Health, monitor::MonitorArgs, telemetry::TelemetryArgs};
use couponry_settings::{KafkaSettings, PostgresSettings, RedisSettings};
use prometheus_client::registry::Registry;

use crate::{
    commits::COMMITS,
    metrics::Metrics,
    pipeline::{DEFERRED, PIPELINE, Pipeline},
    watch::{CONSUMER, INSTALLATION, KAFKA, POSTGRES, REDIS, Watcher},
};

/// Records issuances from Kafka in Postgres. Run up to as many replicas as the topic has partitions.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 120)]
struct Config {
    /// Consumer group. The id of the installation is appended to it: `GROUP-ID`.
    #[arg(long, env, default_value = "couponry-consumer", value_name = "GROUP")]
    kafka_group: String,
    /// Maximum number of messages per transaction.
    #[arg(
        long,
        env,
        default_value_t = 1000,
        value_name = "MESSAGES",
        value_parser = clap::value_parser!(u16).range(1..=10_000)
    )]
    max_batch: u16,
    /// How long an incomplete batch waits for more messages, at most 10 seconds.
    #[arg(long, env, default_value = "0.05", value_name = "SECONDS", value_parser = parse_linger)]
    batch_linger_seconds: Duration,
    #[command(flatten)]
    kafka: KafkaSettings,
    #[command(flatten)]
    postgres: PostgresSettings,
    #[command(flatten)]
    redis: RedisSettings,
    #[command(flatten)]
    monitor: MonitorArgs,
    #[command(flatten)]
    telemetry: TelemetryArgs,
}

fn parse_linger(text: &str) -> Result<Duration, &'static str> {
    let seconds: f64 = text.parse().map_err(|_| "not a number")?;
    if !(0.0..=10.0).contains(&seconds) {
        return Err("must be between 0 and 10");
    }
    Ok(Duration::from_secs_f64(seconds))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let config = Config::parse();
    let _telemetry = config.telemetry.init("couponry-consumer")?;
    let shutdown = couponry_runtime::shutdown().context("cannot install the signal handlers")?;

    let kafka = config.kafka;
    let database = Database::open(&config.postgres)?;
    let redis_store = RedisStore::open(&config.redis)?;
    let dead_letters = DeadLetterProducer::new(&kafka)?;
    let mut registry = Registry::with_prefix("couponry_consumer");
    let metrics = Metrics::register(&mut registry);
    let health = Health::new(&[KAFKA, POSTGRES, REDIS, INSTALLATION, CONSUMER, PIPELINE, DEFERRED, COMMITS]);
    let monitor = config.monitor.start(health.clone(), registry, shutdown.clone()).await?;
    tracing::info!(topic = kafka.topic, "consumer started");

    let watcher = Watcher {
        dead_letters: dead_letters.clone(),
        database: database.clone(),
        redis_store: redis_store.clone(),
        metrics: metrics.clone(),
        health: health.clone(),
        shutdown: shutdown.clone(),
    };
    if let Some(installation) = watcher.wait_for_servers().await {
        let group = couponry_kafka::consumer_group(&config.kafka_group, installation);
        tracing::info!(%installation, group, "joining the consumer group");
        let consumer = Consumer::new(&kafka, &group)?;
        let watcher = tokio::spawn(watcher.run(LagClient::new(&kafka, &group)?, consumer.state()));
        for dependency in [CONSUMER, PIPELINE, DEFERRED, COMMITS] {
            health.set(dependency, Ok::<_, String>(()));
        }
        let pipeline = Pipeline {
            dead_letters,
            database,
            redis_store,
            installation,
            metrics,
            health,
            locked: Mutex::default(),
            shutdown,
            max_messages: config.max_batch.into(),
            linger: config.batch_linger_seconds,
        };
        pipeline.run(consumer).await;
        watcher.await.context("the watcher of the servers panicked")?;
    }
    monitor.await.context("the monitoring endpoint panicked")?;
    tracing::info!("consumer stopped");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linger_is_parsed_as_seconds_between_0_and_10() {
        assert_eq!(parse_linger("0.05"), Ok(Duration::from_millis(50)));
        assert_eq!(parse_linger("0"), Ok(Duration::ZERO));
        assert_eq!(parse_linger("10"), Ok(Duration::from_secs(10)));
        for invalid in ["", "-1", "10.1", "NaN", "inf", "50ms"] {
            assert!(parse_linger(invalid).is_err(), "{invalid}");
        }
    }
}
