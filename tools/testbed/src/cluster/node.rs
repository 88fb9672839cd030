//! The node: containerd, the kubelet and kube-proxy.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::certificates::Identities;
use super::cleanup::{CGROUP, STATE, hierarchies};
use super::network::{self, NODE, PODS};
use crate::path::on_path;
use crate::process::{Process, output};
use crate::programs::locate::{CNI_PLUGINS, require};
use crate::programs::{kubernetes, pause};

/// The name of the node.
pub(super) const NAME: &str = "node";

pub(super) fn start_containerd(dir: &Path) -> Result<Process> {
    let program = require(on_path("containerd"), "containerd")?;
    let cni = dir.join("cni");
    fs::create_dir(&cni).with_context(|| format!("cannot create {}", cni.display()))?;
    write_json(&cni.join("10-node.conflist"), &pod_network())?;
    let config = dir.join("containerd.toml");
    write(&config, &containerd_config(&cni))?;
    let containerd = network::launch("containerd", &program, dir)?.args(["--config".as_ref(), config.as_os_str()]);
    Process::start(containerd)
}

/// Whether containerd is ready.
pub(super) fn containerd_is_ready() -> bool {
    ctr(&["version"]).is_ok()
}

/// Imports the image of pod sandboxes.
pub(super) fn import_pause() -> Result<()> {
    import(&require(pause::find(), "the image of pod sandboxes")?)
}

fn socket() -> String {
    format!("{STATE}/containerd.sock")
}

fn containerd_config(cni: &Path) -> String {
    // restrict_oom_score_adj: root in a container may not lower the OOM score of a process.
    format!(
        r#"version = 2
root = "{STATE}/containerd"
state = "{STATE}/run"
[grpc]
  address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{STATE}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{cni}"
"#,
        socket = socket(),
        pause = pause::IMAGE,
        plugins = CNI_PLUGINS,
        cni = cni.display(),
    )
}

/// Each pod has a point-to-point link to the node. Packets on a bridge would bypass the iptables rules of Services,
/// unless a setting of the kernel of the host is changed.
fn pod_network() -> Value {
    json!({
        "cniVersion": "0.4.0",
        "name": network::NAME,
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": false,
                "ipam": {
                    "type": "host-local",
                    "dataDir": format!("{STATE}/addresses"),
                    "ranges": [[{"subnet": PODS}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
}

/// Imports the image of this archive.
pub(super) fn import(archive: &Path) -> Result<()> {
    let path = archive.to_str().with_context(|| format!("{} is not valid UTF-8", archive.display()))?;
    ctr(&["--namespace", "k8s.io", "images", "import", path]).map(drop)
}

fn ctr(args: &[&str]) -> Result<String> {
    let program = require(on_path("ctr"), "ctr")?;
    let socket = socket();
    output(&program, &[&["--address", &socket], args].concat(), None)
}

pub(super) fn start_kubelet(dir: &Path, identities: &Identities) -> Result<Process> {
    for hierarchy in hierarchies() {
        let cgroup = hierarchy.join(CGROUP);
        fs::create_dir_all(&cgroup).with_context(|| format!("cannot create {}", cgroup.display()))?;
    }
    let kubeconfig = dir.join("kubelet.kubeconfig");
    identities.kubeconfig(&kubeconfig, &format!("system:node:{NAME}"), "system:nodes")?;
    let config = dir.join("kubelet.json");
    write_json(&config, &kubelet_config(&identities.authority()))?;
    let program = require(kubernetes::node_program("kubelet"), "kubelet")?;
    Process::start(
        network::launch("kubelet", &program, dir)?
            .args(["--config".as_ref(), config.as_os_str(), "--kubeconfig".as_ref(), kubeconfig.as_os_str()])
            .args([format!("--root-dir={STATE}/kubelet"), format!("--cert-dir={STATE}/kubelet/pki")])
            .args([format!("--hostname-override={NAME}"), format!("--node-ip={NODE}")]),
    )
}

fn kubelet_config(authority: &Path) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": NODE,
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": authority},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{CGROUP}"),
        "clusterDNS": [NODE],
        "clusterDomain": "cluster.local",
        "containerRuntimeEndpoint": format!("unix://{}", socket()),
        "failCgroupV1": false,
        "failSwapOn": false,
        // The DNS settings of the host do not apply to pods, and differ between machines.
        "resolvConf": "",
        // Images cannot be pulled again, so a nearly full disk must not remove them.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"nodefs.available": "1%", "imagefs.available": "1%", "memory.available": "50Mi"},
        "podLogsDir": format!("{STATE}/logs"),
    })
}

pub(super) fn start_proxy(dir: &Path, kubeconfig: &Path) -> Result<Process> {
    let program = require(kubernetes::node_program("kube-proxy"), "kube-proxy")?;
    let config = dir.join("kube-proxy.json");
    write_json(
        &config,
        &json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "iptables",
            "clientConnection": {"kubeconfig": kubeconfig},
            "hostnameOverride": NAME,
            "clusterCIDR": PODS,
            // These limits belong to the host and must not be changed.
            "conntrack": {"maxPerCore": 0, "min": 0},
        }),
    )?;
    let proxy = network::launch("kube-proxy", &program, dir)?.args(["--config".as_ref(), config.as_os_str()]);
    Process::start(proxy)
}

/// Writes JSON, which YAML parsers accept too.
pub(super) fn write_json(path: &Path, value: &Value) -> Result<()> {
    write(path, &format!("{value:#}\n"))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Creates the directory of all mounts.
pub(super) fn create_state_dir() -> Result<PathBuf> {
    let dir = PathBuf::from(STATE);
    fs::create_dir_all(dir.join("kubelet")).with_context(|| format!("cannot create {STATE}"))?;
    Ok(dir)
}
