//! `cargo xtask chart`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use couponry_testbed::{Kubernetes, programs, shared};

use crate::{cargo, signals};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only the tests with this in their names.
    filter: Option<String>,
}

/// The chart's tests, with the API server as the only server: lint, schema, and a dry run of every variant.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    programs::install()?;
    cargo::run([
        "build",
        "--package",
        "couponry-operator",
        "--package",
        "couponry-issuer",
        "--package",
        "couponry-consumer",
    ])?;
    let kubernetes = Kubernetes::start()?;
    let tests = cargo::launch("cargo test")
        .args(["test", "--package", "xtask", "--test", "chart"])
        .args(options.filter.as_deref())
        .env(shared::KUBECONFIG, kubernetes.kubeconfig())
        .env(shared::BIN, cargo::built("debug")?);
    let status = cargo::in_foreground(tests)?;
    signals::yield_to_shutdown();
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::from(101) })
}
