//! The control plane: etcd, the API server, the controller manager and the scheduler.

use std::path::Path;

use anyhow::Result;

use super::certificates::Identities;
use super::network::{self, API_SERVICE, NODE, SERVICES};
use crate::process::{Launch, Process};
use crate::programs::kubernetes;
use crate::programs::locate::{etcd, require};

const ETCD: &str = "http://127.0.0.1:2379";

pub(super) fn start_etcd(dir: &Path) -> Result<Process> {
    let program = require(etcd(), "etcd")?;
    Process::start(
        network::launch("etcd", &program, dir)?
            .args(["--data-dir".as_ref(), dir.join("etcd").as_os_str()])
            .args(["--listen-client-urls", ETCD, "--advertise-client-urls", ETCD])
            .args(["--listen-peer-urls", "http://127.0.0.1:2380"]),
    )
}

pub(super) fn start_api_server(dir: &Path, identities: &Identities) -> Result<Process> {
    let (program, _) = require(kubernetes::find(), "kube-apiserver")?;
    let (node, service) = (NODE.to_string(), API_SERVICE.to_string());
    let names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"];
    let addresses = [&names[..], &["127.0.0.1", &node, &service]].concat();
    let server = identities.server("kube-apiserver", &addresses)?;
    // The client certificates for the kubelet and for metrics-server.
    let kubelet_client = identities.user("kubelet-client", "system:masters")?;
    let proxy = identities.user("front-proxy", "none")?;
    let authority = identities.authority();
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
            .args([file("service-account-key-file", identities.token_public_key())])
            .args([file("service-account-signing-key-file", identities.token_key())])
            .args(["--service-account-issuer=https://kubernetes.default.svc"])
            // Aggregated API servers, such as metrics-server, authenticate this API server with these settings.
            .args([
                file("requestheader-client-ca-file", &authority),
                "--requestheader-allowed-names=front-proxy".into(),
            ])
            .args(["--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group"])
            .args(["--requestheader-extra-headers-prefix=X-Remote-Extra-", "--enable-aggregator-routing=true"])
            .args([file("proxy-client-cert-file", &proxy.certificate), file("proxy-client-key-file", &proxy.key)]),
    )
}

/// Starts the controller manager and the scheduler. The API server must be ready.
pub(super) fn start_controllers(dir: &Path, identities: &Identities) -> Result<Vec<Process>> {
    let controllers = with_kubeconfig("kube-controller-manager", dir, identities)?
        .args([
            format!("--service-account-private-key-file={}", identities.token_key().display()),
            format!("--root-ca-file={}", identities.authority().display()),
        ])
        .args(["--use-service-account-credentials", "--leader-elect=false"])
        // Autoscalers react within a minute instead of the default of five.
        .args(["--horizontal-pod-autoscaler-sync-period=5s", "--horizontal-pod-autoscaler-initial-readiness-delay=5s"])
        .args(["--horizontal-pod-autoscaler-cpu-initialization-period=15s"]);
    let scheduler = with_kubeconfig("kube-scheduler", dir, identities)?.args(["--leader-elect=false"]);
    Ok(vec![Process::start(controllers)?, Process::start(scheduler)?])
}

/// A program of Kubernetes with a kubeconfig for the user of the same name.
fn with_kubeconfig(name: &str, dir: &Path, identities: &Identities) -> Result<Launch> {
    let program = require(kubernetes::node_program(name), name)?;
    let kubeconfig = dir.join(format!("{name}.kubeconfig"));
    identities.kubeconfig(&kubeconfig, &format!("system:{name}"), "none")?;
    Ok(network::launch(name, &program, dir)?.args(["--kubeconfig".as_ref(), kubeconfig.as_os_str()]))
}
