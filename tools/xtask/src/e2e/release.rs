//! The Helm release: install, upgrade, roll back, test, uninstall.

use anyhow::{Context, Result, ensure};
use couponry_testbed::progress::Step;

use super::environment::Environment;
use crate::cluster_backends::{self, NAMESPACE, RELEASE};

const TIMEOUT: &str = "--timeout=5m";

impl Environment {
    /// Installs the chart and waits until it is ready.
    pub(super) fn install(&self) -> Result<()> {
        if self.kubectl.run(&["get", "namespace", NAMESPACE]).is_err() {
            self.kubectl.run(&["create", "namespace", NAMESPACE])?;
            let restricted = "pod-security.kubernetes.io/enforce=restricted";
            self.kubectl.run(&["label", "namespace", NAMESPACE, restricted])?;
        }
        self.helm("install", &["--values", &self.values(), "--wait", TIMEOUT])
    }

    /// Upgrades the release with additional values.
    pub(super) fn upgrade(&self, sets: &[&str]) -> Result<()> {
        let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
        self.helm("upgrade", &[&["--values", &self.values(), "--wait", TIMEOUT], &sets[..]].concat())
    }

    /// Rolls back to the previous revision.
    pub(super) fn roll_back(&self) -> Result<()> {
        self.helm("rollback", &["--wait", TIMEOUT])
    }

    /// Runs the test of the chart.
    pub(super) fn test_release(&self) -> Result<()> {
        self.helm("test", &[TIMEOUT])
    }

    /// Uninstalls the chart and waits until its pods are deleted.
    pub(super) fn uninstall(&self) -> Result<()> {
        self.helm("uninstall", &["--cascade", "foreground", "--wait", TIMEOUT])
    }

    fn values(&self) -> String {
        self.backends.values().display().to_string()
    }

    /// Runs helm. The output is printed only on failure.
    fn helm(&self, command: &str, args: &[&str]) -> Result<()> {
        let chart = cluster_backends::chart().display().to_string();
        let chart = if matches!(command, "install" | "upgrade") { Some(chart.as_str()) } else { None };
        let step = Step::start(format!("helm {command}"));
        let head = [command, RELEASE].into_iter().chain(chart).chain(["--namespace", NAMESPACE]);
        self.cluster.helm(&head.chain(args.iter().copied()).collect::<Vec<_>>())?;
        step.done();
        Ok(())
    }
}

/// Uninstalls and reinstalls the chart, and deletes the namespace.
pub(super) fn uninstall(environment: &Environment) -> Result<()> {
    let Environment { kubectl, .. } = environment;
    let event = "couponevent/uninstall";
    environment.apply_event("uninstall", &super::lifecycle::manifest("uninstall", 100))?;
    let coupon = environment.issue("uninstall", "anna")?;
    environment.uninstall()?;
    let remaining = kubectl.run(&["get", "all,configmaps,secrets,roles,rolebindings,hpa,pdb,ingress", "-o", "name"])?;
    let ours: Vec<&str> = remaining.lines().filter(|name| name.contains(RELEASE)).collect();
    ensure!(ours.is_empty(), "helm uninstall did not delete {ours:?}");
    kubectl.get(&[event]).context("helm uninstall deleted the event")?;

    environment.install()?;
    environment.wait_ready("uninstall")?;
    let again = environment.issue("uninstall", "anna")?;
    ensure!(again["couponKey"] == coupon["couponKey"], "anna received {coupon} and after the reinstallation {again}");

    let step = Step::start("deleting the namespace with its events");
    kubectl.run(&["delete", "namespace", kubectl.namespace(), "--timeout=180s"])?;
    step.done();
    Ok(())
}
