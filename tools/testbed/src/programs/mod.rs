//! The programs that the servers need: where they are, and how a machine gets them.
//!
//! `PostgreSQL`, Redis, etcd, a JDK and Maven come as Debian packages; kube-apiserver and kubectl are built from Go
//! modules; Kafka comes as jars from Maven. What is built or fetched is kept per user and version in
//! `${XDG_CACHE_HOME:-~/.cache}/couponry`, so that it happens once.

mod debian;
mod kafka;
mod kubernetes;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::process::{Launch, OnStop, Process, log_in};
use crate::progress::Step;
use crate::scratch::Scratch;

pub use kafka::VERSION as KAFKA_VERSION;
pub use kubernetes::VERSION as KUBERNETES_VERSION;

/// A program that must be on the machine, since neither we nor Cargo build it.
struct Wanted {
    program: &'static str,
    why: &'static str,
    /// The Debian package that has it, or None when Debian's is too old.
    package: Option<&'static str>,
    present: fn() -> bool,
}

/// In the order in which a user would want to read them.
const WANTED: [Wanted; 9] = [
    Wanted {
        program: "redis-server (7.0 or newer)",
        why: "holds the stock",
        package: Some("redis-server"),
        present: || redis_server().is_some(),
    },
    Wanted {
        program: "PostgreSQL server (15 or newer)",
        why: "records what was issued",
        package: Some("postgresql"),
        present: || postgres_bin().is_some(),
    },
    Wanted {
        program: "etcd",
        why: "keeps the objects of the Kubernetes API server",
        package: Some("etcd-server"),
        present: || etcd().is_some(),
    },
    Wanted {
        program: "java (17 or newer)",
        why: "runs Kafka",
        package: Some("default-jdk-headless"),
        present: || java().is_some(),
    },
    Wanted {
        program: "mvn",
        why: "fetches Kafka",
        package: Some("maven"),
        present: || kafka_jars().is_some() || on_path("mvn").is_some(),
    },
    Wanted {
        program: "go (1.26 or newer)",
        why: "builds kube-apiserver and kubectl",
        package: None,
        present: || kubernetes::is_built() || on_path("go").is_some(),
    },
    Wanted {
        program: "openssl",
        why: "makes the API server's key for service account tokens",
        package: Some("openssl"),
        present: || openssl().is_some(),
    },
    Wanted {
        program: "cc",
        why: "compiles librdkafka",
        package: Some("build-essential"),
        present: || on_path("cc").is_some(),
    },
    Wanted {
        program: "make",
        why: "compiles librdkafka",
        package: Some("build-essential"),
        present: || on_path("make").is_some(),
    },
];

/// Finds every program, and installs, builds or fetches those that are missing.
///
/// Where that is not possible (not root, no apt-get), fails with the list of everything that is wanted.
pub fn install() -> Result<()> {
    if is_complete() {
        return Ok(());
    }
    let missing = missing();
    if missing.iter().any(|w| w.package.is_none()) || (!missing.is_empty() && !debian::can_install()) {
        bail!(list(&missing));
    }
    let _lock = lock_cache()?;
    // Another may have installed them while we waited.
    let packages = packages(&self::missing());
    if !packages.is_empty() {
        debian::install(&packages)?;
        let missing = self::missing();
        if !missing.is_empty() {
            bail!("apt-get succeeded, and yet: {}", list(&missing));
        }
    }
    if kafka_jars().is_none() {
        kafka::fetch()?;
    }
    if !kubernetes::is_built() {
        kubernetes::build()?;
    }
    Ok(())
}

fn is_complete() -> bool {
    missing().is_empty() && kafka_jars().is_some() && kubernetes::is_built()
}

fn missing() -> Vec<&'static Wanted> {
    WANTED.iter().filter(|w| !(w.present)()).collect()
}

fn packages(missing: &[&Wanted]) -> Vec<&'static str> {
    let mut packages: Vec<&str> = missing.iter().filter_map(|w| w.package).collect();
    packages.dedup();
    packages
}

fn list(missing: &[&Wanted]) -> String {
    use std::fmt::Write;
    let mut text = String::from("these programs are wanted on this machine:\n");
    let width = missing.iter().map(|w| w.program.len()).max().unwrap_or(0);
    for Wanted { program, why, package, .. } in missing {
        let package = package.map_or("not in Debian in this version".into(), |p| format!("Debian package {p}"));
        let _ = writeln!(text, "  {program:width$}  {why} ({package})");
    }
    let packages = packages(missing);
    if !packages.is_empty() {
        let _ = write!(
            text,
            "On Debian, as root, they are installed for you; or: apt-get install --no-install-recommends {}",
            packages.join(" ")
        );
    }
    text.trim_end().to_owned()
}

/// Two installs at once would both build: the second waits here, and then finds everything done.
fn lock_cache() -> Result<File> {
    let dir = cache()?;
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let path = dir.join("install.lock");
    let lock = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    if lock.try_lock().is_err() {
        let step = Step::start("waiting for another cargo xtask that is installing");
        lock.lock().with_context(|| format!("cannot lock {}", path.display()))?;
        step.done();
    }
    Ok(lock)
}

/// Runs one long command under a progress line. Its output is shown only when it fails.
fn run(what: &str, launch: impl FnOnce(PathBuf) -> Launch) -> Result<String> {
    let scratch = Scratch::new("install")?;
    let step = Step::start(what);
    let process = Process::start(launch(log_in(scratch.path(), "output")?))?;
    let status = process.wait()?;
    if !status.success() {
        bail!("{what}: {} ended with {status}; it printed:\n{}", process.name(), process.log_tail());
    }
    step.done();
    Ok(process.log())
}

/// Gives `fill` an empty directory, which gets the name `target` only when it is complete.
fn make_whole(target: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let mut name = target.as_os_str().to_owned();
    name.push(".partial");
    let partial = PathBuf::from(name);
    let failed = || format!("cannot make {}", partial.display());
    if partial.exists() {
        fs::remove_dir_all(&partial).with_context(failed)?;
    }
    fs::create_dir_all(&partial).with_context(failed)?;
    fill(&partial)?;
    fs::rename(&partial, target).with_context(|| format!("cannot make {}", target.display()))
}

/// `${XDG_CACHE_HOME:-~/.cache}/couponry`.
pub fn cache() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME").filter(|v| !v.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => std::env::home_dir().context("neither XDG_CACHE_HOME nor a home directory is set")?.join(".cache"),
    };
    Ok(base.join("couponry"))
}

/// An executable file of this name on PATH, or where Debian keeps servers.
#[must_use]
pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| is_program(file))
}

fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// Redis.
#[must_use]
pub fn redis_server() -> Option<PathBuf> {
    on_path("redis-server")
}

/// etcd: from `KUBEBUILDER_ASSETS` or installed.
#[must_use]
pub fn etcd() -> Option<PathBuf> {
    kubernetes::asset("etcd").or_else(|| on_path("etcd"))
}

/// kube-apiserver and kubectl: from `KUBEBUILDER_ASSETS` when both are there, else ours.
#[must_use]
pub fn kubernetes() -> Option<(PathBuf, PathBuf)> {
    kubernetes::find()
}

/// The directory with `initdb` and `postgres`: the newest that Debian has installed, else the one on PATH.
#[must_use]
pub fn postgres_bin() -> Option<PathBuf> {
    let installed = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|e| e.path());
    let newest = installed
        .filter_map(|dir| Some((dir.file_name()?.to_str()?.parse::<u32>().ok()?, dir.join("bin"))))
        .filter(|(version, bin)| *version >= 15 && is_program(&bin.join("postgres")) && is_program(&bin.join("initdb")))
        .max();
    newest.map(|(_, bin)| bin).or_else(|| Some(on_path("initdb")?.parent()?.to_owned()))
}

/// The Java launcher: from `JAVA_HOME` or on PATH.
#[must_use]
pub fn java() -> Option<PathBuf> {
    let home = std::env::var_os("JAVA_HOME").map(|home| PathBuf::from(home).join("bin/java"));
    home.filter(|java| is_program(java)).or_else(|| on_path("java"))
}

/// The directory with Kafka's jars.
#[must_use]
pub fn kafka_jars() -> Option<PathBuf> {
    kafka::find()
}

/// `OpenSSL`'s command.
#[must_use]
pub fn openssl() -> Option<PathBuf> {
    on_path("openssl")
}

/// Turns an absent program into the error that tells the command to run.
pub(crate) fn need<T>(found: Option<T>, program: &str) -> Result<T> {
    found.with_context(|| format!("{program} is not installed: run `cargo xtask setup`"))
}

/// A command of an install: with the user's whole environment, in its own words in the log.
fn tool(program: &Path, log: PathBuf) -> Launch {
    let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Launch::new(&name, program, log).on_stop(OnStop::Terminate)
}

#[cfg(test)]
mod tests {
    use super::{WANTED, list};

    #[test]
    fn a_machine_without_anything_is_told_everything_at_once() {
        let text = list(&WANTED.iter().collect::<Vec<_>>());
        for wanted in &WANTED {
            assert!(text.contains(wanted.program) && text.contains(wanted.why), "{text}");
        }
        assert!(text.contains("Debian package redis-server"), "{text}");
        assert!(
            text.ends_with("redis-server postgresql etcd-server default-jdk-headless maven openssl build-essential")
        );
    }
}
