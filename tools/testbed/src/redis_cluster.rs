//! A Redis Cluster of one's own.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::redis::command;
use crate::{Redis, ports};

const SLOTS: usize = 16_384;
/// How long the nodes may take to agree.
const AGREE_WITHIN: Duration = Duration::from_mins(1);

/// Masters that share the slots evenly, and perhaps a replica of the first.
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<Redis>,
}

impl RedisCluster {
    /// Starts so many masters with these further settings, and waits until the cluster is whole.
    pub fn start(masters: usize, settings: &[&str]) -> Result<Self> {
        let cluster = Self { nodes: (0..masters).map(|_| node(settings)).collect::<Result<_>>()? };
        for (i, node) in cluster.nodes.iter().enumerate() {
            let (from, to) = (i * SLOTS / masters, (i + 1) * SLOTS / masters - 1);
            command(&node.url(), &["CLUSTER", "ADDSLOTSRANGE", &from.to_string(), &to.to_string()])?;
        }
        for node in &cluster.nodes[1..] {
            cluster.meet(node)?;
        }
        cluster.wait()?;
        Ok(cluster)
    }

    /// Adds a replica of the first master, which takes over when that is killed.
    pub fn add_replica(&mut self, settings: &[&str]) -> Result<()> {
        let replica = node(settings)?;
        self.meet(&replica)?;
        let id = command(&self.nodes[0].url(), &["CLUSTER", "MYID"])?;
        let id = id.lines().nth(1).unwrap_or_default().to_owned();
        let follow = ["CLUSTER", "REPLICATE", &id];
        until("the replica knows its master", || command(&replica.url(), &follow).is_ok())?;
        let follows = || {
            command(&replica.url(), &["INFO", "replication"]).is_ok_and(|info| info.contains("master_link_status:up"))
        };
        until("the replica follows its master", follows)?;
        self.nodes.push(replica);
        Ok(())
    }

    /// The nodes: the masters in the order of their slots, then replicas.
    #[must_use]
    pub fn nodes(&self) -> &[Redis] {
        &self.nodes
    }

    /// The addresses of all nodes, separated by commas.
    #[must_use]
    pub fn url(&self) -> String {
        self.nodes.iter().map(Redis::url).collect::<Vec<_>>().join(",")
    }

    /// Waits until every node that runs says that all slots are served.
    pub fn wait(&self) -> Result<()> {
        let is_whole = |node: &Redis| {
            let Ok(info) = command(&node.url(), &["CLUSTER", "INFO"]) else { return false };
            info.contains("cluster_state:ok") && info.contains(&format!("cluster_slots_ok:{SLOTS}"))
        };
        let running = |node: &&Redis| ports::accepts(node.port());
        until("the cluster is whole", || self.nodes.iter().filter(running).all(is_whole))
    }

    fn meet(&self, node: &Redis) -> Result<()> {
        let bus = command(&node.url(), &["CONFIG", "GET", "cluster-port"])?;
        let bus = bus.lines().last().unwrap_or_default().to_owned();
        let meet = ["CLUSTER", "MEET", "127.0.0.1", &node.port().to_string(), &bus];
        command(&self.nodes[0].url(), &meet)?;
        Ok(())
    }
}

fn node(settings: &[&str]) -> Result<Redis> {
    let bus = ports::free()?.to_string();
    let own = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--cluster-port", &bus];
    let at_once = ["--repl-diskless-sync-delay", "0"];
    Redis::start_with(&[&own[..], &at_once, settings].concat())
}

fn until(what: &str, mut holds: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + AGREE_WITHIN;
    while !holds() {
        ensure!(Instant::now() < deadline, "not true after {AGREE_WITHIN:?}: {what}");
        sleep(Duration::from_millis(100));
    }
    Ok(())
}
