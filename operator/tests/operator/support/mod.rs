//! The environment of a test: a namespace, a database, a Redis key prefix and a Kafka topic which no other test uses.

mod kubernetes;
mod status;
mod stores;

use std::{
    path::PathBuf,
    process::{Command, Output},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use couponry_crds::CouponEvent;
use couponry_postgres::Database;
use couponry_redis::{RedisSettings, RedisStore};
use couponry_testbed::{
    Database as TestDatabase, Running, database::unique_name, http, ports, program::Program, shared,
};
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use tokio::time::sleep;

pub(crate) use self::{
    kubernetes::{client, install_crd},
    status::{is_true, message, reason},
};

/// Generous, because tests share the machine.
pub(crate) const DEADLINE: Duration = Duration::from_mins(2);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The environment of a test.
pub(crate) struct World {
    pub(crate) test_database: TestDatabase,
    pub(crate) database: Database,
    pub(crate) redis_store: RedisStore,
    pub(crate) events: Api<CouponEvent>,
    kube_events: Api<Event>,
    namespace: String,
    redis_url: String,
    postgres_url: String,
    prefix: String,
    /// The shared Kafka, unless the test replaces it.
    pub(crate) brokers: String,
    pub(crate) topic: String,
    /// `--deletion-timeout-seconds` of the operator.
    pub(crate) deletion_timeout_seconds: u32,
}

impl World {
    /// On the shared servers.
    pub(crate) async fn shared() -> Result<Self> {
        Self::with_redis(&shared::redis()).await
    }

    /// On a Redis of the test, and the shared servers otherwise.
    pub(crate) async fn with_redis(redis_url: &str) -> Result<Self> {
        Self::on(TestDatabase::create()?, redis_url).await
    }

    /// On a Redis and a Postgres of the test.
    pub(crate) async fn on(test_database: TestDatabase, redis_url: &str) -> Result<Self> {
        install_crd(&shared::kubeconfig(), &couponry_crds::crd_yaml())?;
        let namespace = unique_name("operator");
        shared::kubectl(&["create", "namespace", &namespace])?;
        let client = client(&shared::kubeconfig()).await?;
        let postgres_url = test_database.url();
        // Without a prefix, the key names determine the nodes of a cluster.
        let cluster = redis_url.contains(',');
        let prefix = if cluster { String::new() } else { format!("{namespace}-") };
        Ok(Self {
            database: Database::connect(&postgres_url)?,
            redis_store: RedisStore::open(&RedisSettings { cluster, ..RedisSettings::at(redis_url, &prefix) })?,
            events: Api::namespaced(client.clone(), &namespace),
            kube_events: Api::namespaced(client, &namespace),
            test_database,
            redis_url: redis_url.to_owned(),
            postgres_url,
            brokers: shared::kafka(),
            topic: namespace.clone(),
            deletion_timeout_seconds: 5,
            prefix,
            namespace,
        })
    }

    /// Another namespace with the same stores: a second installation with the settings of this one, or a restored
    /// namespace.
    pub(crate) async fn in_another_namespace(&self) -> Result<Self> {
        let other = Self::with_redis(&self.redis_url).await?;
        Ok(Self {
            database: self.database.clone(),
            postgres_url: self.postgres_url.clone(),
            redis_store: self.redis_store.clone(),
            prefix: self.prefix.clone(),
            brokers: self.brokers.clone(),
            topic: self.topic.clone(),
            ..other
        })
    }

    /// The same namespace, Redis and topic with an empty database.
    pub(crate) fn with_new_database(&self) -> Result<Self> {
        let test_database = TestDatabase::create()?;
        let postgres_url = test_database.url();
        Ok(Self {
            database: Database::connect(&postgres_url)?,
            postgres_url,
            test_database,
            redis_store: self.redis_store.clone(),
            events: self.events.clone(),
            kube_events: self.kube_events.clone(),
            namespace: self.namespace.clone(),
            redis_url: self.redis_url.clone(),
            prefix: self.prefix.clone(),
            brokers: self.brokers.clone(),
            topic: self.topic.clone(),
            deletion_timeout_seconds: self.deletion_timeout_seconds,
        })
    }

    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Starts an operator on a free port.
    pub(crate) fn start_operator(&self) -> Result<Running> {
        self.operator_program(ports::free()?).start()
    }

    /// The operator with its metrics and health checks on the port `monitor`, not started yet.
    pub(crate) fn operator_program(&self, monitor: u16) -> Program {
        self.operator_program_at(shared::kubeconfig(), monitor)
    }

    /// [`World::operator_program`] for another API server.
    pub(crate) fn operator_program_at(&self, kubeconfig: impl Into<PathBuf>, monitor: u16) -> Program {
        self.operator_program_of(kubeconfig, monitor, "")
    }

    /// [`World::operator_program`] with an admin API at the address `admin`.
    pub(crate) fn operator_program_with_admin(&self, monitor: u16, admin: &str) -> Program {
        self.operator_program_of(shared::kubeconfig(), monitor, admin)
    }

    fn operator_program_of(&self, kubeconfig: impl Into<PathBuf>, monitor: u16, admin: &str) -> Program {
        couponry_testbed::program("couponry-operator")
            .args(["--namespace", &self.namespace, "--redis-url", &self.redis_url, "--redis-key-prefix", &self.prefix])
            .args(["--postgres-url", &self.postgres_url, "--kafka-brokers", &self.brokers])
            .args(["--kafka-topic", &self.topic, "--kafka-partitions", "1", "--kafka-group", &self.topic])
            .args(["--monitor-listen", &format!("127.0.0.1:{monitor}"), "--admin-listen", admin])
            .args(["--deletion-timeout-seconds", &self.deletion_timeout_seconds.to_string()])
            .args(self.redis_url.contains(',').then_some("--redis-cluster"))
            .env("KUBECONFIG", kubeconfig.into())
    }

    /// The issuer or the consumer on the same Redis and topic, not started yet.
    pub(crate) fn program(&self, name: &str) -> Result<Program> {
        Ok(couponry_testbed::program(name)
            .args(["--redis-url", &self.redis_url, "--redis-key-prefix", &self.prefix])
            .args(["--kafka-brokers", &self.brokers, "--kafka-topic", &self.topic])
            .args(["--monitor-listen", &format!("127.0.0.1:{}", ports::free()?)]))
    }

    /// Runs `couponry-operator install-test` and returns its output, which is the error if it fails.
    pub(crate) async fn install_test(&self, issuer: &str) -> Result<String> {
        let output = tokio::process::Command::new(shared::program("couponry-operator"))
            .args(["install-test", "--namespace", &self.namespace, "--issuer-url", issuer])
            .env("KUBECONFIG", shared::kubeconfig())
            .output()
            .await?;
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        ensure!(output.status.success(), "{text}");
        Ok(text)
    }

    /// Runs a command of the operator with the environment of its pod, in which `overrides` replace variables.
    pub(crate) fn run_command(&self, args: &[&str], overrides: &[(&str, &str)]) -> Result<Output> {
        let mut command = Command::new(shared::program("couponry-operator"));
        command.args(args).envs(self.pod_environment()).envs(overrides.iter().copied());
        Ok(command.output()?)
    }

    /// The environment variables of the operator's pod.
    pub(crate) fn pod_environment(&self) -> [(&str, String); 9] {
        [
            ("KUBECONFIG", shared::kubeconfig().display().to_string()),
            ("POD_NAMESPACE", self.namespace.clone()),
            ("REDIS_URL", self.redis_url.clone()),
            ("REDIS_KEY_PREFIX", self.prefix.clone()),
            ("POSTGRES_URL", self.postgres_url.clone()),
            ("KAFKA_BROKERS", self.brokers.clone()),
            ("KAFKA_TOPIC", self.topic.clone()),
            ("KAFKA_PARTITIONS", "1".to_owned()),
            ("KAFKA_GROUP", self.topic.clone()),
        ]
    }
}

/// Polls until the condition is true. `what` completes "timed out waiting until ..".
pub(crate) async fn wait_until(what: &str, mut condition: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let started = Instant::now();
    while !condition().await? {
        ensure!(started.elapsed() < DEADLINE, "timed out after {DEADLINE:?} waiting until {what}");
        sleep(POLL_INTERVAL).await;
    }
    Ok(())
}

/// How many reconciliations an operator has completed. None: it does not respond.
pub(crate) fn reconciliations(monitor: u16) -> Option<u64> {
    let (_, metrics) = http::get(monitor, "/metrics")?;
    let count = |line: &str| line.strip_prefix("couponry_operator_reconcile_duration_seconds_count ")?.parse().ok();
    metrics.lines().find_map(count)
}

/// Waits until an operator has completed this many further reconciliations. Returns how many it has completed.
pub(crate) async fn wait_reconciled(monitor: u16, further: u64) -> Result<u64> {
    let target = reconciliations(monitor).context("no metrics")? + further;
    let done = async || Ok(reconciliations(monitor).is_some_and(|done| done >= target));
    wait_until("the events are reconciled", done).await?;
    reconciliations(monitor).context("no metrics")
}

/// Waits until the readiness check of an operator succeeds.
pub(crate) async fn wait_operator_ready(monitor: u16) -> Result<()> {
    wait_until("the operator is ready", async || {
        Ok(http::get(monitor, "/readyz").is_some_and(|(status, _)| status == 200))
    })
    .await
}
