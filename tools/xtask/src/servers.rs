//! One instance of each server.

use std::thread;

use anyhow::{Result, anyhow};
use couponry_testbed::progress::Step;
use couponry_testbed::{Kafka, Kubernetes, Postgres, Redis};

/// Redis, `PostgreSQL`, Kafka and the Kubernetes API server. Dropping it stops them.
#[derive(Debug)]
pub(crate) struct Servers {
    pub(crate) redis: Redis,
    pub(crate) postgres: Postgres,
    pub(crate) kafka: Kafka,
    pub(crate) kubernetes: Kubernetes,
}

impl Servers {
    /// Starts them concurrently and waits until each is ready.
    pub(crate) fn start() -> Result<Self> {
        Self::start_with(Redis::start, Kafka::start)
    }

    /// Like [`Servers::start`], with a specific Redis and a specific Kafka.
    pub(crate) fn start_with(
        redis: impl FnOnce() -> Result<Redis> + Send,
        kafka: impl FnOnce() -> Result<Kafka> + Send,
    ) -> Result<Self> {
        let step = Step::start("starting Redis, PostgreSQL, Kafka and the Kubernetes API server");
        let servers = thread::scope(|scope| {
            let redis = scope.spawn(redis);
            let postgres = scope.spawn(Postgres::start);
            let kafka = scope.spawn(kafka);
            let kubernetes = scope.spawn(Kubernetes::start);
            Ok::<_, anyhow::Error>(Self {
                redis: join(redis)?,
                postgres: join(postgres)?,
                kafka: join(kafka)?,
                kubernetes: join(kubernetes)?,
            })
        })?;
        step.done_with("Redis, PostgreSQL, Kafka and the Kubernetes API server are ready");
        Ok(servers)
    }
}

fn join<T>(thread: thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("a thread which started a server panicked"))?
}
