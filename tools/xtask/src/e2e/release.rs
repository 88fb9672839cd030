//! The chart's life: install, upgrade, roll back, test, uninstall.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use testbed::progress::Step;

use super::stage::{NAMESPACE, Stage};
use crate::cargo;

const NAME: &str = "couponry";
const TIMEOUT: &str = "--timeout=5m";

impl Stage {
    /// Installs the chart and waits until all of it is ready.
    pub(super) fn install(&self) -> Result<()> {
        if self.kubectl.run(&["get", "namespace", NAMESPACE]).is_err() {
            self.kubectl.run(&["create", "namespace", NAMESPACE])?;
            let restricted = "pod-security.kubernetes.io/enforce=restricted";
            self.kubectl.run(&["label", "namespace", NAMESPACE, restricted])?;
        }
        self.helm("install", &["--values", &self.values(), "--wait", TIMEOUT])
    }

    /// Upgrades to other values.
    pub(super) fn upgrade(&self, sets: &[&str]) -> Result<()> {
        let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
        self.helm("upgrade", &[&["--values", &self.values(), "--wait", TIMEOUT], &sets[..]].concat())
    }

    /// Goes back to the revision before.
    pub(super) fn roll_back(&self) -> Result<()> {
        self.helm("rollback", &["--wait", TIMEOUT])
    }

    /// Runs the chart's own test.
    pub(super) fn test_release(&self) -> Result<()> {
        self.helm("test", &[TIMEOUT])
    }

    /// Uninstalls the chart and waits until its pods are gone.
    pub(super) fn uninstall(&self) -> Result<()> {
        self.helm("uninstall", &["--cascade", "foreground", "--wait", TIMEOUT])
    }

    fn values(&self) -> String {
        self.scratch().join(VALUES).display().to_string()
    }

    /// Runs helm; what it printed is shown when it fails.
    fn helm(&self, command: &str, args: &[&str]) -> Result<()> {
        let chart = cargo::root().join("charts/couponry").display().to_string();
        let chart = if matches!(command, "install" | "upgrade") { Some(chart.as_str()) } else { None };
        let step = Step::start(format!("helm {command}"));
        let head = [command, NAME].into_iter().chain(chart).chain(["--namespace", NAMESPACE]);
        self.cluster.helm(&head.chain(args.iter().copied()).collect::<Vec<_>>())?;
        step.done();
        Ok(())
    }
}

/// The file with the values, in the stage's scratch directory.
const VALUES: &str = "values.yaml";

/// Writes the values: servers outside of the cluster, whose addresses these are.
pub(super) fn write_values(scratch: &Path, redis: &str, postgres: &str, kafka: &str) -> Result<()> {
    let path = scratch.join(VALUES);
    // JSON is YAML.
    let text = format!("{:#}\n", values(redis, postgres, kafka));
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Servers outside of the cluster, and little of everything: the machine may be small.
fn values(redis: &str, postgres: &str, kafka: &str) -> serde_json::Value {
    let resources = |cpu: &str| json!({"requests": {"cpu": cpu, "memory": "32Mi"}, "limits": {"memory": "256Mi"}});
    json!({
        "image": {"pullPolicy": "Never"},
        "redis": {"mode": "external", "external": {"url": redis}},
        "postgres": {"mode": "external", "external": {"url": postgres}},
        "kafka": {"mode": "external", "external": {"brokers": kafka}, "topic": {"replication": 1, "minInsyncReplicas": 1}},
        "operator": {"resources": resources("20m")},
        "issuer": {
            "resources": resources("30m"),
            "autoscaling": {"enabled": true, "minReplicas": 2, "maxReplicas": 4, "targetCPUUtilizationPercentage": 60},
        },
        "consumer": {"resources": resources("20m"), "autoscaling": {"enabled": true, "minReplicas": 1, "maxReplicas": 3}},
        "ingress": {"enabled": true, "className": "contour"},
    })
}

/// The scene of leaving.
pub(super) fn farewell(stage: &Stage) -> Result<()> {
    let Stage { kubectl, .. } = stage;
    let event = "couponevent/goodbye";
    stage.ready("goodbye", &super::life::manifest("goodbye", 100))?;
    let coupon = stage.ask("goodbye", "anna")?;
    stage.uninstall()?;
    let left = kubectl.run(&["get", "all,configmaps,secrets,roles,rolebindings,hpa,pdb,ingress", "-o", "name"])?;
    let ours: Vec<&str> = left.lines().filter(|name| name.contains(NAME)).collect();
    ensure!(ours.is_empty(), "the uninstallation left {ours:?}");
    kubectl.get(&[event]).context("the event went with the chart")?;

    stage.install()?;
    stage.await_ready("goodbye")?;
    let again = stage.ask("goodbye", "anna")?;
    ensure!(again["couponKey"] == coupon["couponKey"], "anna had {coupon} and now has {again}");

    let step = Step::start("deleting the namespace, with the events in it");
    kubectl.run(&["delete", "namespace", kubectl.namespace(), "--timeout=180s"])?;
    step.done();
    Ok(())
}
