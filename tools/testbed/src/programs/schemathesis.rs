//! Schemathesis, from the Python package index: asks an HTTP endpoint everything that its `OpenAPI` document allows, and much
//! that it does not.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

const VERSION: &str = "4.32.5";
const PACKAGES: &str = include_str!("schemathesis.txt");

/// The Python that has it, to be run with `-m schemathesis.cli`: its own command would name the place where it was made.
pub(super) fn find() -> Option<PathBuf> {
    Some(home().ok()?.join("bin/python")).filter(|file| super::is_program(file))
}

fn home() -> Result<PathBuf> {
    Ok(super::cache()?.join(format!("schemathesis-{VERSION}")))
}

pub(super) fn fetch() -> Result<()> {
    super::make_whole(&home()?, |dir| {
        super::python_venv(dir)?;
        let packages = dir.join("packages.txt");
        fs::write(&packages, PACKAGES).with_context(|| format!("cannot write {}", packages.display()))?;
        super::run(&format!("fetching Schemathesis {VERSION}"), |log| {
            super::tool(&dir.join("bin/python"), log)
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
    fn the_list_has_the_version_that_is_looked_for() {
        assert!(PACKAGES.lines().any(|line| line == format!("schemathesis=={VERSION}")));
        assert!(PACKAGES.lines().all(|line| line.starts_with('#') || line.contains("==")), "{PACKAGES}");
    }
}
