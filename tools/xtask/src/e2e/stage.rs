//! What the scenes are played on: a cluster, servers outside of it, and the images inside.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use couponry_testbed::Cluster;
use couponry_testbed::progress::Step;

use crate::beside::{Beside, NAMESPACE};
use crate::kubectl::Kubectl;
use crate::{cargo, images};

/// Dropping it takes all of it down.
pub(super) struct Stage {
    pub(super) kubectl: Kubectl,
    pub(super) beside: Beside,
    pub(super) cluster: Cluster,
    programs: PathBuf,
}

impl Stage {
    /// Builds what is missing, and starts everything but Couponry itself.
    pub(super) fn build() -> Result<Self> {
        couponry_testbed::programs::install()?;
        couponry_testbed::programs::install_cluster()?;
        let images = images::build()?;
        let cluster = Cluster::start()?;
        let beside = Beside::start(&cluster, &images)?;
        let kubectl = Kubectl::new(cluster.kubeconfig(), NAMESPACE);
        Ok(Self { kubectl, beside, cluster, programs: images.programs().to_owned() })
    }

    pub(super) fn kubeconfig(&self) -> String {
        self.cluster.kubeconfig().display().to_string()
    }

    /// Where the ingress controller listens.
    pub(super) fn ingress(&self) -> String {
        self.cluster.ingress_url()
    }

    /// A program that was built beside those in the images, such as `loadgen`.
    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// Applies an event and waits until it is Ready.
    pub(super) fn ready(&self, name: &str, manifest: &str) -> Result<()> {
        let step = Step::start(format!("applying the event {name}"));
        self.kubectl.apply(manifest)?;
        self.await_ready(name)?;
        step.done_with(&format!("the event {name} is Ready"));
        Ok(())
    }

    pub(super) fn await_ready(&self, name: &str) -> Result<()> {
        self.kubectl.wait(&format!("couponevent/{name}"), "condition=Ready", 180)
    }

    /// Checks the promises of an event against all answers that its users got.
    pub(super) fn check(&self, event: &str, total: u64, history: &Path) -> Result<()> {
        let check = couponry_testbed::process::Launch::in_foreground("loadgen", self.program("loadgen"))
            .clean_env()
            .args(["check", "--event", event, "--total", &total.to_string()])
            .args(["--history".as_ref(), history.as_os_str()])
            .args(["--redis-url", &self.beside.redis.url()])
            .args(["--postgres-url", &self.beside.postgres.url()])
            .args(["--kafka-brokers", &self.beside.kafka.brokers()]);
        let kept = cargo::in_foreground(check).context("cannot check the promises")?.success();
        ensure!(kept, "a promise was broken");
        Ok(())
    }

    /// Prints what the cluster looks like, for whoever must find out what went wrong.
    pub(super) fn show(&self) {
        for args in [
            &["get", "all,couponevents,horizontalpodautoscalers,ingresses", "-o", "wide"][..],
            &["get", "events", "--sort-by=.lastTimestamp"],
            &["logs", "--prefix", "--tail=40", "--all-containers", "--selector", "app.kubernetes.io/name=couponry"],
        ] {
            let shown = self.kubectl.run(args).unwrap_or_else(|error| format!("{error:#}"));
            eprintln!("--- kubectl {}\n{shown}", args.join(" "));
        }
    }
}
