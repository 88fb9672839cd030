//! The commands of the project.

mod bench;
mod cargo;
mod chaos;
mod chart;
mod cluster;
mod cluster_backends;
mod codegen;
mod coupon_event;
mod demo;
mod e2e;
mod fuzz;
mod images;
mod kubectl;
mod npm_package;
mod programs;
mod servers;
mod signals;
mod test;
mod void_command;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// The part of `--help` which applies to all commands.
const ABOUT: &str = "\
The commands of the project.

The servers (Redis, PostgreSQL, Kafka, etcd and kube-apiserver) are the real programs. They are started on free \
ports of 127.0.0.1 with their data in a temporary directory, and stopped at the end, also after Ctrl-C. Missing \
programs are installed first: Debian packages with apt-get (requires root), kube-apiserver from Go modules, Kafka \
with Maven, Schemathesis from PyPI, and TypeScript and axe-core from npm. Built and downloaded programs are cached \
in ${XDG_CACHE_HOME:-~/.cache}/couponry. `images` and `cluster` require more programs.

Environment:
  XDG_CACHE_HOME          directory of the cache
  KUBEBUILDER_ASSETS      directory with kube-apiserver, kubectl and etcd to use instead
  TMPDIR                  parent of the temporary directories
  COUPONRY_KEEP_SCRATCH   if set, temporary directories and the logs in them are kept";

/// The commands of the project.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", long_about = ABOUT)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a coupon event from preload to sold out, and check the guarantees.
    Demo(demo::Options),
    /// Run all tests, on servers which are started once.
    Test(test::Options),
    /// Measure performance against controls in the same run, and write `docs/benchmarks.md`.
    Bench(bench::Options),
    /// Fuzz the parsers of external data (requires a nightly compiler).
    Fuzz(fuzz::Options),
    /// Inject random faults under load, and check that the guarantees hold.
    Chaos(chaos::Options),
    /// Install the chart on a cluster, and test the operations of users and administrators (requires root).
    E2e(e2e::Options),
    /// Run only the tests of the chart: lint, schema, and a dry run of all variants on an API server.
    Chart(chart::Options),
    /// Write the files which are generated from code: the CRD and the reference documentation.
    Codegen(codegen::Options),
    /// Build the images of all programs in `target/images`, without Docker.
    Images(images::Options),
    /// Build the npm package of the JavaScript client in `target/npm`.
    NpmPackage,
    /// Run a Kubernetes cluster with pods and an ingress on this machine (requires root).
    Cluster {
        /// The operation.
        #[command(subcommand)]
        action: cluster::Action,
    },
    /// Install the programs which the other commands need.
    Setup(Setup),
}

#[derive(Debug, clap::Args)]
struct Setup {
    /// Also install what clusters and images need; the first build takes about twenty minutes.
    #[arg(long)]
    cluster: bool,
}

fn main() -> ExitCode {
    let result = signals::handle().and_then(|()| run(Cli::parse().command));
    // After a signal, errors are consequences of the shutdown, and the thread of the signal exits.
    signals::block_if_interrupted();
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
        Command::NpmPackage => npm_package::run(),
        Command::Cluster { action } => cluster::run(&action),
        Command::Setup(options) => setup(&options),
    }
}

fn setup(options: &Setup) -> Result<ExitCode> {
    couponry_testbed::programs::install()?;
    if options.cluster {
        couponry_testbed::programs::install_cluster()?;
    }
    eprintln!("All programs are installed.");
    Ok(ExitCode::SUCCESS)
}
