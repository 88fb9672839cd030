//! The servers outside of a cluster, and the Helm values of an installation which uses them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use couponry_testbed::progress::Step;
use couponry_testbed::scratch::Scratch;
use couponry_testbed::{Cluster, Kafka, Postgres, Redis, cluster, programs};
use serde_json::json;

use crate::cargo;
use crate::images::Images;

/// The namespace and the name of the Helm release.
pub(crate) const NAMESPACE: &str = "shop";
pub(crate) const RELEASE: &str = "couponry";
/// The origin whose pages may call the API.
pub(crate) const SHOP_ORIGIN: &str = "https://shop.example";
/// The title of the event page.
pub(crate) const TITLE: &str = "Coupons of the shop";

/// Servers which listen on the host's side of the link to the cluster. Dropping it stops them.
#[derive(Debug)]
pub(crate) struct ClusterBackends {
    pub(crate) redis: Redis,
    pub(crate) postgres: Postgres,
    pub(crate) kafka: Kafka,
    scratch: Scratch,
}

impl ClusterBackends {
    /// Starts the servers, imports the images into the cluster, and writes the Helm values.
    pub(crate) fn start(cluster: &Cluster, images: &Images) -> Result<Self> {
        let step = Step::start("starting Redis, PostgreSQL and Kafka outside of the cluster");
        let address = cluster.host_address();
        let redis = Redis::start_on(address)?;
        let postgres = Postgres::start_on(address)?;
        let kafka = Kafka::start_on(address)?;
        step.done();
        let step = Step::start("importing the images into the cluster");
        for archive in images.archives() {
            cluster.import(archive)?;
        }
        step.done();
        let backends = Self { redis, postgres, kafka, scratch: Scratch::new("installation")? };
        // JSON is YAML.
        let text =
            format!("{:#}\n", values(&backends.redis.url(), &backends.postgres.url(), &backends.kafka.brokers()));
        let path = backends.values();
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(backends)
    }

    /// The path of the Helm values.
    pub(crate) fn values(&self) -> PathBuf {
        self.scratch.path().join("values.yaml")
    }

    /// Writes `target/cluster.env`, which a shell reads with `source`: the commands of README.md and the tutorial need
    /// its variables.
    pub(crate) fn write_shell_environment(&self, cluster: &Cluster, programs: &Path) -> Result<()> {
        let path = cargo::root().join("target/cluster.env");
        let text = format!(
            "export KUBECONFIG={}\nexport PATH={}:{}:$PATH\nexport COUPONRY_VALUES={}\nexport POSTGRES_URL={}\nexport INGRESS_URL={}\n",
            cluster.kubeconfig().display(),
            program_directories(),
            programs.display(),
            self.values().display(),
            self.postgres.url(),
            cluster.ingress_url(),
        );
        fs::create_dir_all(cargo::root().join("target")).context("cannot create target")?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Prints the commands which install the chart and use it.
    pub(crate) fn print_install_commands(&self, cluster: &Cluster) {
        let (chart, values) = (chart(), self.values());
        println!("  helm install {RELEASE} {} --namespace {NAMESPACE} --create-namespace \\", chart.display());
        println!("    --values {} --wait\n", values.display());
        print_event_commands(cluster);
        println!("  redis      {}", self.redis.url());
        println!("  postgres   {}", self.postgres.url());
        println!("  kafka      {}\n", self.kafka.brokers());
    }
}

/// The path of the chart.
pub(crate) fn chart() -> PathBuf {
    cargo::root().join("charts/couponry")
}

/// Prints the commands and addresses with which another terminal can use the cluster.
pub(crate) fn print_cluster_access(cluster: &Cluster) {
    println!("The cluster runs until Ctrl-C. In another terminal:\n");
    println!("  export KUBECONFIG={}", cluster.kubeconfig().display());
    println!("  export PATH={}:$PATH", program_directories());
    println!("  kubectl get nodes\n");
    println!("  ingress    {}   (class contour; Gateway ingress in the namespace ingress)", cluster.ingress_url());
    println!("  this host  {}   (the address of servers of this host for pods)", cluster::HOST);
    println!("  logs       {}\n", Path::new(cluster.logs()).join("*.log").display());
}

/// The directories of kubectl and Helm, as a part of `PATH`.
fn program_directories() -> String {
    let kubectl = programs::kubernetes().map(|(_, kubectl)| kubectl);
    let directory = |program: &PathBuf| Some(program.parent()?.display().to_string());
    [kubectl, programs::HELM.find()].iter().flatten().filter_map(directory).collect::<Vec<_>>().join(":")
}

/// Prints the commands which create an event and issue a coupon.
fn print_event_commands(cluster: &Cluster) {
    let event = cargo::root().join("examples/summer.yaml");
    println!("  kubectl --namespace {NAMESPACE} apply -f {}", event.display());
    println!("  kubectl --namespace {NAMESPACE} get all,couponevents");
    println!("  curl -s -H 'content-type: application/json' -d '{{\"userId\":\"anna\",\"eventId\":\"summer\"}}' \\");
    println!("    {}/coupons/issue\n", cluster.ingress_url());
}

/// Values with external servers and small resource requests, for a small machine.
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
            "page": {"enabled": true, "texts": {"en": {"title": TITLE}}},
            "corsAllowedOrigins": [SHOP_ORIGIN],
        },
        "consumer": {"resources": resources("20m"), "autoscaling": {"enabled": true, "minReplicas": 1, "maxReplicas": 3}},
        "redeemer": {"enabled": true, "resources": resources("20m")},
        "ingress": {"enabled": true, "className": "contour"},
    })
}
