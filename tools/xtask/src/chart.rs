//! `cargo xtask chart`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use couponry_testbed::{Kubernetes, programs, shared};

use crate::{cargo, programs::NAMES, signals};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Run only tests whose names contain this text.
    filter: Option<String>,
}

/// Runs the tests of the chart with an API server as the only server.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    programs::install()?;
    cargo::run(["build"].into_iter().chain(NAMES.iter().flat_map(|name| ["--package", name])))?;
    let kubernetes = Kubernetes::start()?;
    let tests = cargo::launch("cargo test")
        .args(["test", "--package", "xtask", "--test", "chart"])
        .args(options.filter.as_deref())
        .env(shared::KUBECONFIG, kubernetes.kubeconfig())
        .env(shared::BIN, cargo::built("debug")?);
    let status = cargo::in_foreground(tests)?;
    signals::block_if_interrupted();
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::from(101) })
}
