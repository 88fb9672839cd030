//! A cluster with imported images, and servers outside of it.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result, ensure};
use couponry_testbed::Cluster;
use couponry_testbed::process::Launch;
use couponry_testbed::progress::Step;

use crate::cluster_backends::{ClusterBackends, NAMESPACE};
use crate::kubectl::Kubectl;
use crate::{cargo, images};

/// The cluster and the servers. Dropping it removes them.
pub(super) struct Environment {
    pub(super) kubectl: Kubectl,
    pub(super) backends: ClusterBackends,
    pub(super) cluster: Cluster,
    programs: PathBuf,
}

/// What a command of the plugin has printed.
#[derive(Debug)]
pub(super) struct Printed {
    pub(super) status: ExitStatus,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl Environment {
    /// Builds the images, and starts the cluster and the servers. The chart is not installed.
    pub(super) fn start(debug_images: bool) -> Result<Self> {
        couponry_testbed::programs::install()?;
        couponry_testbed::programs::install_cluster()?;
        let images = images::build(debug_images)?;
        let cluster = Cluster::start()?;
        let backends = ClusterBackends::start(&cluster, &images)?;
        let kubectl = Kubectl::new(cluster.kubeconfig(), NAMESPACE);
        Ok(Self { kubectl, backends, cluster, programs: images.programs().to_owned() })
    }

    pub(super) fn kubeconfig(&self) -> String {
        self.cluster.kubeconfig().display().to_string()
    }

    /// The URL of the ingress.
    pub(super) fn ingress(&self) -> String {
        self.cluster.ingress_url()
    }

    /// The directory of all programs.
    pub(super) fn programs(&self) -> &Path {
        &self.programs
    }

    /// The path of a program, such as `loadgen`.
    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// Runs `kubectl couponry`.
    pub(super) fn couponry(&self, args: &[&str], stdin: Stdio) -> Result<Printed> {
        let program = self.program("kubectl-couponry");
        let ran = Command::new(&program)
            .env("KUBECONFIG", self.kubeconfig())
            .args(["--namespace", self.kubectl.namespace()])
            .args(args)
            .stdin(stdin)
            .output()
            .with_context(|| format!("cannot run {}", program.display()))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Printed { status: ran.status, stdout: text(&ran.stdout), stderr: text(&ran.stderr) })
    }

    /// Runs `kubectl couponry`, which must succeed, and returns its output.
    pub(super) fn couponry_text(&self, args: &[&str]) -> Result<String> {
        let Printed { status, stdout, stderr } = self.couponry(args, Stdio::null())?;
        ensure!(status.success(), "kubectl couponry {} ({status}):\n{stdout}{stderr}", args.join(" "));
        Ok(stdout)
    }

    /// Applies an event and waits until it is Ready.
    pub(super) fn apply_event(&self, name: &str, manifest: &str) -> Result<()> {
        let step = Step::start(format!("applying the event {name}"));
        self.kubectl.apply(manifest)?;
        self.wait_ready(name)?;
        step.done_with(&format!("the event {name} is Ready"));
        Ok(())
    }

    pub(super) fn wait_ready(&self, name: &str) -> Result<()> {
        self.kubectl.wait(&format!("couponevent/{name}"), "condition=Ready", 180)
    }

    /// Checks the guarantees of an event against the responses in `history`.
    pub(super) fn check(&self, event: &str, total: u64, history: &Path) -> Result<()> {
        let check = Launch::in_foreground("loadgen", self.program("loadgen"))
            .clean_env()
            .args(["check", "--event", event, "--total", &total.to_string()])
            .args(["--history".as_ref(), history.as_os_str()])
            .args(["--redis-url", &self.backends.redis.url()])
            .args(["--postgres-url", &self.backends.postgres.url()])
            .args(["--kafka-brokers", &self.backends.kafka.brokers()]);
        let passed = cargo::in_foreground(check).context("cannot run loadgen")?.success();
        ensure!(passed, "a guarantee of the event {event} was violated");
        Ok(())
    }

    /// Prints the state of the cluster for the analysis of a failure.
    pub(super) fn print_diagnostics(&self) {
        for args in [
            &["get", "all,couponevents,horizontalpodautoscalers,ingresses", "-o", "wide"][..],
            &["get", "events", "--sort-by=.lastTimestamp"],
            &["logs", "--prefix", "--tail=40", "--all-containers", "--selector", "app.kubernetes.io/name=couponry"],
        ] {
            let output = self.kubectl.run(args).unwrap_or_else(|error| format!("{error:#}"));
            eprintln!("--- kubectl {}\n{output}", args.join(" "));
        }
    }
}
