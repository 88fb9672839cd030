//! What one test plays on: a namespace, a database, a key prefix and a topic of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    process::{Command, Output},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use couponry_crds::{CouponEvent, CouponEventStatus};
use couponry_domain::{IssuedRecord, Coupon, EventName, Uuid};
use couponry_postgres::Database;
use couponry_redis::{IssuedEntry, Stock};
use couponry_testbed::{Database as TestDatabase, database::unique_name, ports, program::Program, shared};
use k8s_openapi::api::events::v1::Event;
use kube::{
    Api, Client, Config,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::sleep,
};

/// Longer than anything takes, also on a machine that others use.
const DEADLINE: Duration = Duration::from_mins(2);
const POLL: Duration = Duration::from_millis(50);

/// What one test plays on.
pub(crate) struct Stage {
    pub(crate) test_database: TestDatabase,
    pub(crate) database: Database,
    pub(crate) stock: Stock,
    pub(crate) events: Api<CouponEvent>,
    stories: Api<Event>,
    namespace: String,
    redis_url: String,
    postgres_url: String,
    prefix: String,
    /// Where Kafka is: the shared one, unless the test has its own.
    pub(crate) brokers: String,
    topic: String,
    /// How long the operator waits before it deletes what is not recorded.
    pub(crate) drain_timeout_seconds: u32,
}

impl Stage {
    /// On the shared servers.
    pub(crate) async fn new() -> Result<Self> {
        let database = TestDatabase::create()?;
        let postgres_url = database.url();
        Self::on(database, &shared::redis(), &postgres_url).await
    }

    /// On a Redis or a Postgres that the test may stop.
    pub(crate) async fn on(test_database: TestDatabase, redis_url: &str, postgres_url: &str) -> Result<Self> {
        shared::kubectl_with(
            &["apply", "--server-side", "--force-conflicts", "-f", "-"],
            &couponry_crds::crd_yaml(),
        )?;
        shared::kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "crd/couponevents.couponry.dev"])?;
        let namespace = unique_name("operator");
        shared::kubectl(&["create", "namespace", &namespace])?;
        let kubeconfig = Kubeconfig::read_from(shared::kubeconfig())?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        let client = Client::try_from(config)?;
        let prefix = format!("{namespace}-");
        Ok(Self {
            database: Database::connect(postgres_url)?,
            stock: Stock::connect(redis_url, &prefix)?,
            events: Api::namespaced(client.clone(), &namespace),
            stories: Api::namespaced(client, &namespace),
            test_database,
            redis_url: redis_url.to_owned(),
            postgres_url: postgres_url.to_owned(),
            brokers: shared::kafka(),
            topic: namespace.clone(),
            drain_timeout_seconds: 5,
            prefix,
            namespace,
        })
    }

    /// The operator of this stage, not started yet.
    pub(crate) fn program(&self, monitor: u16) -> Program {
        self.program_on(shared::kubeconfig(), monitor)
    }

    /// The same for another API server.
    pub(crate) fn program_on(&self, kubeconfig: impl Into<PathBuf>, monitor: u16) -> Program {
        self.program_for(kubeconfig, monitor, "")
    }

    /// The same with an admin API at this address.
    pub(crate) fn program_with_admin(&self, monitor: u16, admin: &str) -> Program {
        self.program_for(shared::kubeconfig(), monitor, admin)
    }

    fn program_for(&self, kubeconfig: impl Into<PathBuf>, monitor: u16, admin: &str) -> Program {
        couponry_testbed::program("couponry-operator")
            .args(["--namespace", &self.namespace, "--redis-url", &self.redis_url, "--redis-key-prefix", &self.prefix])
            .args(["--postgres-url", &self.postgres_url, "--kafka-brokers", &self.brokers])
            .args(["--kafka-topic", &self.topic, "--kafka-partitions", "1", "--kafka-group", &self.topic])
            .args(["--monitor-listen", &format!("127.0.0.1:{monitor}"), "--admin-listen", admin])
            .args(["--drain-timeout-seconds", &self.drain_timeout_seconds.to_string()])
            .env("KUBECONFIG", kubeconfig.into())
    }

    /// The issuer or the consumer of this stage, not started yet.
    pub(crate) fn companion(&self, name: &str) -> Result<Program> {
        Ok(couponry_testbed::program(name)
            .args(["--redis-url", &self.redis_url, "--redis-key-prefix", &self.prefix])
            .args(["--kafka-brokers", &self.brokers, "--kafka-topic", &self.topic])
            .args(["--monitor-listen", &format!("127.0.0.1:{}", ports::free()?)]))
    }

    /// Runs `couponry-operator verify` to its end: what it printed, or what it had to complain about.
    pub(crate) async fn verify(&self, issuer: &str) -> Result<String> {
        let output = tokio::process::Command::new(shared::program("couponry-operator"))
            .args(["verify", "--namespace", &self.namespace, "--issuer-url", issuer])
            .env("KUBECONFIG", shared::kubeconfig())
            .output()
            .await?;
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        ensure!(output.status.success(), "{text}");
        Ok(text)
    }

    /// A running operator.
    pub(crate) fn operator(&self) -> Result<couponry_testbed::program::Running> {
        self.program(ports::free()?).start()
    }

    /// The namespace, which no other test has.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// What a command of the operator's program answers in the environment of its pod, with `changed` variables.
    pub(crate) fn answer(&self, args: &[&str], changed: &[(&str, &str)]) -> Result<Output> {
        let mut command = Command::new(shared::program("couponry-operator"));
        command
            .args(args)
            .env("KUBECONFIG", shared::kubeconfig())
            .env("POD_NAMESPACE", &self.namespace)
            .env("REDIS_URL", &self.redis_url)
            .env("REDIS_KEY_PREFIX", &self.prefix)
            .env("POSTGRES_URL", &self.postgres_url)
            .env("KAFKA_BROKERS", &self.brokers)
            .env("KAFKA_TOPIC", &self.topic)
            .env("KAFKA_PARTITIONS", "1")
            .env("KAFKA_GROUP", &self.topic)
            .envs(changed.iter().copied());
        Ok(command.output()?)
    }

    /// Applies an event, as a user does.
    pub(crate) fn apply(&self, name: &str, spec: &str) -> Result<()> {
        let manifest = format!(
            "{{apiVersion: couponry.dev/v1alpha1, kind: CouponEvent, metadata: {{name: {name}}}, spec: {spec}}}"
        );
        shared::kubectl_with(&["apply", "--namespace", &self.namespace, "-f", "-"], &manifest)?;
        Ok(())
    }

    pub(crate) fn delete(&self, name: &str) -> Result<()> {
        shared::kubectl(&["delete", "ce", name, "--namespace", &self.namespace, "--wait=false"])?;
        Ok(())
    }

    /// What `kubectl get ce` prints.
    pub(crate) fn table(&self) -> Result<String> {
        shared::kubectl(&["get", "ce", "--namespace", &self.namespace])
    }

    pub(crate) async fn get(&self, name: &str) -> Result<CouponEvent> {
        self.events.get(name).await.with_context(|| format!("cannot read {name}"))
    }

    pub(crate) async fn uid(&self, name: &str) -> Result<Uuid> {
        self.get(name).await?.event_uid().context("no uid")
    }

    /// Waits until the status is as expected.
    pub(crate) async fn wait(
        &self,
        name: &str,
        what: &str,
        is_reached: impl Fn(&CouponEventStatus) -> bool,
    ) -> Result<CouponEventStatus> {
        let begun = Instant::now();
        loop {
            let event = self.get(name).await?;
            let generation = event.metadata.generation;
            let status = event.status.unwrap_or_default();
            if status.observed_generation == generation && is_reached(&status) {
                return Ok(status);
            }
            ensure!(begun.elapsed() < DEADLINE, "{name} is not {what} after {DEADLINE:?}: {status:#?}");
            sleep(POLL).await;
        }
    }

    /// Waits until the manifest as it is now is followed.
    pub(crate) async fn wait_ready(&self, name: &str) -> Result<CouponEventStatus> {
        self.wait(name, "ready", |status| holds(status, "Ready")).await
    }

    /// Waits until the object is gone.
    pub(crate) async fn wait_gone(&self, name: &str) -> Result<()> {
        eventually("the object is gone", async || Ok(self.events.get_opt(name).await?.is_none())).await
    }

    /// The Kubernetes Events about it.
    pub(crate) async fn told(&self, name: &str) -> Result<Vec<Event>> {
        let mut told = self.stories.list(&ListParams::default()).await?.items;
        told.retain(|event| event.regarding.as_ref().and_then(|about| about.name.as_deref()) == Some(name));
        Ok(told)
    }

    /// The reasons of the Kubernetes Events about it, each as often as it was told, in alphabetical order.
    pub(crate) async fn story(&self, name: &str) -> Result<Vec<String>> {
        let mut reasons: Vec<String> = self
            .told(name)
            .await?
            .into_iter()
            .flat_map(|event| {
                let times = event.series.map_or(1, |series| series.count);
                std::iter::repeat_n(event.reason.unwrap_or_default(), usize::try_from(times).unwrap_or(1))
            })
            .collect();
        reasons.sort();
        Ok(reasons)
    }

    /// Waits until these and only these Kubernetes Events were told.
    pub(crate) async fn wait_story(&self, name: &str, expected: &[&str]) -> Result<()> {
        let begun = Instant::now();
        loop {
            let story = self.story(name).await?;
            if story == expected {
                return Ok(());
            }
            ensure!(begun.elapsed() < DEADLINE, "told of {name}: {story:?}, expected {expected:?}");
            sleep(POLL).await;
        }
    }

    /// Every coupon that Postgres has, in order.
    pub(crate) async fn coupons_in_postgres(&self, uid: Uuid) -> Result<Vec<Coupon>> {
        let mut all = Vec::new();
        loop {
            let page = self.database.coupons(uid, all.len() as u64, 10_000).await?;
            if page.is_empty() {
                return Ok(all);
            }
            all.extend(page);
        }
    }

    /// Fails unless both stores hold exactly the coupons that follow from the event's seed, so many of each discount, and no
    /// code twice. For events of one lot.
    pub(crate) async fn check_whole(&self, name: &str, split: &[(&str, usize)]) -> Result<()> {
        let uid = self.uid(name).await?;
        let stored = self.database.event(uid).await?.context("Postgres does not know the event")?;
        let coupons = self.coupons_in_postgres(uid).await?;
        let lot = couponry_domain::CouponBatch { first_ordinal: 0, counts: stored.stock.clone() };
        let expected: Vec<Coupon> = lot.coupons(stored.seed, stored.format.clone()).collect();
        ensure!(coupons == expected, "Postgres does not hold what follows from the seed");
        self.check_stores(name, split).await
    }

    /// Fails unless both stores hold the same coupons, so many of each discount, and no code twice.
    pub(crate) async fn check_stores(&self, name: &str, split: &[(&str, usize)]) -> Result<()> {
        let event: EventName = name.parse()?;
        let coupons = self.coupons_in_postgres(self.uid(name).await?).await?;
        let codes: BTreeSet<_> = coupons.iter().map(|coupon| &coupon.code).collect();
        ensure!(codes.len() == coupons.len(), "{} codes in {} coupons", codes.len(), coupons.len());
        let mut counted = BTreeMap::new();
        for coupon in &coupons {
            *counted.entry(coupon.discount.to_string()).or_insert(0) += 1;
        }
        let split: BTreeMap<_, _> = split.iter().map(|(discount, count)| ((*discount).to_owned(), *count)).collect();
        ensure!(counted == split, "Postgres holds {counted:?}, expected {split:?}");
        let given = self.stock.scan_issued(&event).await?;
        let available = self.stock.scan_queue(&event).await?;
        let mut in_redis: Vec<_> =
            given.into_values().map(|entry| (entry.issued.coupon, entry.issued.discount)).chain(available).collect();
        let mut in_postgres: Vec<_> = coupons
            .into_iter()
            .map(|coupon| Ok((coupon.code.parse()?, coupon.discount)))
            .collect::<Result<_, couponry_domain::code::InvalidCouponCode>>()?;
        in_redis.sort();
        in_postgres.sort();
        ensure!(in_redis == in_postgres, "Redis has {} coupons, and not those of Postgres", in_redis.len());
        Ok(())
    }

    /// A key of this event in Redis.
    pub(crate) fn key(&self, kind: &str, name: &str) -> String {
        format!("{}{kind}:{{{name}}}", self.prefix)
    }

    /// Sends a command to Redis, as a person would, and returns the answer as the protocol has it.
    pub(crate) fn redis(&self, words: &[&str]) -> Result<String> {
        couponry_testbed::redis::command(&self.redis_url, words)
    }

    /// Takes one coupon out of the queue, as nobody should.
    pub(crate) fn lose_coupon(&self, name: &str) -> Result<()> {
        let answer = self.redis(&["LPOP", &self.key("couponQueue", name)])?;
        ensure!(answer.starts_with('$') && !answer.starts_with("$-1"), "no coupon to lose: {answer}");
        Ok(())
    }

    /// Users ask for coupons. Returns how many got one.
    pub(crate) async fn ask(&self, name: &str, users: std::ops::Range<u32>) -> Result<usize> {
        let users: Vec<_> = users.map(|n| format!("user-{n}").parse()).collect::<Result<_, _>>()?;
        let reply = self.stock.issue(&name.parse()?, &users).await?.context("Redis does not know the event")?;
        Ok(reply.outcomes.iter().filter(|outcome| matches!(outcome, couponry_redis::IssueOutcome::Issued(_))).count())
    }

    /// Does what the issuer and the consumer do with everything that was issued.
    pub(crate) async fn record_all(&self, name: &str) -> Result<()> {
        self.record_all_of(name, self.uid(name).await?).await
    }

    /// The same for an event whose object is gone.
    pub(crate) async fn record_all_of(&self, name: &str, uid: Uuid) -> Result<()> {
        let event: EventName = name.parse()?;
        let mut settlements = Vec::new();
        for (user, IssuedEntry { issued, .. }) in self.stock.scan_issued(&event).await? {
            let coupon = issued.coupon.clone();
            self.database.record(&[IssuedRecord { event_id: event.clone(), event_uid: uid, issued }]).await?;
            let outcome = couponry_redis::SettlementOutcome::Completed;
            settlements.push(couponry_redis::Settlement { user, coupon, outcome });
        }
        self.stock.settle(&event, uid, &settlements).await?;
        let left = self.stock.list_unconfirmed(&event, Duration::ZERO, None, 1000).await?.entries;
        let ids: Vec<_> = left.into_iter().map(|entry| entry.id).collect();
        Ok(self.stock.confirm(&event, &ids).await?)
    }
}

/// Whether the condition holds.
pub(crate) fn holds(status: &CouponEventStatus, type_: &str) -> bool {
    status.condition(type_).is_some_and(|condition| condition.status == "True")
}

/// Why the condition holds or not.
pub(crate) fn reason<'a>(status: &'a CouponEventStatus, type_: &str) -> &'a str {
    status.condition(type_).map_or("", |condition| &condition.reason)
}

/// The words about the condition.
pub(crate) fn message<'a>(status: &'a CouponEventStatus, type_: &str) -> &'a str {
    status.condition(type_).map_or("", |condition| &condition.message)
}

/// Waits until `is_so` says so.
pub(crate) async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !is_so().await? {
        ensure!(begun.elapsed() < DEADLINE, "after {DEADLINE:?} it is not so that {what}");
        sleep(POLL).await;
    }
    Ok(())
}

/// Status and body of the operator's own port; None while it does not answer.
pub(crate) async fn monitor(port: u16, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}
