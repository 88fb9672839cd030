//! A Kubernetes cluster of one node, with pods, Services, DNS, an ingress and resource metrics.
//!
//! All programs are real: etcd, the API server, the controller manager and the scheduler, containerd, the kubelet and
//! kube-proxy, `CoreDNS`, Contour with Envoy, and metrics-server.
//!
//! # Network
//! The cluster runs in a network namespace with one link to the host. The host reaches the node at [`NODE`], and pods
//! and Services at their own addresses; pods reach servers which listen on [`HOST`]. There is no route to other
//! networks, so images must be [imported](Cluster::import). `NetworkPolicy` is not enforced.
//!
//! # Guarantees
//! Dropping the [`Cluster`] or a signal removes it with its containers, mounts and cgroups. After SIGKILL of the owner
//! the kernel kills the programs (see [`crate::process`]), and the next cluster removes the rest.
//!
//! # Assumptions
//! The owner runs as root. A machine has at most one cluster.

mod addons;
mod certificates;
mod cleanup;
mod control;
pub(crate) mod network;
mod node;

use std::fs::File;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::cleanup_guard::CleanupGuard;
use crate::kubectl;
use crate::process::{Process, output};
use crate::programs::go::HELM;
use crate::programs::locate::require;
use crate::progress::Step;
use crate::scratch::Scratch;
use certificates::Identities;

pub use network::{HOST, NODE, PODS, SERVICES};

/// How long each program may take to become ready. Generous, because machines are shared.
const READY_TIMEOUT: Duration = Duration::from_mins(3);
/// Locked by the owner of the cluster.
const LOCK: &str = "/run/couponry-node.lock";

/// A running cluster. Dropping it removes it.
#[derive(Debug)]
pub struct Cluster {
    processes: Vec<Process>,
    kubeconfig: PathBuf,
    // Dropped after the programs and before the lock.
    _cleanup: CleanupGuard,
    identities: Identities,
    scratch: Scratch,
    _lock: File,
}

impl Cluster {
    /// Starts it and waits until the node, DNS and the ingress are ready.
    pub fn start() -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            bail!("a cluster requires root permissions for network namespaces, mounts and cgroups");
        }
        let lock = lock()?;
        let step = Step::start("starting a Kubernetes cluster");
        cleanup::remove();
        let scratch = Scratch::new("cluster")?;
        let guard = CleanupGuard::new(cleanup::remove);
        let kubeconfig = scratch.path().join("kubeconfig");
        let identities = Identities::new(scratch.path())?;
        let processes = Vec::new();
        let mut cluster = Self { processes, kubeconfig, _cleanup: guard, identities, scratch, _lock: lock };
        cluster.start_all()?;
        step.done_with("the Kubernetes cluster is ready");
        Ok(cluster)
    }

    fn start_all(&mut self) -> Result<()> {
        let dir = self.scratch.path().to_owned();
        network::create()?;
        node::create_state_dir()?;
        self.identities.kubeconfig(&self.kubeconfig, "admin", "system:masters")?;
        self.processes.push(control::start_etcd(&dir)?);
        self.processes.push(control::start_api_server(&dir, &self.identities)?);
        self.processes.push(node::start_containerd(&dir)?);
        self.wait("containerd", node::containerd_is_ready)?;
        node::import_pause()?;
        self.wait("the API server", || self.kubectl(&["get", "--raw", "/readyz"]).is_ok())?;
        self.processes.extend(control::start_controllers(&dir, &self.identities)?);
        self.processes.push(node::start_kubelet(&dir, &self.identities)?);
        self.processes.push(node::start_proxy(&dir, &self.kubeconfig)?);
        self.processes.push(addons::start_dns(&dir, &self.kubeconfig)?);
        self.processes.push(addons::start_metrics(&self.kubeconfig, &dir)?);
        self.processes.extend(addons::start_ingress(&self.kubeconfig, &dir)?);
        let ready = ["wait", "--for=condition=Ready", "--timeout=1s", "node", node::NAME];
        self.wait("the node", || self.kubectl(&ready).is_ok())?;
        self.wait("CoreDNS", addons::dns_is_ready)?;
        self.wait("Envoy", addons::ingress_is_ready)?;
        // Pods are rejected until a controller has created it.
        self.wait("the service account of pods", || self.kubectl(&["get", "serviceaccount", "default"]).is_ok())
    }

    /// Waits until `ready` returns true. Fails if a program of the cluster ends first.
    fn wait(&self, what: &str, ready: impl Fn() -> bool) -> Result<()> {
        let deadline = Instant::now() + READY_TIMEOUT;
        while !ready() {
            self.check()?;
            if Instant::now() > deadline {
                bail!(
                    "{what} is not ready after {READY_TIMEOUT:?}; COUPONRY_KEEP_SCRATCH=1 keeps the logs in {}",
                    self.logs().display()
                );
            }
            // Most checks start a process, which competes with the cluster for the CPU.
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    /// The kubeconfig of the administrator.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Runs kubectl as the administrator and returns its output.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        kubectl::kubectl(&self.kubeconfig, args, None)
    }

    /// Runs kubectl with `input` as its standard input, for `kubectl apply -f -`.
    pub fn kubectl_with(&self, args: &[&str], input: &str) -> Result<String> {
        kubectl::kubectl(&self.kubeconfig, args, Some(input))
    }

    /// Runs helm as the administrator and returns its output. No chart repositories are configured.
    pub fn helm(&self, args: &[&str]) -> Result<String> {
        let helm = require(HELM.find(), "helm")?;
        let kubeconfig = format!("--kubeconfig={}", self.kubeconfig.display());
        let own = |flag: &str, name: &str| format!("--{flag}={}", self.scratch.path().join(name).display());
        let fixed = [
            kubeconfig,
            own("registry-config", "helm-registry.json"),
            own("repository-config", "helm-repositories.yaml"),
            own("repository-cache", "helm-cache"),
        ];
        let all: Vec<&str> = args.iter().copied().chain(fixed.iter().map(String::as_str)).collect();
        output(&helm, &all, None)
    }

    /// Imports an image: an archive in the format of `docker save`.
    pub fn import(&self, archive: &Path) -> Result<()> {
        node::import(archive).with_context(|| format!("cannot import {}", archive.display()))
    }

    /// Sends SIGKILL to the processes of a pod. The kubelet restarts the containers unless the pod is deleted.
    pub fn kill9(&self, pod: &str) -> Result<()> {
        ensure!(cleanup::kill9(pod) > 0, "the pod {pod} has no processes");
        Ok(())
    }

    /// `http://NODE:PORT`, where Envoy accepts requests for every Ingress (class `contour`) and every `HTTPRoute` of
    /// the Gateway `ingress` in the namespace `ingress`. The Host header selects the route.
    #[must_use]
    pub fn ingress_url(&self) -> String {
        format!("http://{NODE}:{}", addons::INGRESS_PORT)
    }

    /// The address on which servers of this host must listen for pods.
    #[must_use]
    pub fn host_address(&self) -> Ipv4Addr {
        HOST
    }

    /// The directory with the logs of the programs of the cluster, `NAME.log`.
    #[must_use]
    pub fn logs(&self) -> &Path {
        self.scratch.path()
    }

    /// Fails with the end of the log if a program of the cluster has ended.
    pub fn check(&self) -> Result<()> {
        for process in &self.processes {
            if let Some(status) = process.exited()? {
                bail!("{} has ended ({status}); its log:\n{}", process.name(), process.log_tail());
            }
        }
        Ok(())
    }
}

/// Removes the remains of a cluster whose owner was killed. Fails while a cluster runs.
pub fn remove() -> Result<()> {
    let _lock = lock()?;
    cleanup::remove();
    Ok(())
}

fn lock() -> Result<File> {
    let failed = || format!("cannot lock {LOCK}");
    let mut lock =
        File::options().create(true).truncate(false).read(true).write(true).open(LOCK).with_context(failed)?;
    if lock.try_lock().is_err() {
        let mut owner = String::new();
        let _ = lock.read_to_string(&mut owner);
        bail!("process {} already runs a cluster, and a machine can have only one", owner.trim());
    }
    lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id())).with_context(failed)?;
    Ok(lock)
}
