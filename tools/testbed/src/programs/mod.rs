//! The programs that the servers need: where they are, and how a machine gets them.
//!
//! `PostgreSQL`, Redis, etcd, a JDK and Maven come as Debian packages; kube-apiserver and kubectl are built from Go
//! modules; Kafka comes as jars from Maven; Schemathesis from the Python package index. A whole
//! [`Cluster`](crate::Cluster) needs more of all four. What is built or fetched is kept per user and version in
//! `${XDG_CACHE_HOME:-~/.cache}/couponry`, so that it happens once.

mod debian;
mod envoy;
mod go;
mod kafka;
mod kubernetes;
mod pause;
mod schemathesis;
mod wanted;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::process::{Launch, OnStop, Process, log_in};
use crate::progress::Step;
use crate::scratch::Scratch;

use wanted::{WANTED, WANTED_FOR_CLUSTER, WANTED_FOR_IMAGES, Wanted, list, missing, packages};

pub use go::{CONTOUR, COREDNS, GATEWAY_API, GoFiles, GoProgram, HELM, METRICS_SERVER, PROMETHEUS_OPERATOR, TOXIPROXY};
pub use kafka::VERSION as KAFKA_VERSION;
pub use kubernetes::VERSION as KUBERNETES_VERSION;
pub(crate) use pause::IMAGE as PAUSE_IMAGE;

/// What we build or fetch ourselves, once the programs that this takes are there.
struct Built {
    present: fn() -> bool,
    build: fn() -> Result<()>,
}

const BUILT: [Built; 7] = [
    Built { present: || kafka_jars().is_some(), build: kafka::fetch },
    Built { present: || schemathesis().is_some(), build: schemathesis::fetch },
    Built { present: kubernetes::is_built, build: kubernetes::build },
    Built { present: || HELM.find().is_some(), build: || HELM.build() },
    Built { present: || PROMETHEUS_OPERATOR.find().is_some(), build: || PROMETHEUS_OPERATOR.fetch() },
    Built { present: || GATEWAY_API.find().is_some(), build: || GATEWAY_API.fetch() },
    Built { present: || TOXIPROXY.find().is_some(), build: || TOXIPROXY.build() },
];

const BUILT_FOR_CLUSTER: [Built; 6] = [
    Built { present: || envoy().is_some(), build: envoy::fetch },
    Built { present: || pause_image().is_some(), build: pause::build },
    Built { present: kubernetes::node_is_built, build: kubernetes::build_node },
    Built { present: || COREDNS.find().is_some(), build: || COREDNS.build() },
    Built { present: || CONTOUR.find().is_some(), build: || CONTOUR.build() },
    Built { present: || METRICS_SERVER.find().is_some(), build: || METRICS_SERVER.build() },
];

/// Finds every program that tests and the demo need, and installs, builds or fetches those that are missing.
///
/// Where that is not possible (not root, no apt-get), fails with the list of everything that is wanted.
pub fn install() -> Result<()> {
    provide(&WANTED, &BUILT)
}

/// Like [`install`], for what [images](crate::image) need.
pub fn install_images() -> Result<()> {
    provide(&WANTED_FOR_IMAGES, &[])
}

/// Like [`install`], for everything that a whole [`Cluster`](crate::Cluster) needs.
pub fn install_cluster() -> Result<()> {
    install()?;
    install_images()?;
    provide(&WANTED_FOR_CLUSTER, &BUILT_FOR_CLUSTER)
}

fn provide(wanted: &'static [Wanted], built: &[Built]) -> Result<()> {
    let missing = missing(wanted);
    if missing.is_empty() && is_built(built) {
        return Ok(());
    }
    if missing.iter().any(|w| w.package.is_none()) || (!missing.is_empty() && !debian::can_install()) {
        bail!(list(&missing));
    }
    let _lock = lock_cache()?;
    // Another may have installed them while we waited.
    let packages = packages(&self::missing(wanted));
    if !packages.is_empty() {
        debian::install(&packages)?;
        let missing = self::missing(wanted);
        if !missing.is_empty() {
            bail!("apt-get succeeded, and yet: {}", list(&missing));
        }
    }
    built.iter().filter(|b| !(b.present)()).try_for_each(|b| (b.build)())
}

fn is_built(built: &[Built]) -> bool {
    built.iter().all(|b| (b.present)())
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

/// Makes a place for Python packages there.
fn python_venv(dir: &Path) -> Result<()> {
    let python = on_path("python3").context("there is no python3")?;
    run("making a place for Python packages", |log| tool(&python, log).args(["-m", "venv"]).args([dir])).map(drop)
}

/// Runs one long command under a progress line. Its output is shown only when it fails.
pub(crate) fn run(what: &str, launch: impl FnOnce(PathBuf) -> Launch) -> Result<String> {
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

/// Helm.
#[must_use]
pub fn helm() -> Option<PathBuf> {
    HELM.find()
}

/// The Python that has Schemathesis: run it with `-m schemathesis.cli`.
#[must_use]
pub fn schemathesis() -> Option<PathBuf> {
    schemathesis::find()
}

/// Where Debian keeps the programs that connect containers.
pub(crate) const CNI_PLUGINS: &str = "/usr/lib/cni";

/// One of kube-controller-manager, kube-scheduler, kubelet and kube-proxy.
#[must_use]
pub fn node_program(name: &str) -> Option<PathBuf> {
    kubernetes::node_program(name)
}

/// The proxy that carries an ingress's traffic.
#[must_use]
pub fn envoy() -> Option<PathBuf> {
    envoy::find()
}

/// The image of a pod's sandbox, as an archive.
#[must_use]
pub fn pause_image() -> Option<PathBuf> {
    pause::find()
}

/// Makes images.
#[must_use]
pub fn buildah() -> Option<PathBuf> {
    on_path("buildah")
}

/// `OpenSSL`'s command.
#[must_use]
pub fn openssl() -> Option<PathBuf> {
    on_path("openssl")
}

/// The library that lets a program see another time than the machine's (libfaketime).
#[must_use]
pub fn faketime() -> Option<PathBuf> {
    let directories = fs::read_dir("/usr/lib").ok()?.flatten();
    directories.map(|directory| directory.path().join("faketime/libfaketime.so.1")).find(|library| library.is_file())
}

/// Turns an absent program into the error that tells the command to run.
pub(crate) fn need<T>(found: Option<T>, program: &str) -> Result<T> {
    found.with_context(|| format!("{program} is not installed: run `cargo xtask setup`"))
}

/// A command of an install: with the user's whole environment, in its own words in the log.
pub(crate) fn tool(program: &Path, log: PathBuf) -> Launch {
    let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Launch::new(&name, program, log).on_stop(OnStop::Terminate)
}
