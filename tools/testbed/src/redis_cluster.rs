//! A dedicated Redis Cluster.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::ports;
use crate::redis::{Redis, command};

const SLOTS: usize = 16_384;
/// How long the nodes may take to agree on a configuration.
const AGREEMENT_TIMEOUT: Duration = Duration::from_mins(1);

/// Masters with equal shares of the slots, and optional replicas of the first.
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<Redis>,
}

impl RedisCluster {
    /// Starts this number of masters with additional settings, and waits until all slots are served.
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

    /// Adds a replica of the first master. It is promoted if that master is killed.
    pub fn add_replica(&mut self, settings: &[&str]) -> Result<()> {
        let replica = node(settings)?;
        self.meet(&replica)?;
        let master = id(&self.nodes[0])?;
        let follow = ["CLUSTER", "REPLICATE", &master];
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

    /// Waits until every running node reports that all slots are served.
    pub fn wait(&self) -> Result<()> {
        let serves_all_slots = |node: &Redis| {
            let Ok(info) = command(&node.url(), &["CLUSTER", "INFO"]) else { return false };
            info.contains("cluster_state:ok") && info.contains(&format!("cluster_slots_ok:{SLOTS}"))
        };
        let running = |node: &&Redis| ports::accepts(node.port());
        until("all slots are served", || self.nodes.iter().filter(running).all(serves_all_slots))
    }

    /// Moves a slot with its keys from one master to another, and waits until every node has the new configuration: a
    /// node with the old one would not vote for a replica of the new owner.
    pub fn move_slot(&self, slot: &str, from: usize, to: usize) -> Result<()> {
        let (source, target) = (&self.nodes[from], &self.nodes[to]);
        let (source_id, target_id) = (id(source)?, id(target)?);
        command(&target.url(), &["CLUSTER", "SETSLOT", slot, "IMPORTING", &source_id])?;
        command(&source.url(), &["CLUSTER", "SETSLOT", slot, "MIGRATING", &target_id])?;
        let keys = command(&source.url(), &["CLUSTER", "GETKEYSINSLOT", slot, "100"])?;
        for key in keys.lines().filter(|line| line.starts_with("coupon")) {
            command(&source.url(), &["MIGRATE", "127.0.0.1", &target.port().to_string(), key, "0", "5000"])?;
        }
        for node in [target, source] {
            command(&node.url(), &["CLUSTER", "SETSLOT", slot, "NODE", &target_id])?;
        }
        until("all nodes have the same view of the cluster", || {
            let mut views = self.nodes.iter().map(view);
            let first = views.next().flatten();
            first.is_some() && views.all(|view| view == first)
        })
    }

    fn meet(&self, node: &Redis) -> Result<()> {
        let bus = command(&node.url(), &["CONFIG", "GET", "cluster-port"])?;
        let bus = bus.lines().last().unwrap_or_default().to_owned();
        let meet = ["CLUSTER", "MEET", "127.0.0.1", &node.port().to_string(), &bus];
        command(&self.nodes[0].url(), &meet)?;
        Ok(())
    }
}

fn id(node: &Redis) -> Result<String> {
    let reply = command(&node.url(), &["CLUSTER", "MYID"])?;
    Ok(reply.lines().nth(1).unwrap_or_default().to_owned())
}

/// The slots and the configuration epoch of each node of the cluster, according to this node.
fn view(node: &Redis) -> Option<Vec<String>> {
    let nodes = command(&node.url(), &["CLUSTER", "NODES"]).ok()?;
    // ID ADDRESS FLAGS MASTER PING-SENT PONG-RECEIVED CONFIG-EPOCH LINK-STATE SLOT...
    let slots_and_epoch = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        Some([&[*words.first()?, words.get(6)?], words.get(8..)?].concat().join(" "))
    };
    // The first line is the length of the reply.
    let mut view: Vec<String> = nodes.lines().skip(1).filter_map(slots_and_epoch).collect();
    view.sort();
    Some(view)
}

fn node(settings: &[&str]) -> Result<Redis> {
    let bus = ports::free()?.to_string();
    let own = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--cluster-port", &bus];
    let no_delay = ["--repl-diskless-sync-delay", "0"];
    Redis::start_with(&[&own[..], &no_delay, settings].concat())
}

fn until(what: &str, mut holds: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + AGREEMENT_TIMEOUT;
    while !holds() {
        ensure!(Instant::now() < deadline, "timed out after {AGREEMENT_TIMEOUT:?}: {what}");
        sleep(Duration::from_millis(100));
    }
    Ok(())
}
