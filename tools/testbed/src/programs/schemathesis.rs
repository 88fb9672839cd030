//! Schemathesis, from PyPI: tests an HTTP server with valid and invalid requests generated from its `OpenAPI` document.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::cache::{cache, create_atomically};
use super::command::{python_venv, run, tool};
use crate::path::is_executable;

const VERSION: &str = "4.32.5";
const PACKAGES: &str = include_str!("schemathesis.txt");

/// The Python interpreter which runs it with `-m schemathesis.cli`. Its own command contains the path of the directory
/// in which it was installed, and that directory is renamed.
#[must_use]
pub fn find() -> Option<PathBuf> {
    Some(home().ok()?.join("bin/python")).filter(|file| is_executable(file))
}

fn home() -> Result<PathBuf> {
    Ok(cache()?.join(format!("schemathesis-{VERSION}")))
}

pub(super) fn download() -> Result<()> {
    create_atomically(&home()?, |dir| {
        python_venv(dir)?;
        let packages = dir.join("packages.txt");
        fs::write(&packages, PACKAGES).with_context(|| format!("cannot write {}", packages.display()))?;
        run(&format!("downloading Schemathesis {VERSION}"), |log| {
            tool(&dir.join("bin/python"), log)
                .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--requirement"])
                .args([packages])
        })
        .map(drop)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_list_pins_all_versions() {
        assert!(PACKAGES.lines().any(|line| line == format!("schemathesis=={VERSION}")));
        assert!(PACKAGES.lines().all(|line| line.starts_with('#') || line.contains("==")), "{PACKAGES}");
    }
}
