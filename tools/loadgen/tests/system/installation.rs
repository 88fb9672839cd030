//! A Couponry installation on the shared servers, with its own namespace, database, key prefix and topic.

use std::time::{Duration, Instant};

use couponry_domain::EventName;
use couponry_loadgen::connection::Target;
use couponry_loadgen::readers::{EventCounts, Stores};
use couponry_settings::{KafkaSettings, PostgresSettings, RedisSettings};
use couponry_testbed::database::OpenTransaction;
use couponry_testbed::kubectl::wait_established;
use couponry_testbed::program::{self, Running};
use couponry_testbed::{Database, http, ports, shared, unique_name};

const CRD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../crds/couponevents.couponry.dev.yaml");
const TIMEOUT: Duration = Duration::from_mins(3);

/// A running program.
pub(crate) struct RunningProgram {
    pub(crate) process: Running,
    monitor: u16,
}

impl RunningProgram {
    pub(crate) fn wait_ready(&self) {
        self.process
            .wait_ready(|| http::get(self.monitor, "/readyz").is_some_and(|(status, _)| status == 200))
            .unwrap();
    }
}

/// A running redeemer.
pub(crate) struct Redeemer {
    pub(crate) program: RunningProgram,
    pub(crate) target: Target,
}

/// Deviations from the usual installation. Failpoints have the syntax of the variable `FAILPOINTS`.
pub(crate) struct Overrides {
    /// URL of Redis.
    pub(crate) redis: String,
    pub(crate) issuers: [&'static str; 2],
    pub(crate) consumer: &'static str,
}

impl Default for Overrides {
    fn default() -> Self {
        Self { redis: shared::redis(), issuers: ["", ""], consumer: "" }
    }
}

/// The fields are dropped in order, so programs stop before the connections close.
pub(crate) struct Installation {
    pub(crate) issuers: Vec<RunningProgram>,
    pub(crate) consumer: RunningProgram,
    pub(crate) operator: RunningProgram,
    pub(crate) targets: Vec<Target>,
    pub(crate) stores: Stores,
    database: Database,
    name: String,
}

impl Installation {
    /// Starts an operator, two issuers and a consumer, and waits until all are ready.
    pub(crate) fn start(name: &str) -> Self {
        Self::start_with(name, &Overrides::default())
    }

    /// Starts it with overrides.
    pub(crate) fn start_with(name: &str, overrides: &Overrides) -> Self {
        let name = unique_name(name);
        shared::kubectl(&["apply", "--server-side", "-f", CRD]).unwrap();
        wait_established(&shared::kubeconfig(), &["crd/couponevents.couponry.dev"]).unwrap();
        shared::kubectl(&["create", "namespace", &name]).unwrap();
        let database = Database::create().unwrap();
        let (postgres, redis) = (database.url(), overrides.redis.clone());
        let (prefix, kafka) = (format!("{name}:"), KafkaSettings::at(shared::kafka(), name.clone()));
        let stores =
            Stores::connect(&RedisSettings::at(&redis, &prefix), &PostgresSettings::at(&postgres), kafka).unwrap();
        let common = |program: &str| {
            let monitor = ports::free().unwrap();
            let program = couponry_testbed::program(program)
                .args(["--redis-url", &redis, "--redis-key-prefix", &prefix])
                .args(["--kafka-brokers", &shared::kafka(), "--kafka-topic", &name])
                .args(["--monitor-listen", &format!("127.0.0.1:{monitor}"), "--log-format", "text"]);
            (program, monitor)
        };
        let start =
            |(program, monitor): (program::Program, u16)| RunningProgram { process: program.start().unwrap(), monitor };

        let (operator, monitor) = common("couponry-operator");
        let operator = operator
            .args(["--postgres-url", &postgres, "--namespace", &name, "--admin-listen", ""])
            .args(["--kafka-used-topic", &format!("{name}.used")])
            .env("KUBECONFIG", shared::kubeconfig());
        let operator = start((operator, monitor));
        let (consumer, monitor) = common("couponry-consumer");
        let consumer = consumer.args(["--postgres-url", &postgres, "--kafka-group", &name]);
        let consumer = start((consumer.env("FAILPOINTS", overrides.consumer), monitor));
        let mut issuers = Vec::new();
        let mut targets = Vec::new();
        for failpoints in overrides.issuers {
            let (issuer, monitor) = common("couponry-issuer");
            let address = format!("127.0.0.1:{}", ports::free().unwrap());
            let issuer = issuer.args(["--listen", &address, "--drain-seconds", "0"]).env("FAILPOINTS", failpoints);
            issuers.push(start((issuer, monitor)));
            targets.push(format!("http://{address}").parse().unwrap());
        }
        let installation = Self { issuers, consumer, operator, targets, stores, database, name };
        for node in installation.issuers.iter().chain([&installation.operator, &installation.consumer]) {
            node.wait_ready();
        }
        installation
    }

    /// Starts a redeemer, and waits until it is ready.
    pub(crate) fn redeemer(&self) -> Redeemer {
        let (monitor, address) = (ports::free().unwrap(), format!("127.0.0.1:{}", ports::free().unwrap()));
        let process = couponry_testbed::program("couponry-redeemer")
            .args(["--redis-url", &shared::redis(), "--redis-key-prefix", &format!("{}:", self.name)])
            .args(["--postgres-url", &self.database.url(), "--kafka-brokers", &shared::kafka()])
            .args(["--kafka-used-topic", &self.used_topic()])
            .args(["--listen", &address, "--monitor-listen", &format!("127.0.0.1:{monitor}")])
            .args(["--auth", "none", "--drain-seconds", "0", "--log-format", "text"]);
        let program = RunningProgram { process: process.start().unwrap(), monitor };
        program.wait_ready();
        Redeemer { program, target: format!("http://{address}").parse().unwrap() }
    }

    /// The topic of the uses of coupons.
    pub(crate) fn used_topic(&self) -> String {
        format!("{}.used", self.name)
    }

    /// The URL of the database.
    pub(crate) fn postgres(&self) -> String {
        self.database.url()
    }

    /// Applies an event with two discounts, 70 and 30 percent, and waits until it is open.
    pub(crate) fn apply(&self, event: &EventName, total: u64) {
        let manifest = format!(
            "apiVersion: couponry.dev/v1alpha1
kind: CouponEvent
metadata: {{name: {event}, namespace: {}}}
spec:
  policyName: System test
  totalCount: {total}
  discounts:
    - {{type: Percent, value: 10, allocationPercentage: 70}}
    - {{type: Amount, value: 10, allocationPercentage: 30}}
",
            self.name
        );
        shared::kubectl_with(&["apply", "-f", "-"], &manifest).unwrap();
        let resource = format!("couponevent/{event}");
        let open = ["wait", "--for=condition=Open", &resource, "--namespace", &self.name, "--timeout=180s"];
        if let Err(error) = shared::kubectl(&open) {
            panic!("{error:#}\nlog of the operator:\n{}", self.operator.process.log());
        }
    }

    /// The Redis key of the event's `couponMeta`.
    pub(crate) fn meta_key(&self, event: &EventName) -> String {
        format!("{}:couponMeta:{{{event}}}", self.name)
    }

    pub(crate) fn query(&self, sql: &str) -> String {
        self.database.sql(sql).unwrap()
    }

    /// Blocks all inserts of issuances until the transaction is dropped.
    pub(crate) fn lock_issuances(&self) -> OpenTransaction {
        self.database.hold("LOCK TABLE issuance IN SHARE ROW EXCLUSIVE MODE").unwrap()
    }
}

/// Polls until `done` returns a value.
pub(crate) fn until<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(Instant::now() < deadline, "timeout after {TIMEOUT:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The counts, for output.
pub(crate) fn counts(counts: EventCounts) -> String {
    let EventCounts { issued, recorded, marked_recorded, outbox, .. } = counts;
    format!("{issued} issued, {recorded} recorded, {marked_recorded} marked as recorded, {outbox} outbox entries")
}
