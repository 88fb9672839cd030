//! DNS, an ingress controller and resource metrics.
//!
//! They run as processes of the node and not in pods, so they need no images.

use std::path::Path;

use anyhow::{Context, Result};

use super::certificates::CONTEXT;
use super::network::{self, NODE};
use super::node::write_json;
use crate::http;
use crate::kubectl::{kubectl, wait_established};
use crate::process::{Process, output};
use crate::programs::envoy;
use crate::programs::go::{CONTOUR, COREDNS, METRICS_SERVER};
use crate::programs::locate::require;

/// The port on which Envoy accepts HTTP.
pub(super) const INGRESS_PORT: u16 = 8080;
const XDS_PORT: &str = "8001";
/// The port of the readiness endpoint of Envoy.
const ENVOY_HEALTH_PORT: u16 = 8002;
const DNS_HEALTH_PORT: u16 = 8003;
const METRICS_PORT: u16 = 4443;

/// Starts `CoreDNS`, which resolves the names of Services for pods.
pub(super) fn start_dns(dir: &Path, kubeconfig: &Path) -> Result<Process> {
    let program = require(COREDNS.find(), "coredns")?;
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

/// Whether `CoreDNS` is ready.
pub(super) fn dns_is_ready() -> bool {
    returns_200(DNS_HEALTH_PORT, "/ready")
}

fn returns_200(port: u16, path: &str) -> bool {
    http::get_at((NODE, port), path).is_some_and(|(status, _)| status == 200)
}

/// Starts Contour, which reads Ingresses and `HTTPRoute`s, and Envoy, which proxies the traffic.
pub(super) fn start_ingress(kubeconfig: &Path, dir: &Path) -> Result<[Process; 2]> {
    let program = require(CONTOUR.find(), "contour")?;
    for file in ["crds.yaml", "gateway-crds.yaml"] {
        let file = require(CONTOUR.file(file), "contour")?;
        kubectl(kubeconfig, &["apply", "--server-side", "--filename", &file.to_string_lossy()], None)?;
    }
    wait_established(kubeconfig, &["--all", "crd"])?;
    kubectl(kubeconfig, &["apply", "--filename", "-"], Some(include_str!("ingress.yaml")))?;

    let (bootstrap, config) = (dir.join("envoy.json"), dir.join("contour.json"));
    write_json(&config, &serde_json::json!({"gateway": {"gatewayRef": {"namespace": "ingress", "name": "ingress"}}}))?;
    let mut args = vec!["bootstrap".into(), bootstrap.display().to_string()];
    args.extend(["--xds-address=127.0.0.1".into(), format!("--xds-port={XDS_PORT}")]);
    args.push(format!("--admin-address={}", dir.join("envoy-admin.sock").display()));
    output(&program, &args, None)?;
    let contour = network::launch("contour", &program, dir)?
        .args(["serve", "--insecure", "--disable-leader-election"])
        .args(["--kubeconfig".as_ref(), kubeconfig.as_os_str()])
        .args(["--config-path".as_ref(), config.as_os_str()])
        .args(["--xds-address=127.0.0.1", &format!("--xds-port={XDS_PORT}"), "--stats-address=0.0.0.0"])
        .args([format!("--stats-port={ENVOY_HEALTH_PORT}"), "--envoy-service-http-address=0.0.0.0".into()])
        .args([format!("--envoy-service-http-port={INGRESS_PORT}")])
        .args([format!("--ingress-status-address={NODE}")]);
    let contour = Process::start(contour)?;
    let envoy = require(envoy::find(), "envoy")?;
    let envoy = network::launch("envoy", &envoy, dir)?
        .args(["-c".as_ref(), bootstrap.as_os_str()])
        .args(["--service-cluster", "ingress", "--service-node", "node", "--log-level", "warn"])
        // Avoids a collision of the shared memory with another Envoy on this machine.
        .args(["--use-dynamic-base-id"]);
    let envoy = Process::start(envoy)?;
    Ok([contour, envoy])
}

/// Whether Envoy has its configuration.
pub(super) fn ingress_is_ready() -> bool {
    returns_200(ENVOY_HEALTH_PORT, "/ready")
}

/// Starts metrics-server, which serves `kubectl top` and autoscalers. It has metrics of a pod about 30 seconds after
/// the start of the pod.
pub(super) fn start_metrics(kubeconfig: &Path, dir: &Path) -> Result<Process> {
    let program = require(METRICS_SERVER.find(), "metrics-server")?;
    let manifest = include_str!("metrics.yaml")
        .replace("NODE_ADDRESS", &NODE.to_string())
        .replace("METRICS_PORT", &METRICS_PORT.to_string());
    kubectl(kubeconfig, &["apply", "--filename", "-"], Some(&manifest))?;
    let kubeconfig = kubeconfig.display();
    Process::start(
        network::launch("metrics-server", &program, dir)?
            .args([format!("--kubeconfig={kubeconfig}"), format!("--authentication-kubeconfig={kubeconfig}")])
            .args([format!("--authorization-kubeconfig={kubeconfig}"), format!("--secure-port={METRICS_PORT}")])
            .args([format!("--bind-address={NODE}"), format!("--cert-dir={}", dir.join("metrics-server").display())])
            // The certificate of the kubelet is self-signed; 10 seconds is the minimal resolution.
            .args(["--kubelet-insecure-tls", "--kubelet-preferred-address-types=InternalIP"])
            .args(["--metric-resolution=10s", "--kubelet-request-timeout=5s"]),
    )
}
