//! Couponry's own programs: an operator, two issuers, a consumer.

use anyhow::{Result, bail};
use testbed::program::{Program, Running};
use testbed::progress::Step;
use testbed::{http, ports};

use crate::servers::Servers;
use crate::{cargo, signals};

/// The programs that the demo runs.
pub(super) const NAMES: [&str; 3] = [OPERATOR, ISSUER, CONSUMER];

const OPERATOR: &str = "couponry-operator";
const ISSUER: &str = "couponry-issuer";
const CONSUMER: &str = "couponry-consumer";

/// All that run. Each is stopped before those that it gets its work from.
pub(super) struct Programs {
    running: Vec<Node>,
}

struct Node {
    name: String,
    process: Running,
    /// Where it answers `/readyz` and `/metrics`.
    monitor: u16,
    /// Where it answers clients.
    listen: Option<u16>,
}

impl Programs {
    /// Starts them and waits until each says that it is ready.
    pub(super) fn start(servers: &Servers) -> Result<Self> {
        let step = Step::start("starting the operator, two issuers and the consumer");
        let programs = Self {
            running: vec![
                node(servers, "issuer 1", ISSUER)?,
                node(servers, "issuer 2", ISSUER)?,
                node(servers, "consumer", CONSUMER)?,
                node(servers, "operator", OPERATOR)?,
            ],
        };
        for Node { process, monitor, .. } in &programs.running {
            process.wait_ready(|| http::get(*monitor, "/readyz").is_some_and(|(status, _)| status == 200))?;
        }
        step.done_with("the operator, two issuers and the consumer are ready");
        Ok(programs)
    }

    /// The addresses of the issuers.
    pub(super) fn issuers(&self) -> Vec<String> {
        self.running.iter().filter_map(|node| Some(format!("http://127.0.0.1:{}", node.listen?))).collect()
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

fn node(servers: &Servers, name: &str, program: &str) -> Result<Node> {
    let monitor = ports::free()?;
    let listen = if program == ISSUER { Some(ports::free()?) } else { None };
    let mut launch = Program::at(cargo::built("release")?.join(program))
        .args(["--redis-url", &servers.redis.url()])
        .args(["--kafka-brokers", &servers.kafka.brokers()])
        .args(["--monitor-listen", &format!("127.0.0.1:{monitor}"), "--log-format", "text"]);
    if let Some(port) = listen {
        // Nobody is in front who would have to notice the end.
        launch = launch.args(["--listen", &format!("127.0.0.1:{port}"), "--drain-seconds", "0"]);
    } else {
        launch = launch.args(["--postgres-url", &servers.postgres.url()]);
    }
    if program == OPERATOR {
        let only = ["--namespace", "default", "--admin-listen", ""];
        launch = launch.args(only).env("KUBECONFIG", servers.kubernetes.kubeconfig());
    }
    Ok(Node { name: name.to_owned(), process: launch.start()?, monitor, listen })
}
