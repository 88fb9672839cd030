//! Pod objects for programs that run on this machine instead of on a node.

use std::path::Path;

use anyhow::Result;
use serde_json::json;

use crate::kubectl::kubectl;

/// From a block for documentation: the network of pods ignores the address (see `pod_network`).
const ADDRESS: &str = "192.0.2.1";

/// A program as a pod of a release of the chart.
#[derive(Debug, Clone, Copy)]
pub struct PodOf<'a> {
    /// The name of the pod.
    pub name: &'a str,
    /// The component: `operator`, `issuer`, `consumer` or `redeemer`.
    pub component: &'a str,
    /// The port of `/metrics` of the program, on loopback.
    pub monitor_port: u16,
}

impl PodOf<'_> {
    /// Creates the pod, with the labels of the chart. It is running and ready.
    pub fn create(&self, kubeconfig: &Path, namespace: &str) -> Result<()> {
        let Self { name, component, monitor_port } = self;
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": namespace,
                "labels": {
                    "app.kubernetes.io/name": "couponry",
                    "app.kubernetes.io/instance": "couponry",
                    "app.kubernetes.io/component": component,
                    "app.kubernetes.io/part-of": "couponry",
                    "couponry.dev/monitored": "true",
                },
            },
            "spec": {
                "containers": [{
                    "name": component,
                    "image": format!("couponry-{component}"),
                    "ports": [{"name": "monitor", "containerPort": monitor_port}],
                }],
            },
        });
        kubectl(kubeconfig, &["create", "-f", "-"], Some(&pod.to_string()))?;
        let status = json!({"status": {
            "phase": "Running",
            "podIP": ADDRESS,
            "podIPs": [{"ip": ADDRESS}],
            "conditions": [{"type": "Ready", "status": "True"}],
        }});
        let patch = status.to_string();
        kubectl(kubeconfig, &["patch", "pod", name, "-n", namespace, "--subresource=status", "-p", &patch], None)?;
        Ok(())
    }
}
