//! The programs of Kubernetes, built from Go modules.

use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::cache::{cache, create_atomically};
use super::command::run;
use super::go;
use crate::path::is_executable;

/// The version of Kubernetes, without the leading v.
pub const VERSION: &str = "1.36.3";

const COMMANDS: [&str; 2] = ["kube-apiserver", "kubectl"];

/// Required by a cluster in addition.
const NODE_COMMANDS: [&str; 4] = ["kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy"];

/// The established variable for the directory of existing binaries.
fn assets() -> Option<OsString> {
    std::env::var_os("KUBEBUILDER_ASSETS")
}

/// A program in the directory `KUBEBUILDER_ASSETS`.
pub(super) fn asset(name: &str) -> Option<PathBuf> {
    program_in(&assets()?, name)
}

/// kube-apiserver and kubectl: from `KUBEBUILDER_ASSETS` if it has both, else from the cache.
#[must_use]
pub fn find() -> Option<(PathBuf, PathBuf)> {
    find_in(assets().as_deref(), home().ok().as_deref())
}

/// Both programs from `assets`, the value of `KUBEBUILDER_ASSETS`, or else both from `home`.
fn find_in(assets: Option<&OsStr>, home: Option<&Path>) -> Option<(PathBuf, PathBuf)> {
    let [api_server, kubectl] = COMMANDS;
    let both_in = |dir: &OsStr| Some((program_in(dir, api_server)?, program_in(dir, kubectl)?));
    assets.and_then(both_in).or_else(|| both_in(home?.as_os_str()))
}

fn program_in(dir: &OsStr, name: &str) -> Option<PathBuf> {
    let file = Path::new(dir).join(name);
    Some(file).filter(|file| !dir.is_empty() && is_executable(file))
}

fn home() -> Result<PathBuf> {
    Ok(cache()?.join(format!("kubernetes-{VERSION}")))
}

pub(super) fn build() -> Result<()> {
    build_commands(&home()?, &COMMANDS)
}

fn node_home() -> Result<PathBuf> {
    Ok(cache()?.join(format!("kubernetes-node-{VERSION}")))
}

/// One of [`NODE_COMMANDS`].
pub(crate) fn node_program(name: &str) -> Option<PathBuf> {
    program_in(node_home().ok()?.as_os_str(), name)
}

pub(super) fn node_is_built() -> bool {
    NODE_COMMANDS.iter().all(|name| node_program(name).is_some())
}

pub(super) fn build_node() -> Result<()> {
    build_commands(&node_home()?, &NODE_COMMANDS)
}

fn build_commands(home: &Path, commands: &[&str]) -> Result<()> {
    create_atomically(home, |dir| {
        let source = dir.join("source");
        fs::create_dir(&source).with_context(|| format!("cannot create {}", source.display()))?;
        let go = |args: &[&str], log: PathBuf| go::command(&source, log).args(args.iter().copied());
        let module = format!("k8s.io/kubernetes@v{VERSION}");
        let described = run(&format!("downloading the modules of Kubernetes {VERSION}"), |log| {
            go(&["mod", "download", "-json", &module], log)
        })?;
        let go_mod = read(Path::new(go::described_path(&described, "GoMod")?))?;
        write(&source.join("go.mod"), &wrapper_module(&go_mod)?)?;
        write(&source.join("tools.go"), &tools(commands))?;
        run("resolving the dependencies of Kubernetes", |log| go(&["mod", "tidy"], log))?;
        for command in commands {
            let stamp = "-X k8s.io/component-base/version.git";
            let (major, minor) = VERSION.split_once('.').context("the version of Kubernetes has no dot")?;
            let minor = minor.split('.').next().unwrap_or_default();
            let flags = format!(
                "-s -w {stamp}Version=v{VERSION} {stamp}Major={major} {stamp}Minor={minor} {stamp}TreeState=clean"
            );
            let (output, package) = (format!("../{command}"), format!("k8s.io/kubernetes/cmd/{command}"));
            run(&format!("building {command} {VERSION} (minutes, once)"), |log| {
                go(&["build", "-trimpath", "-ldflags", &flags, "-o", &output, &package], log)
            })?;
        }
        fs::remove_dir_all(&source).with_context(|| format!("cannot remove {}", source.display()))
    })
}

/// The go.mod of a module which requires Kubernetes. Kubernetes replaces its parts by local directories, and a module
/// which requires it does not inherit that; here each part is replaced by the published module of the same release.
fn wrapper_module(kubernetes: &str) -> Result<String> {
    let release = VERSION.strip_prefix("1.").context("the version of Kubernetes does not start with 1.")?;
    let mut module = String::from("module couponry.dev/testbed\n\n");
    for line in kubernetes.lines().filter(|l| l.starts_with("go ") || l.starts_with("godebug ")) {
        let _ = writeln!(module, "{line}");
    }
    let _ = writeln!(module, "\nrequire k8s.io/kubernetes v{VERSION}\n\nreplace (");
    let parts = kubernetes.lines().filter_map(|line| Some(line.trim().split_once(" => ./staging/")?.0));
    let before = module.len();
    for part in parts {
        let _ = writeln!(module, "\t{part} => {part} v0.{release}");
    }
    if module.len() == before {
        bail!("the go.mod of Kubernetes {VERSION} replaces no local directories");
    }
    module.push_str(")\n");
    Ok(module)
}

/// `go mod tidy` removes requirements which no file imports.
fn tools(commands: &[&str]) -> String {
    let imports = commands.iter().flat_map(|name| ["\t_ \"k8s.io/kubernetes/cmd/", name, "\"\n"]).collect::<String>();
    format!("//go:build tools\n\npackage testbed\n\nimport (\n{imports})\n")
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::OpenOptionsExt as _;

    use super::{COMMANDS, Path, find_in, fs, wrapper_module};
    use crate::scratch::Scratch;

    fn create_program(dir: &Path, program: &str) {
        fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(dir.join(program)).unwrap();
    }

    #[test]
    fn programs_of_user_are_used_if_both_are_present() {
        let (theirs, ours) = (Scratch::new("assets").unwrap(), Scratch::new("home").unwrap());
        let (assets, home) = (Some(theirs.path().as_os_str()), Some(ours.path()));
        let [api_server, kubectl] = COMMANDS;
        let both_in = |scratch: &Scratch| Some((scratch.path().join(api_server), scratch.path().join(kubectl)));
        assert_eq!(find_in(assets, home), None, "no programs exist");

        create_program(ours.path(), api_server);
        create_program(ours.path(), kubectl);
        create_program(theirs.path(), api_server);
        assert_eq!(find_in(assets, home), both_in(&ours), "the programs of a pair are from one directory");
        fs::write(theirs.path().join(kubectl), "").unwrap();
        assert_eq!(find_in(assets, home), both_in(&ours), "a file which is not executable is ignored");

        fs::remove_file(theirs.path().join(kubectl)).unwrap();
        create_program(theirs.path(), kubectl);
        assert_eq!(find_in(assets, home), both_in(&theirs));
        assert_eq!(find_in(assets, None), both_in(&theirs), "also without a cache directory");
        for unset in [None, Some("".as_ref())] {
            assert_eq!(find_in(unset, home), both_in(&ours));
        }
    }

    #[test]
    fn wrapper_module_replaces_parts_of_kubernetes_by_published_modules() {
        let theirs = "module k8s.io/kubernetes\n\ngo 1.26.0\n\ngodebug default=go1.26\n\nreplace (\n\
                      \tk8s.io/api => ./staging/src/k8s.io/api\n)\n";
        let ours = wrapper_module(theirs).unwrap();
        assert!(ours.contains("\tk8s.io/api => k8s.io/api v0.36.3\n"), "{ours}");
        assert!(ours.contains("\ngo 1.26.0\ngodebug default=go1.26\n"), "{ours}");
    }
}
