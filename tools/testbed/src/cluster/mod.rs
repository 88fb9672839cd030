//! A whole Kubernetes of one node, with pods, Services, names, an ingress and measurements.
//!
//! Everything is real: etcd, the API server, the controllers and the scheduler, containerd, the kubelet and kube-proxy,
//! `CoreDNS`, Contour with Envoy, and metrics-server.
//!
//! # Network
//! All of it runs in one network namespace with one link to the host, and in no other way does it touch the host's
//! network. The host reaches the node at [`NODE`], pods and Services at their own addresses; pods reach the host at
//! [`HOST`], where a server must listen that they are to use. There is no way out to any other network, so every image
//! that a pod runs must be [imported](Cluster::import) first. Nothing enforces `NetworkPolicy`.
//!
//! # Its end
//! It needs root, and there is one at a time on a machine. Dropping the [`Cluster`] or a signal removes it with its
//! containers, mounts and cgroups, as [`crate::process`] promises for its programs. When its owner is killed with -9
//! the programs die with it, and the next cluster removes what is left.

mod addons;
mod certificates;
mod control;
mod network;
mod node;
mod ruins;

use std::fs::File;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::process::{Process, output};
use crate::progress::Step;
use crate::scratch::Scratch;
use crate::undo::Undo;
use crate::{kubernetes, programs};
use certificates::Identities;

pub use network::{HOST, NODE, PODS, SERVICES};

/// How long each part may take to get ready. Generous: the machines are shared.
const READY: Duration = Duration::from_mins(3);
/// Held by the owner of the machine's cluster.
const LOCK: &str = "/run/couponry-node.lock";

/// A running cluster. Dropping it removes it.
#[derive(Debug)]
pub struct Cluster {
    processes: Vec<Process>,
    kubeconfig: PathBuf,
    // The cluster is removed once its own programs are stopped, and then the next one may come.
    _removed: Undo,
    identities: Identities,
    scratch: Scratch,
    _lock: File,
}

impl Cluster {
    /// Starts it and waits until pods can run, names are answered and the ingress takes requests.
    pub fn start() -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            bail!("a cluster needs root: it makes network namespaces, mounts and cgroups");
        }
        let lock = lock()?;
        let step = Step::start("starting a Kubernetes cluster");
        ruins::remove();
        let scratch = Scratch::new("cluster")?;
        let removed = Undo::new(ruins::remove);
        let kubeconfig = scratch.path().join("kubeconfig");
        let identities = Identities::new(scratch.path())?;
        let processes = Vec::new();
        let mut cluster = Self { processes, kubeconfig, _removed: removed, identities, scratch, _lock: lock };
        cluster.start_all()?;
        step.done_with("a Kubernetes cluster is up, with an ingress and measurements");
        Ok(cluster)
    }

    fn start_all(&mut self) -> Result<()> {
        let dir = self.scratch.path().to_owned();
        network::make()?;
        node::make_state()?;
        self.identities.kubeconfig(&self.kubeconfig, "admin", "system:masters")?;
        self.processes.push(control::start_etcd(&dir)?);
        self.processes.push(control::start_api_server(&dir, &self.identities)?);
        self.processes.push(node::start_containerd(&dir)?);
        self.wait("containerd", node::has_containerd)?;
        node::import_pause()?;
        self.wait("the API server", || self.kubectl(&["get", "--raw", "/readyz"]).is_ok())?;
        self.processes.extend(control::start_controllers(&dir, &self.identities)?);
        self.processes.push(node::start_kubelet(&dir, &self.identities)?);
        self.processes.push(node::start_proxy(&dir, &self.kubeconfig)?);
        self.processes.push(addons::start_dns(&dir, &self.kubeconfig)?);
        self.processes.push(addons::start_metrics(self, &dir)?);
        self.processes.extend(addons::start_ingress(self, &dir)?);
        let ready = ["wait", "--for=condition=Ready", "--timeout=1s", "node", node::NAME];
        self.wait("the node", || self.kubectl(&ready).is_ok())?;
        self.wait("CoreDNS", addons::has_names)?;
        self.wait("Envoy", addons::has_ingress)?;
        // A controller makes it; before, no pod of the namespace is let in.
        self.wait("the service account of pods", || self.kubectl(&["get", "serviceaccount", "default"]).is_ok())
    }

    /// Waits until `ready` says so. Fails when one of the cluster's own programs ends before.
    fn wait(&self, what: &str, ready: impl Fn() -> bool) -> Result<()> {
        let deadline = Instant::now() + READY;
        while !ready() {
            self.check()?;
            if Instant::now() > deadline {
                bail!(
                    "{what} is not ready after {READY:?}; COUPONRY_KEEP_SCRATCH=1 keeps the logs in {}",
                    self.logs().display()
                );
            }
            // Most questions are a process, and all processors are busy with what they ask about.
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    /// A kubeconfig of the administrator.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Runs kubectl as the administrator and returns what it printed.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        kubernetes::kubectl(&self.kubeconfig, args, None)
    }

    /// Runs kubectl with `input` as its standard input, for `kubectl apply -f -`.
    pub fn kubectl_with(&self, args: &[&str], input: &str) -> Result<String> {
        kubernetes::kubectl(&self.kubeconfig, args, Some(input))
    }

    /// Runs helm as the administrator and returns what it printed. It knows no repository but the files of this machine.
    pub fn helm(&self, args: &[&str]) -> Result<String> {
        let helm = programs::need(programs::HELM.find(), "helm")?;
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

    /// Gives the node an image: an archive in the format of `docker save`.
    pub fn import(&self, archive: &Path) -> Result<()> {
        node::import(archive).with_context(|| format!("cannot import {}", archive.display()))
    }

    /// Kills the programs of a pod with -9. The kubelet starts them again unless the pod is deleted.
    pub fn kill9(&self, pod: &str) -> Result<()> {
        ensure!(ruins::kill9(pod) > 0, "nothing runs in the pod {pod}");
        Ok(())
    }

    /// `http://NODE:PORT`, where Envoy takes requests for every Ingress (class `contour`) and every `HTTPRoute` of the
    /// Gateway `ingress` in the namespace `ingress`. Which one a request means, its Host header says.
    #[must_use]
    pub fn ingress_url(&self) -> String {
        format!("http://{NODE}:{}", addons::INGRESS_PORT)
    }

    /// Where pods reach servers that run on this host and listen there.
    #[must_use]
    pub fn host_address(&self) -> Ipv4Addr {
        HOST
    }

    /// The directory with the logs of the cluster's own programs, `NAME.log`.
    #[must_use]
    pub fn logs(&self) -> &Path {
        self.scratch.path()
    }

    /// Fails with the end of its log when one of the cluster's own programs has ended.
    pub fn check(&self) -> Result<()> {
        for process in &self.processes {
            if let Some(status) = process.exited()? {
                bail!("{} has ended ({status}); its log:\n{}", process.name(), process.log_tail());
            }
        }
        Ok(())
    }

    /// How a namespace is: its pods, what Kubernetes says of them, and the end of what each of them printed.
    #[must_use]
    pub fn account(&self, namespace: &str) -> String {
        let ask = |args: &[&str]| {
            let answer = self.kubectl(&[&["--namespace", namespace], args].concat());
            let answer = answer.unwrap_or_else(|e| format!("{e:#}"));
            format!("$ kubectl {}\n{}\n\n", args.join(" "), answer.trim_end())
        };
        let mut text = ask(&["get", "all", "--output=wide"]);
        text += &ask(&["get", "events", "--sort-by=.lastTimestamp"]);
        let pods = self.kubectl(&["--namespace", namespace, "get", "pods", "--output=name"]).unwrap_or_default();
        for pod in pods.lines() {
            text += &ask(&["logs", "--all-containers", "--tail=30", "--prefix=false", pod]);
            text += &ask(&["logs", "--all-containers", "--tail=30", "--previous", pod]);
        }
        text
    }
}

/// Removes what a cluster has left behind whose owner was killed. Fails while one is up.
pub fn remove() -> Result<()> {
    let _lock = lock()?;
    ruins::remove();
    Ok(())
}

fn lock() -> Result<File> {
    let failed = || format!("cannot lock {LOCK}");
    let mut lock =
        File::options().create(true).truncate(false).read(true).write(true).open(LOCK).with_context(failed)?;
    if lock.try_lock().is_err() {
        let mut owner = String::new();
        let _ = lock.read_to_string(&mut owner);
        bail!("there is a cluster on this machine already, of process {}; only one can be", owner.trim());
    }
    lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id())).with_context(failed)?;
    Ok(lock)
}
