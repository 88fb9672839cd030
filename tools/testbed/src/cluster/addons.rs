//! What runs on every useful cluster: names, an ingress, and measurements.
//!
//! They run beside the cluster's own programs and not in pods, so that nobody has to make images of them.

use std::path::Path;

use anyhow::{Context, Result};

use super::Cluster;
use super::certificates::CONTEXT;
use super::network::{self, NODE};
use super::node::write_json;
use crate::process::{Process, output};
use crate::{http, programs};

/// The port on which Envoy takes HTTP.
pub(super) const INGRESS_PORT: u16 = 8080;
const XDS_PORT: &str = "8001";
/// Where Envoy says that it has its configuration.
const ENVOY_HEALTH_PORT: u16 = 8002;
const DNS_HEALTH_PORT: u16 = 8003;
const METRICS_PORT: u16 = 4443;

/// `CoreDNS`: the names of Services and pods, for pods.
pub(super) fn start_dns(dir: &Path, kubeconfig: &Path) -> Result<Process> {
    let program = programs::need(programs::COREDNS.find(), "coredns")?;
    let corefile = dir.join("Corefile");
    let text = format!(
        ".:53 {{
    bind {NODE}
    errors
    ready {NODE}:{DNS_HEALTH_PORT}
    kubernetes cluster.local {{
        kubeconfig {} {CONTEXT}
    }}
}}
",
        kubeconfig.display()
    );
    std::fs::write(&corefile, text).with_context(|| format!("cannot write {}", corefile.display()))?;
    Process::start(network::launch("coredns", &program, dir)?.args(["-conf".as_ref(), corefile.as_os_str()]))
}

/// Whether names are answered.
pub(super) fn has_names() -> bool {
    answers(DNS_HEALTH_PORT, "/ready")
}

fn answers(port: u16, path: &str) -> bool {
    http::get_at((NODE, port), path).is_some_and(|(status, _)| status == 200)
}

/// Contour, which reads Ingresses and `HTTPRoute`s, and Envoy, which carries the traffic.
pub(super) fn start_ingress(cluster: &Cluster, dir: &Path) -> Result<[Process; 2]> {
    let program = programs::need(programs::CONTOUR.find(), "contour")?;
    for file in ["crds.yaml", "gateway-crds.yaml"] {
        let file = programs::need(programs::CONTOUR.file(file), "contour")?;
        cluster.kubectl(&["apply", "--server-side", "--filename", &file.to_string_lossy()])?;
    }
    cluster.kubectl(&["wait", "--for=condition=Established", "--all", "crd", "--timeout=60s"])?;
    cluster.kubectl_with(&["apply", "--filename", "-"], include_str!("ingress.yaml"))?;

    let (bootstrap, config) = (dir.join("envoy.json"), dir.join("contour.json"));
    write_json(&config, &serde_json::json!({"gateway": {"gatewayRef": {"namespace": "ingress", "name": "ingress"}}}))?;
    let mut args = vec!["bootstrap".into(), bootstrap.display().to_string()];
    args.extend(["--xds-address=127.0.0.1".into(), format!("--xds-port={XDS_PORT}")]);
    args.push(format!("--admin-address={}", dir.join("envoy-admin.sock").display()));
    output(&program, &args, None)?;
    let contour = network::launch("contour", &program, dir)?
        .args(["serve", "--insecure", "--disable-leader-election"])
        .args(["--kubeconfig".as_ref(), cluster.kubeconfig().as_os_str()])
        .args(["--config-path".as_ref(), config.as_os_str()])
        .args(["--xds-address=127.0.0.1", &format!("--xds-port={XDS_PORT}"), "--stats-address=0.0.0.0"])
        .args([format!("--stats-port={ENVOY_HEALTH_PORT}"), "--envoy-service-http-address=0.0.0.0".into()])
        .args([format!("--envoy-service-http-port={INGRESS_PORT}")])
        .args([format!("--ingress-status-address={NODE}")]);
    let contour = Process::start(contour)?;
    let envoy = programs::need(programs::envoy(), "envoy")?;
    let envoy = network::launch("envoy", &envoy, dir)?
        .args(["-c".as_ref(), bootstrap.as_os_str()])
        .args(["--service-cluster", "ingress", "--service-node", "node", "--log-level", "warn"])
        // A number of its own for its shared memory, beside any other Envoy of this machine.
        .args(["--use-dynamic-base-id"]);
    let envoy = Process::start(envoy)?;
    Ok([contour, envoy])
}

/// Whether Envoy has its configuration.
pub(super) fn has_ingress() -> bool {
    answers(ENVOY_HEALTH_PORT, "/ready")
}

/// metrics-server: `kubectl top`, and what an autoscaler goes by. It has measured a pod some 30 seconds after its start.
pub(super) fn start_metrics(cluster: &Cluster, dir: &Path) -> Result<Process> {
    let program = programs::need(programs::METRICS_SERVER.find(), "metrics-server")?;
    let manifest = include_str!("metrics.yaml")
        .replace("NODE_ADDRESS", &NODE.to_string())
        .replace("METRICS_PORT", &METRICS_PORT.to_string());
    cluster.kubectl_with(&["apply", "--filename", "-"], &manifest)?;
    let kubeconfig = cluster.kubeconfig().display();
    Process::start(
        network::launch("metrics-server", &program, dir)?
            .args([format!("--kubeconfig={kubeconfig}"), format!("--authentication-kubeconfig={kubeconfig}")])
            .args([format!("--authorization-kubeconfig={kubeconfig}"), format!("--secure-port={METRICS_PORT}")])
            .args([format!("--bind-address={NODE}"), format!("--cert-dir={}", dir.join("metrics-server").display())])
            // The kubelet signs its own certificate; 10 seconds is the shortest that is allowed.
            .args(["--kubelet-insecure-tls", "--kubelet-preferred-address-types=InternalIP"])
            .args(["--metric-resolution=10s", "--kubelet-request-timeout=5s"]),
    )
}
