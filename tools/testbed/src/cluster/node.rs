//! The node: containerd, the kubelet and kube-proxy.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::certificates::Identities;
use super::network::{self, NODE, PODS};
use super::ruins::{CGROUP, STATE, hierarchies};
use crate::process::{Process, output};
use crate::programs;

/// The node's name.
pub(super) const NAME: &str = "node";

pub(super) fn start_containerd(dir: &Path) -> Result<Process> {
    let program = programs::need(programs::on_path("containerd"), "containerd")?;
    let cni = dir.join("cni");
    fs::create_dir(&cni).with_context(|| format!("cannot make {}", cni.display()))?;
    write_json(&cni.join("10-node.conflist"), &pod_network())?;
    let config = dir.join("containerd.toml");
    write(&config, &containerd_config(&cni))?;
    let containerd = network::launch("containerd", &program, dir)?.args(["--config".as_ref(), config.as_os_str()]);
    Process::start(containerd)
}

/// Whether containerd takes commands.
pub(super) fn has_containerd() -> bool {
    ctr(&["version"]).is_ok()
}

/// Makes the image of every pod's sandbox known to the node.
pub(super) fn import_pause() -> Result<()> {
    import(&programs::need(programs::pause_image(), "the image of a pod's sandbox")?)
}

fn socket() -> String {
    format!("{STATE}/containerd.sock")
}

fn containerd_config(cni: &Path) -> String {
    // restrict_oom_score_adj: inside of a container, root may not protect a process from the kernel's memory killer.
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
        pause = programs::PAUSE_IMAGE,
        plugins = programs::CNI_PLUGINS,
        cni = cni.display(),
    )
}

/// Each pod has a link of its own to the node. A bridge would carry packets from pod to pod past the rules that
/// rewrite a Service's address, unless the host's kernel is told otherwise.
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

/// Makes the image of this archive known to the node.
pub(super) fn import(archive: &Path) -> Result<()> {
    let path = archive.to_str().with_context(|| format!("{} is no UTF-8", archive.display()))?;
    ctr(&["--namespace", "k8s.io", "images", "import", path]).map(drop)
}

fn ctr(args: &[&str]) -> Result<String> {
    let program = programs::need(programs::on_path("ctr"), "ctr")?;
    let socket = socket();
    output(&program, &[&["--address", &socket], args].concat(), None)
}

pub(super) fn start_kubelet(dir: &Path, identities: &Identities) -> Result<Process> {
    for hierarchy in hierarchies() {
        let cgroup = hierarchy.join(CGROUP);
        fs::create_dir_all(&cgroup).with_context(|| format!("cannot make {}", cgroup.display()))?;
    }
    let kubeconfig = dir.join("kubelet.kubeconfig");
    identities.kubeconfig(&kubeconfig, &format!("system:node:{NAME}"), "system:nodes")?;
    let config = dir.join("kubelet.json");
    write_json(&config, &kubelet_config(&identities.authority()))?;
    let program = programs::need(programs::node_program("kubelet"), "kubelet")?;
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
        // The machine's own names are none of a pod's business, and would differ from one machine to the next.
        "resolvConf": "",
        // No image could be fetched again, and a disk that is nearly full is the machine's usual state.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"nodefs.available": "1%", "imagefs.available": "1%", "memory.available": "50Mi"},
        "podLogsDir": format!("{STATE}/logs"),
    })
}

pub(super) fn start_proxy(dir: &Path, kubeconfig: &Path) -> Result<Process> {
    let program = programs::need(programs::node_program("kube-proxy"), "kube-proxy")?;
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
            // These limits are the host's, not the namespace's.
            "conntrack": {"maxPerCore": 0, "min": 0},
        }),
    )?;
    let proxy = network::launch("kube-proxy", &program, dir)?.args(["--config".as_ref(), config.as_os_str()]);
    Process::start(proxy)
}

/// Writes JSON, which those who read YAML read too.
pub(super) fn write_json(path: &Path, value: &Value) -> Result<()> {
    write(path, &format!("{value:#}\n"))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Makes the directory that everything is mounted in.
pub(super) fn make_state() -> Result<PathBuf> {
    let dir = PathBuf::from(STATE);
    fs::create_dir_all(dir.join("kubelet")).with_context(|| format!("cannot make {STATE}"))?;
    Ok(dir)
}
