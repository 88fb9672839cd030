//! The control plane: etcd, the API server, the controllers and the scheduler.

use std::path::Path;

use anyhow::Result;

use super::certificates::Identities;
use super::network::{self, API_SERVICE, NODE, SERVICES};
use crate::process::{Launch, Process};
use crate::programs;

const ETCD: &str = "http://127.0.0.1:2379";

pub(super) fn start_etcd(dir: &Path) -> Result<Process> {
    let program = programs::need(programs::etcd(), "etcd")?;
    Process::start(
        network::launch("etcd", &program, dir)?
            .args(["--data-dir".as_ref(), dir.join("etcd").as_os_str()])
            .args(["--listen-client-urls", ETCD, "--advertise-client-urls", ETCD])
            .args(["--listen-peer-urls", "http://127.0.0.1:2380"]),
    )
}

pub(super) fn start_api_server(dir: &Path, identities: &Identities) -> Result<Process> {
    let (program, _) = programs::need(programs::kubernetes(), "kube-apiserver")?;
    let names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(|n| format!("DNS:{n}"));
    let addresses = format!("{},IP:127.0.0.1,IP:{NODE},IP:{API_SERVICE}", names.join(","));
    let server = identities.server("kube-apiserver", &addresses)?;
    // It speaks to the kubelet as one, and passes requests on to metrics-server as the other.
    let kubelet_client = identities.user("kubelet-client", "system:masters")?;
    let proxy = identities.user("front-proxy", "none")?;
    let (authority, token_key) = (identities.authority(), identities.token_key());
    let file = |flag: &str, path: &Path| format!("--{flag}={}", path.display());
    Process::start(
        network::launch("kube-apiserver", &program, dir)?
            .args([format!("--etcd-servers={ETCD}"), format!("--service-cluster-ip-range={SERVICES}")])
            .args([format!("--bind-address={NODE}"), format!("--advertise-address={NODE}")])
            .args(["--secure-port=6443", "--authorization-mode=Node,RBAC", "--allow-privileged"])
            .args([file("client-ca-file", &authority), file("tls-cert-file", &server.certificate)])
            .args([file("tls-private-key-file", &server.key)])
            .args([file("kubelet-client-certificate", &kubelet_client.certificate)])
            .args([file("kubelet-client-key", &kubelet_client.key)])
            .args(["--kubelet-preferred-address-types=InternalIP"])
            .args([file("service-account-key-file", token_key)])
            .args([file("service-account-signing-key-file", token_key)])
            .args(["--service-account-issuer=https://kubernetes.default.svc"])
            // What an API server of somebody else, such as metrics-server, needs to trust this one.
            .args([
                file("requestheader-client-ca-file", &authority),
                "--requestheader-allowed-names=front-proxy".into(),
            ])
            .args(["--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group"])
            .args(["--requestheader-extra-headers-prefix=X-Remote-Extra-", "--enable-aggregator-routing=true"])
            .args([file("proxy-client-cert-file", &proxy.certificate), file("proxy-client-key-file", &proxy.key)]),
    )
}

/// The controllers and the scheduler, once the API server is ready.
pub(super) fn start_controllers(dir: &Path, identities: &Identities) -> Result<Vec<Process>> {
    let controllers = with_kubeconfig("kube-controller-manager", dir, identities)?
        .args([
            format!("--service-account-private-key-file={}", identities.token_key().display()),
            format!("--root-ca-file={}", identities.authority().display()),
        ])
        .args(["--use-service-account-credentials", "--leader-elect=false"])
        // An autoscaler is to be seen at work in a minute, not in the usual five.
        .args(["--horizontal-pod-autoscaler-sync-period=5s", "--horizontal-pod-autoscaler-initial-readiness-delay=5s"])
        .args(["--horizontal-pod-autoscaler-cpu-initialization-period=15s"]);
    let scheduler = with_kubeconfig("kube-scheduler", dir, identities)?.args(["--leader-elect=false"]);
    Ok(vec![Process::start(controllers)?, Process::start(scheduler)?])
}

/// A program of Kubernetes that acts as the user of its name.
fn with_kubeconfig(name: &str, dir: &Path, identities: &Identities) -> Result<Launch> {
    let program = programs::need(programs::node_program(name), name)?;
    let kubeconfig = dir.join(format!("{name}.kubeconfig"));
    identities.kubeconfig(&kubeconfig, &format!("system:{name}"), "none")?;
    Ok(network::launch(name, &program, dir)?.args(["--kubeconfig".as_ref(), kubeconfig.as_os_str()]))
}
