//! `cargo xtask npm-package`: builds the npm package of the JavaScript client.

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result};
use couponry_testbed::{npm_package, programs};

use crate::cargo;

pub(crate) fn run() -> Result<ExitCode> {
    programs::install()?;
    let dir = cargo::root().join("target/npm");
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    println!("{}", npm_package::pack(&dir)?.display());
    Ok(ExitCode::SUCCESS)
}
