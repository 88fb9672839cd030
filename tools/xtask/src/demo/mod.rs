//! `cargo xtask demo`.

mod event;
mod programs;
mod words;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use couponry_testbed::process::Launch;
use couponry_testbed::progress::Step;
use couponry_testbed::scratch::Scratch;

use crate::servers::Servers;
use crate::{cargo, coupon_event, signals};
use event::Event;
use programs::Programs;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Exits after the proof instead of staying up until Ctrl-C.
    #[arg(long)]
    once: bool,

    /// How many users ask for a coupon; some of them ask twice or three times.
    #[arg(long, default_value_t = 120_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    users: u32,

    /// How many coupons there are, instead of what `examples/summer.yaml` says.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    coupons: Option<u64>,
}

/// Everything that runs. The programs stop before the servers that they use.
struct Demo {
    programs: Programs,
    servers: Servers,
    event: Event,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    couponry_testbed::programs::install()?;
    eprintln!("building the programs");
    cargo::run(
        ["build", "--release"]
            .into_iter()
            .chain(crate::programs::NAMES.iter().chain(&["loadgen"]).flat_map(|name| ["--bin", name])),
    )?;

    let servers = Servers::start()?;
    let step = Step::start("telling Kubernetes what a CouponEvent is");
    coupon_event::define(&servers.kubernetes)?;
    step.done_with("Kubernetes knows what a CouponEvent is");
    let programs = Programs::start(&servers)?;
    let event = Event::apply(&servers.kubernetes, options.coupons)?;
    let demo = Demo { programs, servers, event };
    let proof = demo.prove(options.users);
    if !matches!(proof, Ok(true)) {
        signals::yield_to_shutdown();
        demo.programs.show_logs();
        return proof.map(|_| ExitCode::FAILURE);
    }
    if !options.once {
        words::go_on_by_hand(&demo)?;
        signals::are_expected();
        demo.programs.watch()?;
    }
    let Demo { programs, servers, .. } = demo;
    let step = Step::start("stopping everything");
    programs.stop()?;
    drop(servers);
    step.done_with("everything is stopped");
    Ok(ExitCode::SUCCESS)
}

impl Demo {
    /// The event from its preload to the proof. False when a promise was broken.
    fn prove(&self, users: u32) -> Result<bool> {
        self.event.wait_ready(&self.servers.kubernetes, &self.programs)?;
        let kept = self.sell_out(users)?;
        self.tell()?;
        Ok(kept)
    }

    /// Lets the users ask, and checks the promises against what every store says. False when one was broken.
    fn sell_out(&self, users: u32) -> Result<bool> {
        let scratch = Scratch::new("history")?;
        let history = scratch.path().join("answers");
        let mut run = loadgen()?.args(["run", "--event", event::NAME, "--users", &users.to_string()]);
        for target in self.programs.issuers() {
            run = run.args(["--target", &target]);
        }
        let run = run.args(["--history".as_ref(), history.as_os_str()]);
        let asked = cargo::in_foreground(run).context("cannot let the users ask")?.success();
        let mut check = loadgen()?
            .args(["check", "--event", event::NAME, "--total", &self.event.total().to_string()])
            .args(["--history".as_ref(), history.as_os_str()])
            .args(["--redis-url", &self.servers.redis.url()])
            .args(["--postgres-url", &self.servers.postgres.url()])
            .args(["--kafka-brokers", &self.servers.kafka.brokers()]);
        for expected in self.event.expected() {
            check = check.args(["--expect", expected]);
        }
        let kept = cargo::in_foreground(check).context("cannot check the promises")?.success();
        Ok(asked && kept)
    }

    /// Shows the event as Kubernetes does.
    fn tell(&self) -> Result<()> {
        let kubernetes = &self.servers.kubernetes;
        // The operator writes the counts every few seconds.
        let step = Step::start("waiting for the event's status to catch up");
        if Event::wait_recorded(kubernetes, Duration::from_mins(1))? {
            step.done_with("the event's status has caught up");
        } else {
            step.done_with("the event's status has not caught up in a minute; as it is:");
        }
        println!("\n$ kubectl get ce\n{}", kubernetes.kubectl(&["get", "ce"])?);
        let description = kubernetes.kubectl(&["describe", "ce", event::NAME])?;
        let events = description.find("\nEvents:").map_or(description.as_str(), |at| &description[at + 1..]);
        println!("$ kubectl describe ce {}\n...\n{events}", event::NAME);
        Ok(())
    }
}

/// Loadgen on our terminal, with no environment that could lead it to other servers.
fn loadgen() -> Result<Launch> {
    let program = cargo::built("release")?.join("loadgen");
    Ok(Launch::in_foreground("loadgen", program).clean_env().dir(cargo::root()))
}
