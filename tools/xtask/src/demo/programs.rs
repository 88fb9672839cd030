//! The programs of the demo: an operator, two issuers, a consumer and a redeemer.

use anyhow::{Result, bail};
use couponry_testbed::pods::PodOf;
use couponry_testbed::progress::Step;

use crate::programs::{Addresses, CONSUMER, ISSUER, OPERATOR, REDEEMER, RunningProgram};
use crate::servers::Servers;
use crate::{cargo, signals};

/// The running programs, in the order in which they are stopped.
pub(super) struct Programs {
    running: Vec<RunningProgram>,
}

impl Programs {
    /// Starts them and waits until each is ready.
    pub(super) fn start(servers: &Servers) -> Result<Self> {
        let step = Step::start("starting the operator, two issuers, the consumer and the redeemer");
        let (bin, servers) = (cargo::built("release")?, Addresses::from(servers));
        let page_config = cargo::root().join("examples/page.json").display().to_string();
        let node = |name: &str, program: &str| {
            let args = ["--page", "--page-config", &page_config];
            let args = if program == ISSUER { args.as_slice() } else { &[] };
            let node = RunningProgram::start(&bin, (name, program), &servers, args, &[])?;
            // The dashboard reads their metrics through the API server.
            let component = program.trim_start_matches("couponry-");
            let pod = format!("couponry-{}", name.replace(' ', "-"));
            PodOf { name: &pod, component, monitor_port: node.monitor }.create(&servers.kubeconfig, "default")?;
            Ok::<_, anyhow::Error>(node)
        };
        let programs = Self {
            running: vec![
                node("issuer 1", ISSUER)?,
                node("issuer 2", ISSUER)?,
                node("redeemer", REDEEMER)?,
                node("consumer", CONSUMER)?,
                node("operator", OPERATOR)?,
            ],
        };
        programs.running.iter().try_for_each(RunningProgram::wait_ready)?;
        step.done_with("the operator, two issuers, the consumer and the redeemer are ready");
        Ok(programs)
    }

    /// The addresses of the issuers.
    pub(super) fn issuers(&self) -> Vec<String> {
        self.urls(ISSUER)
    }

    /// The addresses of the redeemers.
    pub(super) fn redeemers(&self) -> Vec<String> {
        self.urls(REDEEMER)
    }

    fn urls(&self, program: &str) -> Vec<String> {
        self.running.iter().filter(|node| node.program == program).filter_map(RunningProgram::url).collect()
    }

    /// Name and monitoring URL of each program.
    pub(super) fn monitors(&self) -> Vec<(&str, String)> {
        self.running.iter().map(|n| (n.name.as_str(), format!("http://127.0.0.1:{}", n.monitor))).collect()
    }

    /// Fails with the end of the log if a program has ended.
    pub(super) fn check(&self) -> Result<()> {
        for RunningProgram { name, process, .. } in &self.running {
            if let Some(status) = process.process().exited()? {
                bail!("the {name} has ended ({status}); its log:\n{}", process.process().log_tail());
            }
        }
        Ok(())
    }

    /// Prints the end of the log of each program.
    pub(super) fn show_logs(&self) {
        for RunningProgram { name, process, .. } in &self.running {
            eprintln!("--- end of the log of {name}:\n{}", process.process().log_tail());
        }
    }

    /// Restarts programs which end, as Kubernetes does, so that the user may kill them. Returns only if a restart
    /// fails.
    pub(super) fn watch(&self) -> Result<()> {
        loop {
            for node in &self.running {
                if let Some(status) = node.process.process().exited()? {
                    signals::block_if_interrupted();
                    eprintln!("{} has ended ({status}): restarting it", node.name);
                    node.process.restart()?;
                }
            }
            std::thread::sleep(std::time::Duration::from_millis(500));
        }
    }

    /// Stops them gracefully.
    pub(super) fn stop(&self) -> Result<()> {
        self.running.iter().try_for_each(|node| node.process.stop())
    }
}
