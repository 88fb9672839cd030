//! The project's commands: demo, test, bench, fuzz, chaos, e2e, chart, images, cluster, codegen, setup.

mod bench;
mod beside;
mod cargo;
mod chaos;
mod chart;
mod cluster;
mod codegen;
mod coupon_event;
mod demo;
mod e2e;
mod fuzz;
mod images;
mod kubectl;
mod programs;
mod servers;
mod signals;
mod test;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// For `--help`: what all commands have in common.
const ABOUT: &str = "\
Couponry's own commands.

Every server that they need (Redis, PostgreSQL, Kafka, etcd and kube-apiserver) is a real one, started on a free port \
of 127.0.0.1 with its data in a scratch directory, and stopped again at the end, also on Ctrl-C. What is missing on \
this machine is installed first: Debian packages as root by apt-get, the API server from Go modules, Kafka by Maven, \
Schemathesis from the Python package index. The last three are kept in ${XDG_CACHE_HOME:-~/.cache}/couponry, so that \
it happens once. `images` and `cluster` need more of them.

Environment:
  XDG_CACHE_HOME          where to keep what is built and fetched
  KUBEBUILDER_ASSETS      a directory with kube-apiserver, kubectl and etcd to use instead
  TMPDIR                  where the scratch directories are
  COUPONRY_KEEP_SCRATCH   when set, they are kept, with the servers' logs";

/// Couponry's own commands.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", long_about = ABOUT)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a whole coupon event: starts everything, sells out `examples/summer.yaml`, and proves the promises.
    Demo(demo::Options),
    /// Runs every test, on servers that are started once for the whole run.
    Test(test::Options),
    /// Measures how fast it is, against controls in the same run, and writes `docs/benchmarks.md`.
    Bench(bench::Options),
    /// Looks for bytes that break what reads bytes from outside (needs a nightly compiler).
    Fuzz(fuzz::Options),
    /// Breaks everything at random while users ask, and checks that every promise holds.
    Chaos(chaos::Options),
    /// Installs the chart on a whole cluster, and does there what users and operators do (needs root).
    E2e(e2e::Options),
    /// Runs the chart's tests alone: lint, schema, and every variant against a real API server.
    Chart(chart::Options),
    /// Writes what is generated from code: the CRD's YAML, also for the chart.
    Codegen(codegen::Options),
    /// Makes the images of the three programs in `target/images`, without Docker.
    Images(images::Options),
    /// A whole Kubernetes on this machine, with pods and an ingress, for work by hand (needs root).
    Cluster {
        /// What to do with it.
        #[command(subcommand)]
        action: cluster::Action,
    },
    /// Installs the programs that the other commands need, and does nothing else.
    Setup(Setup),
}

#[derive(Debug, clap::Args)]
struct Setup {
    /// Also what a whole cluster and the images need; some twenty minutes of building, once.
    #[arg(long)]
    cluster: bool,
}

fn main() -> ExitCode {
    let result = signals::handle().and_then(|()| run(Cli::parse().command));
    // After Ctrl-C, errors are only its consequences, and the exit belongs to the signal's thread.
    signals::yield_to_shutdown();
    match result {
        Ok(code) => code,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Demo(options) => demo::run(&options),
        Command::Test(options) => test::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Fuzz(options) => fuzz::run(&options),
        Command::Chaos(options) => chaos::run(&options),
        Command::E2e(options) => e2e::run(&options),
        Command::Chart(options) => chart::run(&options),
        Command::Codegen(options) => codegen::run(&options),
        Command::Images(options) => images::run(&options),
        Command::Cluster { action } => cluster::run(&action),
        Command::Setup(options) => setup(&options),
    }
}

fn setup(options: &Setup) -> Result<ExitCode> {
    couponry_testbed::programs::install()?;
    if options.cluster {
        couponry_testbed::programs::install_cluster()?;
    }
    eprintln!("Everything is there.");
    Ok(ExitCode::SUCCESS)
}
