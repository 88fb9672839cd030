//! The directory of programs which are built or downloaded.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::progress::Step;

/// `${XDG_CACHE_HOME:-~/.cache}/couponry`.
pub fn cache() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME").filter(|v| !v.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => std::env::home_dir().context("neither XDG_CACHE_HOME nor a home directory is set")?.join(".cache"),
    };
    Ok(base.join("couponry"))
}

/// Locks the cache: a second installation waits for the first one instead of repeating it.
pub(super) fn lock() -> Result<File> {
    let dir = cache()?;
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let path = dir.join("install.lock");
    let lock = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    if lock.try_lock().is_err() {
        let step = Step::start("waiting for another installation by cargo xtask");
        lock.lock().with_context(|| format!("cannot lock {}", path.display()))?;
        step.done();
    }
    Ok(lock)
}

/// Creates the directory `target` with the contents which `fill` writes to a temporary directory. An interrupted `fill`
/// leaves no `target`.
pub(super) fn create_atomically(target: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let mut name = target.as_os_str().to_owned();
    name.push(".partial");
    let partial = PathBuf::from(name);
    let failed = || format!("cannot create {}", partial.display());
    if partial.exists() {
        fs::remove_dir_all(&partial).with_context(failed)?;
    }
    fs::create_dir_all(&partial).with_context(failed)?;
    fill(&partial)?;
    fs::rename(&partial, target).with_context(|| format!("cannot create {}", target.display()))
}
