//! The installation that is spoiled: servers, the proxies before them, and our programs, which are started again whenever they
//! end, as Kubernetes would.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use couponry_testbed::progress::Step;
use couponry_testbed::{Process, programs};

use super::links::Links;
use crate::programs::{CONSUMER, ISSUER, Node, OPERATOR};
use crate::servers::Servers;
use crate::{cargo, coupon_event, signals};

const ISSUERS: usize = 3;
const OPERATORS: usize = 2;
pub(super) const CONSUMERS: usize = 3;
/// How often it is looked whether a program has ended.
const POLL: Duration = Duration::from_millis(100);

/// Everything that runs. The programs stop before the servers that they use.
pub(super) struct Stage {
    pub(super) issuers: Vec<Member>,
    pub(super) consumers: Vec<Member>,
    pub(super) operators: Vec<Member>,
    pub(super) links: Links,
    pub(super) servers: Servers,
    bin: PathBuf,
    /// Where the clocks of the issuers are.
    clocks: PathBuf,
}

/// A program that comes back when it ends.
pub(super) struct Member {
    pub(super) node: Node,
    /// It was taken away on purpose, and does not come back by itself.
    pub(super) is_away: bool,
    /// What its next start adds to its environment.
    pub(super) env: Vec<(String, String)>,
}

impl Member {
    /// Kills it and starts it with these failpoints, which stay for its later starts. Without any, they are off.
    pub(super) fn restart_with_failpoints(&mut self, failpoints: &str) -> Result<()> {
        self.env = vec![("FAILPOINTS".to_owned(), failpoints.to_owned())];
        self.node.process.kill9()?;
        self.node.process.restart_with(&self.env)
    }
}

impl Stage {
    /// Starts everything and waits until all are ready. Files go to `dir`.
    pub(super) fn start(dir: &Path) -> Result<Self> {
        let (servers, links) = Links::start()?;
        coupon_event::define(&servers.kubernetes)?;
        let mut stage = Self {
            issuers: Vec::new(),
            consumers: Vec::new(),
            operators: Vec::new(),
            links,
            servers,
            bin: cargo::built("debug")?,
            clocks: dir.to_owned(),
        };
        let step = Step::start("starting two operators, three issuers and three consumers");
        for number in 1..=OPERATORS {
            let operator = stage.operator(&format!("operator {number}"), true)?;
            stage.operators.push(operator);
        }
        for number in 1..=ISSUERS {
            let issuer = stage.issuer(number)?;
            stage.issuers.push(issuer);
        }
        for number in 1..=CONSUMERS {
            let consumer = stage.consumer(number)?;
            stage.consumers.push(consumer);
        }
        stage.members().try_for_each(|member| member.node.wait_ready())?;
        step.done_with("two operators, three issuers and three consumers are ready");
        Ok(stage)
    }

    fn member(&self, name: &str, program: &str, args: &[&str], env: &[(&str, &str)]) -> Result<Member> {
        let addresses = self.links.addresses(program, &self.servers);
        let node = Node::start(&self.bin, (name, program), &addresses, args, env)?;
        Ok(Member { node, is_away: false, env: Vec::new() })
    }

    pub(super) fn operator(&self, name: &str, leader_elect: bool) -> Result<Member> {
        let elect = format!("--leader-elect={leader_elect}");
        self.member(name, OPERATOR, &[&elect, "--identity", &name.replace(' ', "-")], &[])
    }

    pub(super) fn consumer(&self, number: usize) -> Result<Member> {
        self.member(&format!("consumer {number}"), CONSUMER, &[], &[])
    }

    /// An issuer whose wall clock can be set.
    fn issuer(&self, number: usize) -> Result<Member> {
        let library = programs::faketime().context("libfaketime is not installed: run `cargo xtask setup`")?;
        let clock = self.clock(number - 1);
        fs::write(&clock, "+0").with_context(|| format!("cannot write {}", clock.display()))?;
        let env = [
            ("LD_PRELOAD", &*library.to_string_lossy()),
            ("FAKETIME_TIMESTAMP_FILE", &*clock.to_string_lossy()),
            ("FAKETIME_CACHE_DURATION", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ];
        self.member(&format!("issuer {number}"), ISSUER, &["--outbox-takeover-seconds", "3"], &env)
    }

    /// Sets the wall clock of an issuer to the real time and so many seconds.
    pub(super) fn set_clock(&self, issuer: usize, ahead: i64) -> Result<()> {
        let clock = self.clock(issuer);
        fs::write(&clock, format!("{ahead:+}")).with_context(|| format!("cannot write {}", clock.display()))
    }

    fn clock(&self, issuer: usize) -> PathBuf {
        self.clocks.join(format!("clock-of-issuer-{}", issuer + 1))
    }

    fn members(&self) -> impl Iterator<Item = &Member> {
        self.operators.iter().chain(&self.issuers).chain(&self.consumers)
    }

    fn members_mut(&mut self) -> impl Iterator<Item = &mut Member> {
        self.operators.iter_mut().chain(&mut self.issuers).chain(&mut self.consumers)
    }

    /// Starts again what has ended. How many had.
    pub(super) fn revive(&mut self) -> Result<u64> {
        signals::yield_to_shutdown();
        let mut revived = 0;
        for member in self.members_mut().filter(|member| !member.is_away) {
            if member.node.process.process().exited()?.is_some() {
                member.node.process.restart_with(&member.env)?;
                revived += 1;
            }
        }
        Ok(revived)
    }

    /// Lets time pass, during which programs that end are started again, until it is over or `done` says so. How many were
    /// started again.
    pub(super) fn pass(&mut self, time: Duration, mut done: impl FnMut(&Self) -> Result<bool>) -> Result<u64> {
        let deadline = Instant::now() + time;
        let mut revived = 0;
        while !done(self)? && Instant::now() < deadline {
            revived += self.revive()?;
            thread::sleep(POLL.min(deadline.saturating_duration_since(Instant::now())));
        }
        Ok(revived)
    }

    /// Waits until every program is ready.
    pub(super) fn wait_ready(&mut self) -> Result<()> {
        self.revive()?;
        self.members().try_for_each(|member| member.node.wait_ready())
    }

    /// Writes everybody's logs into this directory.
    pub(super) fn keep_logs(&self, dir: &Path) -> Result<()> {
        let servers = &self.servers;
        let ours = self.members().map(|member| (member.node.name.as_str(), member.node.process.process()));
        let theirs: [(&str, &Process); 3] = [
            ("redis", servers.redis.process()),
            ("kafka", servers.kafka.process()),
            ("postgres", servers.postgres.process()),
        ];
        let logs: BTreeMap<_, _> = ours.chain(theirs).map(|(name, process)| (name, process.log())).collect();
        for (name, log) in logs {
            let path = dir.join(format!("{}.log", name.replace(' ', "-")));
            fs::write(&path, log).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }
}
