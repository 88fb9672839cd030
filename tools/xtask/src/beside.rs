//! What an installation on a cluster needs: servers beside the cluster, the images inside it, and values that name both.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use couponry_testbed::progress::Step;
use couponry_testbed::scratch::Scratch;
use couponry_testbed::{Cluster, Kafka, Postgres, Redis, cluster, programs};
use serde_json::json;

use crate::cargo;
use crate::images::Images;

/// Where the chart is installed, and as what.
pub(crate) const NAMESPACE: &str = "shop";
pub(crate) const RELEASE: &str = "couponry";

/// Servers on the host's end of the link to the cluster. Dropping it stops them.
#[derive(Debug)]
pub(crate) struct Beside {
    pub(crate) redis: Redis,
    pub(crate) postgres: Postgres,
    pub(crate) kafka: Kafka,
    scratch: Scratch,
}

impl Beside {
    /// Starts the servers, gives the cluster the images, and writes the values.
    pub(crate) fn start(cluster: &Cluster, images: &Images) -> Result<Self> {
        let step = Step::start("starting Redis, PostgreSQL and Kafka beside the cluster");
        let address = cluster.host_address();
        let redis = Redis::start_on(address)?;
        let postgres = Postgres::start_on(address)?;
        let kafka = Kafka::start_on(address)?;
        step.done();
        let step = Step::start("bringing the images into the cluster");
        for archive in images.archives() {
            cluster.import(archive)?;
        }
        step.done();
        let beside = Self { redis, postgres, kafka, scratch: Scratch::new("installation")? };
        // JSON is YAML.
        let text = format!("{:#}\n", values(&beside.redis.url(), &beside.postgres.url(), &beside.kafka.brokers()));
        let path = beside.values();
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(beside)
    }

    /// The file with the values.
    pub(crate) fn values(&self) -> PathBuf {
        self.scratch.path().join("values.yaml")
    }

    /// The commands that install the chart by hand, to be pasted after those of [`say_how_to_go_on`].
    pub(crate) fn say_how_to_install(&self, cluster: &Cluster) {
        let (chart, values) = (chart(), self.values());
        println!("  helm install {RELEASE} {} --namespace {NAMESPACE} --create-namespace \\", chart.display());
        println!("    --values {} --wait\n", values.display());
        say_how_to_ask(cluster);
        println!("  redis      {}", self.redis.url());
        println!("  postgres   {}", self.postgres.url());
        println!("  kafka      {}\n", self.kafka.brokers());
    }
}

/// The chart of this workspace.
pub(crate) fn chart() -> PathBuf {
    cargo::root().join("charts/couponry")
}

/// Prints what another terminal needs to use the cluster.
pub(crate) fn say_how_to_go_on(cluster: &Cluster) {
    let kubectl = programs::kubernetes().map(|(_, kubectl)| kubectl);
    let directories: Vec<_> = [kubectl, programs::HELM.find()]
        .iter()
        .flatten()
        .filter_map(|program| Some(program.parent()?.display().to_string()))
        .collect();
    println!("The cluster stays up until Ctrl-C. In another terminal:\n");
    println!("  export KUBECONFIG={}", cluster.kubeconfig().display());
    println!("  export PATH={}:$PATH", directories.join(":"));
    println!("  kubectl get nodes\n");
    println!("  ingress    {}   (class contour; Gateway ingress in the namespace ingress)", cluster.ingress_url());
    println!("  this host  {}   (where pods reach servers that listen there)", cluster::HOST);
    println!("  logs       {}\n", Path::new(cluster.logs()).join("*.log").display());
}

/// Prints how to make an event and ask for a coupon, of an installation with these values.
pub(crate) fn say_how_to_ask(cluster: &Cluster) {
    let event = cargo::root().join("examples/summer.yaml");
    println!("  kubectl --namespace {NAMESPACE} apply -f {}", event.display());
    println!("  kubectl --namespace {NAMESPACE} get all,couponevents");
    println!("  curl -s -H 'content-type: application/json' -d '{{\"userId\":\"anna\",\"eventId\":\"summer\"}}' \\");
    println!("    {}/coupons/issue\n", cluster.ingress_url());
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
