//! The chart's life: install, upgrade, roll back, test, uninstall.

use anyhow::{Context, Result, ensure};
use couponry_testbed::progress::Step;

use super::stage::Stage;
use crate::beside::{self, NAMESPACE, RELEASE};

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
        self.beside.values().display().to_string()
    }

    /// Runs helm; what it printed is shown when it fails.
    fn helm(&self, command: &str, args: &[&str]) -> Result<()> {
        let chart = beside::chart().display().to_string();
        let chart = if matches!(command, "install" | "upgrade") { Some(chart.as_str()) } else { None };
        let step = Step::start(format!("helm {command}"));
        let head = [command, RELEASE].into_iter().chain(chart).chain(["--namespace", NAMESPACE]);
        self.cluster.helm(&head.chain(args.iter().copied()).collect::<Vec<_>>())?;
        step.done();
        Ok(())
    }
}

/// The scene of leaving.
pub(super) fn farewell(stage: &Stage) -> Result<()> {
    let Stage { kubectl, .. } = stage;
    let event = "couponevent/goodbye";
    stage.ready("goodbye", &super::life::manifest("goodbye", 100))?;
    let coupon = stage.ask("goodbye", "anna")?;
    stage.uninstall()?;
    let left = kubectl.run(&["get", "all,configmaps,secrets,roles,rolebindings,hpa,pdb,ingress", "-o", "name"])?;
    let ours: Vec<&str> = left.lines().filter(|name| name.contains(RELEASE)).collect();
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
