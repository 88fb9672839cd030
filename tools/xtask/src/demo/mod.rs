//! `cargo xtask demo`.

mod event;
mod expiry;
mod instructions;
mod loadgen;
mod programs;
mod voids;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use couponry_testbed::progress::Step;
use couponry_testbed::scratch::Scratch;

use crate::programs::Addresses;
use crate::servers::Servers;
use crate::{cargo, coupon_event, signals};
use event::Event;
use expiry::Expiry;
use loadgen::Loadgen;
use programs::Programs;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Exit after the check instead of running until Ctrl-C.
    #[arg(long)]
    once: bool,

    /// The number of users who request a coupon; some of them send two or three requests.
    #[arg(long, default_value_t = 120_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    users: u32,

    /// The number of coupons, instead of that in `examples/summer.yaml`.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    coupons: Option<u64>,
}

/// The number of coupons that are used at a checkout.
const USED_COUPONS: &str = "3000";

/// The running programs and servers. The programs are dropped before the servers which they use.
struct Demo {
    programs: Programs,
    servers: Servers,
    event: Event,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    couponry_testbed::programs::install()?;
    eprintln!("building the programs");
    cargo::run(["build", "--release"].into_iter().chain(
        crate::programs::NAMES.iter().chain(&["loadgen", "kubectl-couponry"]).flat_map(|name| ["--bin", name]),
    ))?;

    let servers = Servers::start()?;
    let step = Step::start("applying the CRD");
    coupon_event::apply_crd(&servers.kubernetes)?;
    step.done();
    let programs = Programs::start(&servers)?;
    let event = Event::apply(&servers.kubernetes, options.coupons)?;
    let demo = Demo { programs, servers, event };
    let result = demo.run_event(options.users);
    if !matches!(result, Ok(true)) {
        signals::block_if_interrupted();
        demo.programs.show_logs();
        return result.map(|_| ExitCode::FAILURE);
    }
    if !options.once {
        instructions::print(&demo.programs, &demo.servers)?;
        signals::set_expected();
        demo.programs.watch()?;
    }
    let Demo { programs, servers, .. } = demo;
    let step = Step::start("stopping all programs");
    programs.stop()?;
    drop(servers);
    step.done_with("all programs are stopped");
    Ok(ExitCode::SUCCESS)
}

impl Demo {
    /// Runs the event from the preload to the check. Returns false if a guarantee was violated.
    fn run_event(&self, users: u32) -> Result<bool> {
        self.event.wait_ready(&self.servers.kubernetes, &self.programs)?;
        let brief = self.loadgen(expiry::EVENT);
        let expiry = Expiry::start(&brief)?;
        let guarantees_hold = self.sell_out(users)? & expiry.check(&brief)?;
        self.print_status()?;
        Ok(guarantees_hold)
    }

    /// Sends the requests of the users, voids some of their coupons and uses others, and checks the guarantees against
    /// all stores. Returns false if one was violated.
    fn sell_out(&self, users: u32) -> Result<bool> {
        let scratch = Scratch::new("history")?;
        let [history, repeated, voided, redemptions] =
            ["responses", "repeated", "voids", "redemptions"].map(|name| scratch.path().join(name));
        let loadgen = self.loadgen(event::NAME);
        let sent = loadgen.request(users, &history)?;
        println!();
        voids::void_some(Addresses::from(&self.servers), &history, &voided)?;
        println!("\nusers request a coupon once more, those of voided coupons among them");
        let sent = loadgen.request(voids::USERS.min(users), &repeated)? && sent;
        println!("\nshops use {USED_COUPONS} coupons: some twice, some after a release, some in two orders at once");
        let redeem = loadgen.redeem(&history, &redemptions)?.args(["--coupons", USED_COUPONS]);
        let uses_ended = cargo::in_foreground(redeem).context("cannot run loadgen")?.success();
        println!();
        let mut check = loadgen
            .check(self.event.total())?
            .args(["--history".as_ref(), history.as_os_str()])
            .args(["--history".as_ref(), repeated.as_os_str()])
            .args(["--voids".as_ref(), voided.as_os_str()])
            .args(["--redemptions".as_ref(), redemptions.as_os_str()]);
        for expected in self.event.expected() {
            check = check.args(["--expect", expected]);
        }
        let guarantees_hold = cargo::in_foreground(check).context("cannot check the guarantees")?.success();
        Ok(sent && uses_ended && guarantees_hold)
    }

    fn loadgen<'a>(&'a self, event: &'a str) -> Loadgen<'a> {
        Loadgen { programs: &self.programs, servers: &self.servers, event }
    }

    /// Prints the event as kubectl shows it.
    fn print_status(&self) -> Result<()> {
        let kubernetes = &self.servers.kubernetes;
        // The operator updates the counts every few seconds.
        let step = Step::start("waiting until the status reports all coupons as recorded");
        if Event::wait_recorded(kubernetes, Duration::from_mins(1))? {
            step.done_with("the status reports all coupons as recorded");
        } else {
            step.done_with("the status does not report all coupons as recorded after a minute");
        }
        println!("\n$ kubectl get ce\n{}", kubernetes.kubectl(&["get", "ce"])?);
        let description = kubernetes.kubectl(&["describe", "ce", event::NAME])?;
        let events = description.find("\nEvents:").map_or(description.as_str(), |at| &description[at + 1..]);
        println!("$ kubectl describe ce {}\n...\n{events}", event::NAME);
        Ok(())
    }
}
