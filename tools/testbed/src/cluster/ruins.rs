//! Kills what runs in a cluster, and removes a cluster: ours at its end, and what one that was killed has left behind.
//!
//! The kernel kills the cluster's own programs with the process that started them. What those started, the containers
//! and their keepers, lives on, and so do mounts, network namespaces and cgroups. All of them are found by what they
//! are in: the node's network namespace, [`STATE`], and a cgroup of our own.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};

use super::network;

/// Everything that is mounted on: containers and the volumes of pods. Always the same place, since the next cluster
/// must find what is left of this one.
pub(super) const STATE: &str = "/var/lib/couponry-node";
/// The parent of the pods' cgroups, in every hierarchy. Not the kubelet's default, which it would share with another
/// kubelet of this machine, whose pods it would take for orphans.
pub(super) const CGROUP: &str = "couponry-node";
/// Where the CNI library remembers what it gave to which container.
const CNI_RESULTS: &str = "/var/lib/cni/results";
/// Where containerd's keepers of containers listen.
const KEEPERS: &str = "/run/containerd/s";

/// Kills what is in the cluster, unmounts, and removes all that it was. Does nothing where there is nothing.
pub(super) fn remove() {
    let namespaces: Vec<Namespace> = mounts(STATE).iter().chain([&network::file()]).filter_map(|m| at(m)).collect();
    for _ in 0..100 {
        let inhabitants = inhabitants(&namespaces);
        for &pid in &inhabitants {
            let _ = kill_process(pid, Signal::KILL);
        }
        if inhabitants.is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    for mount in mounts(STATE).iter().rev() {
        // Lazily: a mount that is still in use must not keep the others.
        let _ = unmount(mount, UnmountFlags::DETACH);
    }
    network::remove();
    for hierarchy in hierarchies() {
        remove_cgroup(&hierarchy.join(CGROUP));
    }
    let _ = fs::remove_dir_all(STATE);
    remove_results();
    remove_dead_sockets();
}

/// Kills what runs in a pod with -9, and says how many processes that were. The kubelet starts its containers again.
pub(super) fn kill9(pod: &str) -> usize {
    // The kubelet tells every container the name of its pod.
    let hostname = format!("HOSTNAME={pod}");
    let is_in_pod =
        |environment: &Vec<u8>| environment.split(|byte| *byte == 0).any(|line| line == hostname.as_bytes());
    let runs = |process: &PathBuf| fs::read(process.join("environ")).is_ok_and(|environment| is_in_pod(&environment));
    let pids: Vec<Pid> = children(Path::new("/proc")).iter().filter(|p| runs(p)).filter_map(|p| pid_of(p)).collect();
    for &pid in &pids {
        let _ = kill_process(pid, Signal::KILL);
    }
    pids.len()
}

/// The directories that can hold cgroups: one for each controller, or one for all.
pub(super) fn hierarchies() -> Vec<PathBuf> {
    let top = PathBuf::from("/sys/fs/cgroup");
    let can = |dir: &PathBuf| dir.join("cgroup.procs").is_file();
    if can(&top) { vec![top] } else { children(&top).into_iter().filter(can).collect() }
}

/// A network namespace: device and number of its file.
type Namespace = (u64, u64);

fn at(path: &Path) -> Option<Namespace> {
    let file = fs::metadata(path).ok()?;
    Some((file.dev(), file.ino()))
}

/// The processes that are in one of these, never one of the namespace that we are in.
fn inhabitants(namespaces: &[Namespace]) -> Vec<Pid> {
    let Some(own) = at(Path::new("/proc/self/ns/net")) else { return Vec::new() };
    children(Path::new("/proc"))
        .into_iter()
        .filter(|process| at(&process.join("ns/net")).is_some_and(|n| n != own && namespaces.contains(&n)))
        .filter_map(|process| pid_of(&process))
        .collect()
}

fn pid_of(process: &Path) -> Option<Pid> {
    Pid::from_raw(process.file_name()?.to_str()?.parse().ok()?)
}

/// The mount points below `dir`, each after those that it lies on.
fn mounts(dir: &str) -> Vec<PathBuf> {
    let list = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = list.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    points.filter(|point| point.starts_with(dir)).collect()
}

/// Its files cannot be removed, only the directories; and those from the innermost outwards.
fn remove_cgroup(dir: &Path) {
    for child in children(dir).iter().filter(|child| child.is_dir()) {
        remove_cgroup(child);
    }
    let _ = fs::remove_dir(dir);
}

/// Each names the network namespace that it is about, and ours are all below [`STATE`].
fn remove_results() {
    for file in children(Path::new(CNI_RESULTS)) {
        if fs::read_to_string(&file).is_ok_and(|text| text.contains(STATE)) {
            let _ = fs::remove_file(file);
        }
    }
}

/// Whoever still listens accepts; a socket that refuses belongs to nobody.
fn remove_dead_sockets() {
    for socket in children(Path::new(KEEPERS)) {
        if UnixStream::connect(&socket).is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused) {
            let _ = fs::remove_file(socket);
        }
    }
}

fn children(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}
