//! Removes a cluster: at its end, or after its owner was killed.
//!
//! The kernel kills the programs which the owner started. Their children (containers and shims), mounts, network
//! namespaces and cgroups remain. They are identified by the network namespace of the node, by [`STATE`] and by
//! [`CGROUP`].

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};

use super::network;

/// The directory of all mounts: containers and volumes of pods. The path is fixed, so that the next cluster can remove
/// the remains of this one.
pub(super) const STATE: &str = "/var/lib/couponry-node";
/// The parent of the cgroups of pods, in every hierarchy. With the default of the kubelet, another kubelet of this
/// machine would treat these pods as orphans.
pub(super) const CGROUP: &str = "couponry-node";
/// The directory in which the CNI library stores its results.
const CNI_RESULTS: &str = "/var/lib/cni/results";
/// The directory of the sockets of containerd shims.
const SHIM_SOCKETS: &str = "/run/containerd/s";

/// Kills the processes of the cluster, unmounts its file systems and removes its files. Does nothing without a cluster.
pub(super) fn remove() {
    let namespaces: Vec<Namespace> =
        mounts(STATE).iter().chain([&network::file()]).filter_map(|m| namespace_at(m)).collect();
    for _ in 0..100 {
        let processes = processes_in(&namespaces);
        for &pid in &processes {
            let _ = kill_process(pid, Signal::KILL);
        }
        if processes.is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    for mount in mounts(STATE).iter().rev() {
        // A lazy unmount succeeds although the mount is in use.
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

/// Sends SIGKILL to the processes of a pod and returns their number. The kubelet restarts the containers.
pub(super) fn kill9(pod: &str) -> usize {
    // Every container has the name of its pod in its environment.
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

/// The cgroup hierarchies: one per controller, or one for all.
pub(super) fn hierarchies() -> Vec<PathBuf> {
    let top = PathBuf::from("/sys/fs/cgroup");
    let can = |dir: &PathBuf| dir.join("cgroup.procs").is_file();
    if can(&top) { vec![top] } else { children(&top).into_iter().filter(can).collect() }
}

/// A network namespace: device and number of its file.
type Namespace = (u64, u64);

fn namespace_at(path: &Path) -> Option<Namespace> {
    let file = fs::metadata(path).ok()?;
    Some((file.dev(), file.ino()))
}

/// The processes in these namespaces, except in the namespace of this process.
fn processes_in(namespaces: &[Namespace]) -> Vec<Pid> {
    let Some(own) = namespace_at(Path::new("/proc/self/ns/net")) else { return Vec::new() };
    children(Path::new("/proc"))
        .into_iter()
        .filter(|process| namespace_at(&process.join("ns/net")).is_some_and(|n| n != own && namespaces.contains(&n)))
        .filter_map(|process| pid_of(&process))
        .collect()
}

fn pid_of(process: &Path) -> Option<Pid> {
    Pid::from_raw(process.file_name()?.to_str()?.parse().ok()?)
}

/// The mount points below `dir`, parents first.
fn mounts(dir: &str) -> Vec<PathBuf> {
    let list = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = list.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    points.filter(|point| point.starts_with(dir)).collect()
}

/// Files of a cgroup cannot be removed; directories are removed children first.
fn remove_cgroup(dir: &Path) {
    for child in children(dir).iter().filter(|child| child.is_dir()) {
        remove_cgroup(child);
    }
    let _ = fs::remove_dir(dir);
}

/// Each result contains the path of a network namespace; those of the cluster are below [`STATE`].
fn remove_results() {
    for file in children(Path::new(CNI_RESULTS)) {
        if fs::read_to_string(&file).is_ok_and(|text| text.contains(STATE)) {
            let _ = fs::remove_file(file);
        }
    }
}

/// A socket which refuses connections has no process.
fn remove_dead_sockets() {
    for socket in children(Path::new(SHIM_SOCKETS)) {
        if UnixStream::connect(&socket).is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused) {
            let _ = fs::remove_file(socket);
        }
    }
}

fn children(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}
