//! The programs that the demo runs: an operator, two issuers, a consumer.

use anyhow::{Result, bail};
use couponry_testbed::progress::Step;

use crate::programs::{Addresses, CONSUMER, ISSUER, Node, OPERATOR};
use crate::servers::Servers;
use crate::{cargo, signals};

/// All that run. Each is stopped before those that it gets its work from.
pub(super) struct Programs {
    running: Vec<Node>,
}

impl Programs {
    /// Starts them and waits until each says that it is ready.
    pub(super) fn start(servers: &Servers) -> Result<Self> {
        let step = Step::start("starting the operator, two issuers and the consumer");
        let (bin, servers) = (cargo::built("release")?, Addresses::from(servers));
        let node = |name, program| Node::start(&bin, (name, program), &servers, &[], &[]);
        let programs = Self {
            running: vec![
                node("issuer 1", ISSUER)?,
                node("issuer 2", ISSUER)?,
                node("consumer", CONSUMER)?,
                node("operator", OPERATOR)?,
            ],
        };
        programs.running.iter().try_for_each(Node::wait_ready)?;
        step.done_with("the operator, two issuers and the consumer are ready");
        Ok(programs)
    }

    /// The addresses of the issuers.
    pub(super) fn issuers(&self) -> Vec<String> {
        self.running.iter().filter_map(Node::url).collect()
    }

    /// Name and address of each program's own port.
    pub(super) fn monitors(&self) -> Vec<(&str, String)> {
        self.running.iter().map(|n| (n.name.as_str(), format!("http://127.0.0.1:{}", n.monitor))).collect()
    }

    /// Fails with the end of its log when one has ended.
    pub(super) fn check(&self) -> Result<()> {
        for Node { name, process, .. } in &self.running {
            if let Some(status) = process.process().exited()? {
                bail!("the {name} has ended ({status}); its log:\n{}", process.process().log_tail());
            }
        }
        Ok(())
    }

    /// Prints how the log of each one ends.
    pub(super) fn show_logs(&self) {
        for Node { name, process, .. } in &self.running {
            eprintln!("--- the {name}'s log ends:\n{}", process.process().log_tail());
        }
    }

    /// Starts again what ends, as Kubernetes would: the user may kill what they like. Returns only when that fails.
    pub(super) fn watch(&self) -> Result<()> {
        loop {
            for node in &self.running {
                if let Some(status) = node.process.process().exited()? {
                    signals::yield_to_shutdown();
                    eprintln!("{} has ended ({status}): starting it again", node.name);
                    node.process.restart()?;
                }
            }
            std::thread::sleep(std::time::Duration::from_millis(500));
        }
    }

    /// Stops them in order.
    pub(super) fn stop(&self) -> Result<()> {
        self.running.iter().try_for_each(|node| node.process.stop())
    }
}
