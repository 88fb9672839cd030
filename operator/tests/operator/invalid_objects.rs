//! Objects which an older CRD accepted and which cannot be deserialized.

use anyhow::{Context as _, Result, ensure};
use couponry_domain::Uuid;
use couponry_testbed::{Kubernetes, ports, program::Running};
use serde_json::{Value, json};

use crate::support::{World, install_crd, wait_operator_ready, wait_until};

const SPEC: &str =
    "policyName: p, totalCount: 10, discounts: [{type: Amount, value: 1, count: 10}], deletionPolicy: Delete";
/// A usual value for "no end", to which no minute can be added without an overflow.
const FOREVER: &str = "9999-12-31T23:59:59Z";
const TOO_FINE: &str = "2099-01-01T00:00:00.1234567890Z";

/// An API server on which an older CRD of `CouponEvent` can be installed.
struct CrdCluster {
    kubernetes: Kubernetes,
    world: World,
}

impl CrdCluster {
    async fn new() -> Result<Self> {
        let (kubernetes, world) = (Kubernetes::start()?, World::shared().await?);
        let cluster = Self { kubernetes, world };
        cluster.with_older_crd(|| {
            cluster.kubernetes.kubectl(&["create", "namespace", cluster.world.namespace()])?;
            Ok(())
        })?;
        Ok(cluster)
    }

    fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.kubernetes.kubectl(&[args, &["--namespace", self.world.namespace()]].concat())
    }

    /// Runs `action` with an older CRD, which accepts times that the present one rejects.
    fn with_older_crd(&self, action: impl Fn() -> Result<()>) -> Result<()> {
        let mut older = serde_json::to_value(couponry_crds::crd())?;
        for time in ["startTime", "endTime"] {
            let field = format!("/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/{time}");
            let field = older.pointer_mut(&field).and_then(Value::as_object_mut).context("no time")?;
            field.remove("pattern").context("no pattern")?;
            field.remove("x-kubernetes-validations").context("no rule")?;
        }
        install_crd(self.kubernetes.kubeconfig(), &older.to_string())?;
        // The API server applies a CRD with a delay after it is established.
        let started = std::time::Instant::now();
        while let Err(error) = action() {
            ensure!(started.elapsed().as_secs() < 60, error);
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
        install_crd(self.kubernetes.kubeconfig(), &couponry_crds::crd_yaml())
    }

    fn create(&self, name: &str, fields: &str) -> Result<()> {
        let manifest = format!(
            "{{apiVersion: couponry.dev/v1alpha1, kind: CouponEvent, metadata: {{name: {name}}}, \
             spec: {{{SPEC}{fields}}}}}"
        );
        let args = ["apply", "--namespace", self.world.namespace(), "-f", "-"];
        self.kubernetes.kubectl_with(&args, &manifest)?;
        Ok(())
    }

    fn set_end(&self, name: &str, end: Option<&str>) -> Result<()> {
        let patch = json!({"spec": {"endTime": end}}).to_string();
        self.kubectl(&["patch", "ce", name, "--type=merge", "-p", &patch])?;
        Ok(())
    }

    fn get(&self, name: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.kubectl(&["get", "ce", name, "-o", "json"])?)?)
    }

    fn uid(&self, name: &str) -> Result<Uuid> {
        Ok(self.get(name)?["metadata"]["uid"].as_str().context("no uid")?.parse()?)
    }

    /// Status, reason and message of a condition.
    fn condition(&self, name: &str, type_: &str) -> Result<[String; 3]> {
        let event = self.get(name)?;
        let all = event["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found = all.into_iter().find(|condition| condition["type"] == type_).unwrap_or_default();
        Ok(["status", "reason", "message"].map(|part| found[part].as_str().unwrap_or_default().to_owned()))
    }

    async fn wait(&self, name: &str, type_: &str, status: &str, reason: &str) -> Result<String> {
        let is_reached = async || {
            let [current_status, current_reason, _] = self.condition(name, type_)?;
            Ok(current_status == status && current_reason == reason)
        };
        wait_until(&format!("{name} is {type_}={status} for {reason}"), is_reached).await?;
        let [_, _, message] = self.condition(name, type_)?;
        Ok(message)
    }

    async fn wait_gone(&self, name: &str) -> Result<()> {
        wait_until("the resource is removed", async || {
            Ok(self.kubectl(&["get", "ce", name, "--ignore-not-found"])?.is_empty())
        })
        .await
    }

    async fn start_operator(&self) -> Result<Running> {
        let port = ports::free()?;
        let operator = self.world.operator_program_at(self.kubernetes.kubeconfig(), port).start()?;
        wait_operator_ready(port).await?;
        Ok(operator)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_event_is_reported_and_others_open() -> Result<()> {
    let cluster = CrdCluster::new().await?;
    cluster.with_older_crd(|| {
        // The first by name, because a list with limit=1 returns this one.
        cluster.create("a-forever", &format!(", endTime: '{FOREVER}'"))?;
        cluster.create("b-fine", &format!(", startTime: '{TOO_FINE}'"))?;
        cluster.create("good", "")
    })?;
    let _operator = cluster.start_operator().await?;
    cluster.wait("good", "Open", "True", "Open").await?;
    for name in ["a-forever", "b-fine"] {
        let message = cluster.wait(name, "Stalled", "True", "InvalidObject").await?;
        ensure!(message.starts_with("The object is invalid: "), "{message}");
        ensure!(message.contains(&format!("Correct it with `kubectl edit ce {name}`, or delete it")), "{message}");
        assert_eq!(cluster.condition(name, "Ready")?[0], "False");
    }
    let kubeconfig = cluster.kubernetes.kubeconfig().display().to_string();
    let checked = cluster.world.run_command(&["check"], &[("KUBECONFIG", &kubeconfig)])?;
    let checked = String::from_utf8_lossy(&checked.stdout);
    ensure!(checked.contains("event a-forever") && checked.contains("the object is invalid"), "{checked}");

    // An invalid event can be deleted or corrected.
    cluster.kubectl(&["delete", "ce", "a-forever", "--wait=false"])?;
    cluster.wait_gone("a-forever").await?;
    cluster.kubectl(&["patch", "ce", "b-fine", "--type=merge", "-p", r#"{"spec": {"startTime": null}}"#])?;
    cluster.wait("b-fine", "Open", "True", "Open").await?;
    assert_eq!(cluster.condition("b-fine", "Stalled")?[0], "False");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn open_event_that_becomes_invalid_stays_open_until_deleted() -> Result<()> {
    let cluster = CrdCluster::new().await?;
    let operator = cluster.start_operator().await?;
    cluster.create("event", "")?;
    cluster.wait("event", "Open", "True", "Open").await?;
    let opened = cluster.get("event")?["status"]["openedAt"].clone();
    let uid = cluster.uid("event")?;
    cluster.with_older_crd(|| cluster.set_end("event", Some(FOREVER)))?;
    let message = cluster.wait("event", "Stalled", "True", "InvalidObject").await?;
    ensure!(message.contains("an open event stays open"), "{message}");
    assert_eq!(cluster.condition("event", "Open")?[0], "True");
    assert_eq!(cluster.get("event")?["status"]["openedAt"], opened, "the earlier status is kept");
    assert_eq!(cluster.world.issue("event", 0..2).await?, 2);
    let events = cluster.kubectl(&["get", "events.events.k8s.io", "-o", "json"])?;
    ensure!(events.contains(r#""InvalidObject""#), "{events}");

    // The same after a restart, when the operator has never read a valid object.
    operator.stop()?;
    operator.restart()?;
    cluster.set_end("event", None)?;
    cluster.wait("event", "Stalled", "False", "NotStalled").await?;
    cluster.with_older_crd(|| cluster.set_end("event", Some(FOREVER)))?;
    cluster.wait("event", "Stalled", "True", "InvalidObject").await?;

    // The issued coupons are never recorded: the deletion continues after the timeout and follows its policy.
    cluster.kubectl(&["delete", "ce", "event", "--wait=false"])?;
    cluster.wait("event", "Stalled", "True", "Deleting").await?;
    cluster.wait_gone("event").await?;
    assert_eq!(cluster.world.redis_store.observe(&"event".parse()?).await?, None);
    assert_eq!(cluster.world.database.event(uid).await?, None);
    cluster.create("event", "")?;
    cluster.wait("event", "Open", "True", "Open").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_event_does_not_block_namespace_deletion() -> Result<()> {
    let cluster = CrdCluster::new().await?;
    let operator = cluster.start_operator().await?;
    for name in ["invalid", "valid"] {
        cluster.create(name, "")?;
        cluster.wait(name, "Open", "True", "Open").await?;
    }
    cluster.with_older_crd(|| cluster.set_end("invalid", Some(FOREVER)))?;
    cluster.wait("invalid", "Stalled", "True", "InvalidObject").await?;
    let namespace = cluster.world.namespace();
    cluster.kubernetes.kubectl(&["delete", "namespace", namespace, "--wait=false"])?;
    operator.stop()?;
    for name in ["invalid", "valid"] {
        ensure!(cluster.get(name)?["metadata"]["finalizers"].is_null(), "{}", operator.log());
        assert_eq!(cluster.world.redis_store.observe(&name.parse()?).await?, None);
    }
    Ok(())
}
