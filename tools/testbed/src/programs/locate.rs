//! Programs which are installed on the machine.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::kubernetes;
use crate::path::{is_executable, on_path};

/// The directory where Debian installs the plugins of the container network.
pub(crate) const CNI_PLUGINS: &str = "/usr/lib/cni";

/// Redis.
#[must_use]
pub fn redis_server() -> Option<PathBuf> {
    on_path("redis-server")
}

/// etcd: from `KUBEBUILDER_ASSETS`, else installed.
#[must_use]
pub fn etcd() -> Option<PathBuf> {
    kubernetes::asset("etcd").or_else(|| on_path("etcd"))
}

/// The directory with `initdb` and `postgres`: the newest of Debian's packages, else the one on `PATH`.
#[must_use]
pub fn postgres_bin() -> Option<PathBuf> {
    let installed = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|e| e.path());
    let has_server = |bin: &PathBuf| ["postgres", "initdb"].iter().all(|name| is_executable(&bin.join(name)));
    let newest = installed
        .filter_map(|dir| Some((dir.file_name()?.to_str()?.parse::<u32>().ok()?, dir.join("bin"))))
        .filter(|(version, bin)| *version >= 15 && has_server(bin))
        .max();
    newest.map(|(_, bin)| bin).or_else(|| Some(on_path("initdb")?.parent()?.to_owned()))
}

/// The Java launcher: from `JAVA_HOME`, else on `PATH`.
#[must_use]
pub(crate) fn java() -> Option<PathBuf> {
    let home = std::env::var_os("JAVA_HOME").map(|home| PathBuf::from(home).join("bin/java"));
    home.filter(|java| is_executable(java)).or_else(|| on_path("java"))
}

/// buildah, which builds images.
#[must_use]
pub(crate) fn buildah() -> Option<PathBuf> {
    on_path("buildah")
}

/// libfaketime, an `LD_PRELOAD` library which changes the clock of a program.
#[must_use]
pub fn faketime() -> Option<PathBuf> {
    let directories = fs::read_dir("/usr/lib").ok()?.flatten();
    directories.map(|directory| directory.path().join("faketime/libfaketime.so.1")).find(|library| library.is_file())
}

/// The browser.
#[must_use]
pub fn chromium() -> Option<PathBuf> {
    on_path("chromium")
}

/// The program which controls the browser.
#[must_use]
pub fn chromedriver() -> Option<PathBuf> {
    on_path("chromedriver")
}

/// Converts a missing program to an error which names the command that installs it.
pub fn require<T>(found: Option<T>, program: &str) -> Result<T> {
    found.with_context(|| format!("{program} is not installed: run `cargo xtask setup`"))
}
