//! The installation under test: servers, proxies, and programs which are restarted when they exit, as by Kubernetes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use couponry_testbed::database::OpenTransaction;
use couponry_testbed::progress::Step;
use couponry_testbed::{Process, Redis, RedisCluster, programs, redis};

use super::event::Event;
use super::links::Links;
use super::recorder::{Target, Targets};
use crate::programs::{Addresses, CONSUMER, ISSUER, OPERATOR, REDEEMER, RunningProgram};
use crate::servers::Servers;
use crate::{cargo, coupon_event, signals};

pub(super) const ISSUERS: usize = 3;
pub(super) const OPERATORS: usize = 2;
pub(super) const CONSUMERS: usize = 3;
pub(super) const REDEEMERS: usize = 2;
/// The number of partitions with which the operator creates a topic.
pub(super) const PARTITIONS: u32 = 12;
const MASTERS: usize = 3;
/// Timeout for the preload, with crashing operators.
const PRELOAD_TIMEOUT: Duration = Duration::from_mins(5);
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// All processes. The fields are dropped in order, so programs stop before the servers.
pub(super) struct Installation {
    pub(super) issuers: Vec<Instance>,
    pub(super) consumers: Vec<Instance>,
    pub(super) operators: Vec<Instance>,
    pub(super) redeemers: Vec<Instance>,
    pub(super) links: Links,
    pub(super) servers: Servers,
    /// Used instead of the Redis of `servers`.
    pub(super) cluster: Option<RedisCluster>,
    /// The transaction of a fault, until it is removed.
    pub(super) transaction: Option<OpenTransaction>,
    /// The replica of a fault, until it is removed.
    pub(super) replica: Option<Redis>,
    /// The running programs, for a recorder of their metrics.
    pub(super) targets: Targets,
    /// Number of partitions of the topic.
    pub(super) partitions: u32,
    /// Directory of histories, logs, and the clock files of issuers and redeemers.
    pub(super) dir: PathBuf,
    bin: PathBuf,
}

/// A program which is restarted when it exits.
pub(super) struct Instance {
    pub(super) node: RunningProgram,
    /// Stopped on purpose; not restarted.
    pub(super) is_stopped: bool,
    /// Additional environment variables of the next start.
    pub(super) env: Vec<(String, String)>,
}

impl Instance {
    /// Restarts the program with these failpoints, which stay active in later restarts. Empty: none.
    pub(super) fn restart_with_failpoints(&mut self, failpoints: &str) -> Result<()> {
        self.env = vec![("FAILPOINTS".to_owned(), failpoints.to_owned())];
        self.node.process.kill9()?;
        self.node.process.restart_with(&self.env)
    }
}

impl Installation {
    /// Starts everything and waits until all programs are ready.
    pub(super) fn start(dir: &Path, on_cluster: bool) -> Result<Self> {
        let (servers, links) = Links::start()?;
        // The slots of other nodes are served while one is down.
        let cluster =
            on_cluster.then(|| RedisCluster::start(MASTERS, &["--cluster-require-full-coverage", "no"])).transpose()?;
        coupon_event::apply_crd(&servers.kubernetes)?;
        let mut installation = Self {
            issuers: Vec::new(),
            consumers: Vec::new(),
            operators: Vec::new(),
            redeemers: Vec::new(),
            links,
            servers,
            cluster,
            transaction: None,
            replica: None,
            targets: Targets::default(),
            partitions: PARTITIONS,
            dir: dir.to_owned(),
            bin: cargo::built("debug")?,
        };
        let step = Step::start("starting two operators, three issuers, three consumers and two redeemers");
        for number in 1..=OPERATORS {
            let operator = installation.operator(&format!("operator {number}"), true)?;
            installation.operators.push(operator);
        }
        for number in 1..=ISSUERS {
            let issuer = installation.issuer(number, &[])?;
            installation.issuers.push(issuer);
        }
        for number in 1..=CONSUMERS {
            let consumer = installation.consumer(number)?;
            installation.consumers.push(consumer);
        }
        for number in 1..=REDEEMERS {
            let redeemer = installation.redeemer(number, &[])?;
            installation.redeemers.push(redeemer);
        }
        installation.instances().try_for_each(|instance| instance.node.wait_ready())?;
        step.done_with("two operators, three issuers, three consumers and two redeemers are ready");
        Ok(installation)
    }

    /// The addresses for a kind of program. Those of a cluster lead to its nodes without a proxy.
    pub(super) fn addresses(&self, program: &str) -> Addresses {
        let mut addresses = self.links.addresses(program, &self.servers);
        if let Some(cluster) = &self.cluster {
            addresses.redis = cluster.url();
        }
        addresses
    }

    /// The path of a program.
    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    /// The arguments about Redis other than its address.
    pub(super) fn redis_args(&self) -> &'static [&'static str] {
        if self.cluster.is_some() { &["--redis-cluster"] } else { &[] }
    }

    /// The node that has the keys of this event.
    pub(super) fn redis_of(&self, event: &Event) -> Result<&Redis> {
        let Some(cluster) = &self.cluster else { return Ok(&self.servers.redis) };
        let key = format!("couponMeta:{{{}}}", event.name);
        let has_key =
            |node: &&Redis| redis::command(&node.url(), &["EXISTS", &key]).is_ok_and(|exists| exists.trim() == ":1");
        cluster.nodes().iter().find(has_key).with_context(|| format!("no node has {key}"))
    }

    fn instance(&self, name: &str, program: &str, args: &[&str], env: &[(&str, &str)]) -> Result<Instance> {
        let args = [self.redis_args(), args].concat();
        let node = RunningProgram::start(&self.bin, (name, program), &self.addresses(program), &args, env)?;
        Ok(Instance { node, is_stopped: false, env: Vec::new() })
    }

    pub(super) fn operator(&self, name: &str, leader_elect: bool) -> Result<Instance> {
        self.operator_in("default", name, leader_elect)
    }

    pub(super) fn operator_in(&self, namespace: &str, name: &str, leader_elect: bool) -> Result<Instance> {
        let elect = format!("--leader-elect={leader_elect}");
        let args = [&*elect, "--identity", &name.replace(' ', "-")];
        self.instance(name, OPERATOR, &args, &[("POD_NAMESPACE", namespace)])
    }

    pub(super) fn consumer(&self, number: usize) -> Result<Instance> {
        self.instance(&format!("consumer {number}"), CONSUMER, &[], &[])
    }

    pub(super) fn issuer(&self, number: usize, args: &[&str]) -> Result<Instance> {
        let args = [&["--outbox-takeover-seconds", "3"], args].concat();
        self.with_clock(&format!("issuer {number}"), ISSUER, &args)
    }

    /// It finds the API server if its arguments require one.
    pub(super) fn redeemer(&self, number: usize, args: &[&str]) -> Result<Instance> {
        self.with_clock(&format!("redeemer {number}"), REDEEMER, args)
    }

    /// A program whose wall clock can be set.
    fn with_clock(&self, name: &str, program: &str, args: &[&str]) -> Result<Instance> {
        let library = programs::faketime().context("libfaketime is not installed: run `cargo xtask setup`")?;
        let clock = self.clock(name);
        fs::write(&clock, "+0").with_context(|| format!("cannot write {}", clock.display()))?;
        let kubeconfig = self.addresses(program).kubeconfig;
        let env = [
            ("KUBECONFIG", &*kubeconfig.to_string_lossy()),
            ("LD_PRELOAD", &*library.to_string_lossy()),
            ("FAKETIME_TIMESTAMP_FILE", &*clock.to_string_lossy()),
            ("FAKETIME_CACHE_DURATION", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ];
        self.instance(name, program, args, &env)
    }

    /// Sets the wall clock of an issuer or a redeemer ahead of the real time.
    pub(super) fn set_clock(&self, name: &str, ahead: i64) -> Result<()> {
        let clock = self.clock(name);
        fs::write(&clock, format!("{ahead:+}")).with_context(|| format!("cannot write {}", clock.display()))
    }

    fn clock(&self, name: &str) -> PathBuf {
        self.dir.join(format!("clock-of-{}", name.replace(' ', "-")))
    }

    pub(super) fn instances(&self) -> impl Iterator<Item = &Instance> {
        self.operators.iter().chain(&self.issuers).chain(&self.consumers).chain(&self.redeemers)
    }

    fn instances_mut(&mut self) -> impl Iterator<Item = &mut Instance> {
        let Self { operators, issuers, consumers, redeemers, .. } = self;
        operators.iter_mut().chain(issuers).chain(consumers).chain(redeemers)
    }

    /// Each program is a pod; one that is stopped for a while is a pod whose container restarts.
    fn targets(&self) -> Vec<Target> {
        let target = |Instance { node, .. }: &Instance| Target { pod: node.name.replace(' ', "-"), port: node.monitor };
        self.instances().map(target).collect()
    }

    /// Restarts programs that have exited. Returns their number.
    pub(super) fn restart_exited(&mut self) -> Result<u64> {
        signals::block_if_interrupted();
        *self.targets.lock().unwrap_or_else(PoisonError::into_inner) = self.targets();
        let mut restarted = 0;
        for instance in self.instances_mut().filter(|instance| !instance.is_stopped) {
            if instance.node.process.process().exited()?.is_some() {
                instance.node.process.restart_with(&instance.env)?;
                restarted += 1;
            }
        }
        Ok(restarted)
    }

    /// Restarts exiting programs until `done` returns true or the timeout has passed. Returns the number of restarts.
    pub(super) fn supervise(&mut self, timeout: Duration, mut done: impl FnMut(&Self) -> Result<bool>) -> Result<u64> {
        let deadline = Instant::now() + timeout;
        let mut restarted = 0;
        while !done(self)? && Instant::now() < deadline {
            restarted += self.restart_exited()?;
            thread::sleep(POLL_INTERVAL.min(deadline.saturating_duration_since(Instant::now())));
        }
        Ok(restarted)
    }

    /// Waits until the manifest is loaded; restarts programs meanwhile. Returns the number of restarts.
    pub(super) fn wait_loaded(&mut self, event: &Event) -> Result<u64> {
        let mut is_ready = false;
        let restarts = self.supervise(PRELOAD_TIMEOUT, |installation| {
            is_ready = event.is_ready(&installation.servers.kubernetes)?;
            Ok(is_ready)
        })?;
        ensure!(is_ready, "{} is not loaded and open after {PRELOAD_TIMEOUT:?}", event.name);
        Ok(restarts)
    }

    /// Waits until Redis is verified for the event, so it has everything that was returned to users.
    pub(super) fn wait_verified(&mut self, event: &Event) -> Result<()> {
        let key = format!("couponMeta:{{{}}}", event.name);
        let mut is_verified = false;
        self.supervise(PRELOAD_TIMEOUT, |installation| {
            let Ok(node) = installation.redis_of(event) else { return Ok(false) };
            let command = |words: &[&str]| redis::command(&node.url(), words);
            let verified = command(&["HGET", &key, "replicationId"])?;
            let replication = command(&["INFO", "replication"])?;
            is_verified =
                verified.lines().nth(1).is_some_and(|id| replication.contains(&format!("master_replid:{id}")));
            Ok(is_verified)
        })?;
        ensure!(is_verified, "Redis is not verified for {} after {PRELOAD_TIMEOUT:?}", event.name);
        Ok(())
    }

    /// Waits until all programs are ready.
    pub(super) fn wait_ready(&mut self) -> Result<()> {
        self.restart_exited()?;
        self.instances().try_for_each(|instance| instance.node.wait_ready())
    }

    /// Writes all logs to the directory.
    pub(super) fn keep_logs(&self) -> Result<()> {
        let servers = &self.servers;
        let ours = self.instances().map(|instance| (instance.node.name.as_str(), instance.node.process.process()));
        let theirs: [(&str, &Process); 3] = [
            ("redis", servers.redis.process()),
            ("kafka", servers.kafka.process()),
            ("postgres", servers.postgres.process()),
        ];
        let logs: BTreeMap<_, _> = ours.chain(theirs).map(|(name, process)| (name, process.log())).collect();
        for (name, log) in logs {
            let path = self.dir.join(format!("{}.log", name.replace(' ', "-")));
            fs::write(&path, log).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }
}
