//! Objects that an older definition let in, and that no program can read.

use anyhow::{Context as _, Result, ensure};
use couponry_domain::Uuid;
use couponry_testbed::{Kubernetes, ports, program::Running};
use serde_json::{Value, json};

use crate::stage::{Stage, eventually, monitor};

const SPEC: &str =
    "policyName: p, totalCount: 10, discounts: [{type: Amount, value: 1, count: 10}], deletionPolicy: Delete";
/// What people write for ever, and what no program can add a minute to.
const FOREVER: &str = "9999-12-31T23:59:59Z";
const TOO_FINE: &str = "2099-01-01T00:00:00.1234567890Z";

/// An API server whose definition of `CouponEvent` may be an older one.
struct World {
    kubernetes: Kubernetes,
    stage: Stage,
}

impl World {
    async fn new() -> Result<Self> {
        let (kubernetes, stage) = (Kubernetes::start()?, Stage::new().await?);
        let world = Self { kubernetes, stage };
        world.with_older_definition(|| {
            world.kubernetes.kubectl(&["create", "namespace", world.stage.namespace()])?;
            Ok(())
        })?;
        Ok(world)
    }

    fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.kubernetes.kubectl(&[args, &["--namespace", self.stage.namespace()]].concat())
    }

    fn define(&self, definition: &str) -> Result<()> {
        self.kubernetes.kubectl_with(&["apply", "--server-side", "--force-conflicts", "-f", "-"], definition)?;
        let crd = "crd/couponevents.couponry.dev";
        self.kubernetes.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", crd])?;
        Ok(())
    }

    /// What is done here may write times that the present definition refuses.
    fn with_older_definition(&self, act: impl Fn() -> Result<()>) -> Result<()> {
        let mut older = serde_json::to_value(couponry_crds::crd())?;
        for time in ["startTime", "endTime"] {
            let field = format!("/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/{time}");
            let field = older.pointer_mut(&field).and_then(Value::as_object_mut).context("no time")?;
            field.remove("pattern").context("no pattern")?;
            field.remove("x-kubernetes-validations").context("no rule")?;
        }
        self.define(&older.to_string())?;
        // The API server takes up a definition some time after it was told of it.
        let begun = std::time::Instant::now();
        while let Err(error) = act() {
            ensure!(begun.elapsed().as_secs() < 60, error);
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
        self.define(&couponry_crds::crd_yaml())
    }

    fn create(&self, name: &str, more: &str) -> Result<()> {
        let manifest = format!(
            "{{apiVersion: couponry.dev/v1alpha1, kind: CouponEvent, metadata: {{name: {name}}}, spec: {{{SPEC}{more}}}}}"
        );
        let args = ["apply", "--namespace", self.stage.namespace(), "-f", "-"];
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
        let is_so = async || {
            let [is, why, _] = self.condition(name, type_)?;
            Ok(is == status && why == reason)
        };
        eventually(&format!("{name} is {type_}={status} for {reason}"), is_so).await?;
        let [_, _, message] = self.condition(name, type_)?;
        Ok(message)
    }

    async fn wait_gone(&self, name: &str) -> Result<()> {
        eventually("it is gone", async || Ok(self.kubectl(&["get", "ce", name, "--ignore-not-found"])?.is_empty()))
            .await
    }

    async fn operator(&self) -> Result<Running> {
        let port = ports::free()?;
        let operator = self.stage.program_on(self.kubernetes.kubeconfig(), port).start()?;
        eventually("the operator is ready", async || {
            Ok(monitor(port, "/readyz").await.is_some_and(|(status, _)| status == 200))
        })
        .await?;
        Ok(operator)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_cannot_be_read_is_told_and_keeps_no_other_from_its_way() -> Result<()> {
    let world = World::new().await?;
    world.with_older_definition(|| {
        // The first by name is the one that a list of one has.
        world.create("a-forever", &format!(", endTime: '{FOREVER}'"))?;
        world.create("b-fine", &format!(", startTime: '{TOO_FINE}'"))?;
        world.create("good", "")
    })?;
    let _operator = world.operator().await?;
    world.wait("good", "Open", "True", "Open").await?;
    for name in ["a-forever", "b-fine"] {
        let message = world.wait(name, "Stalled", "True", "InvalidObject").await?;
        ensure!(message.starts_with("The object is invalid: "), "{message}");
        ensure!(message.contains(&format!("Correct it with `kubectl edit ce {name}`, or delete it")), "{message}");
        assert_eq!(world.condition(name, "Ready")?[0], "False");
    }
    let kubeconfig = world.kubernetes.kubeconfig().display().to_string();
    let checked = world.stage.answer(&["check"], &[("KUBECONFIG", &kubeconfig)])?;
    let checked = String::from_utf8_lossy(&checked.stdout);
    ensure!(checked.contains("event a-forever") && checked.contains("the object is invalid"), "{checked}");

    // Both ways out: it is deleted, or corrected.
    world.kubectl(&["delete", "ce", "a-forever", "--wait=false"])?;
    world.wait_gone("a-forever").await?;
    world.kubectl(&["patch", "ce", "b-fine", "--type=merge", "-p", r#"{"spec": {"startTime": null}}"#])?;
    world.wait("b-fine", "Open", "True", "Open").await?;
    assert_eq!(world.condition("b-fine", "Stalled")?[0], "False");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_event_that_becomes_unreadable_goes_on_says_so_and_can_be_deleted() -> Result<()> {
    let world = World::new().await?;
    let operator = world.operator().await?;
    world.create("event", "")?;
    world.wait("event", "Open", "True", "Open").await?;
    let opened = world.get("event")?["status"]["openedAt"].clone();
    let uid = world.uid("event")?;
    world.with_older_definition(|| world.set_end("event", Some(FOREVER)))?;
    let message = world.wait("event", "Stalled", "True", "InvalidObject").await?;
    ensure!(message.contains("an open event stays open"), "{message}");
    assert_eq!(world.condition("event", "Open")?[0], "True");
    assert_eq!(world.get("event")?["status"]["openedAt"], opened, "what was known is kept");
    assert_eq!(world.stage.ask("event", 0..2).await?, 2);
    let story = world.kubectl(&["get", "events.events.k8s.io", "-o", "json"])?;
    ensure!(story.contains(r#""InvalidObject""#), "{story}");

    // Also to an operator that has never read it.
    operator.stop()?;
    operator.restart()?;
    world.set_end("event", None)?;
    world.wait("event", "Stalled", "False", "NotStalled").await?;
    world.with_older_definition(|| world.set_end("event", Some(FOREVER)))?;
    world.wait("event", "Stalled", "True", "InvalidObject").await?;

    // Nobody records what was issued, and the deletion does not wait for ever; its policy is followed.
    world.kubectl(&["delete", "ce", "event", "--wait=false"])?;
    world.wait("event", "Stalled", "True", "Deleting").await?;
    world.wait_gone("event").await?;
    assert_eq!(world.stage.stock.observe(&"event".parse()?).await?, None);
    assert_eq!(world.stage.database.event(uid).await?, None);
    world.create("event", "")?;
    world.wait("event", "Open", "True", "Open").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_cannot_be_read_does_not_hold_its_namespace() -> Result<()> {
    let world = World::new().await?;
    let operator = world.operator().await?;
    for name in ["odd", "plain"] {
        world.create(name, "")?;
        world.wait(name, "Open", "True", "Open").await?;
    }
    world.with_older_definition(|| world.set_end("odd", Some(FOREVER)))?;
    world.wait("odd", "Stalled", "True", "InvalidObject").await?;
    let namespace = world.stage.namespace();
    world.kubernetes.kubectl(&["delete", "namespace", namespace, "--wait=false"])?;
    operator.stop()?;
    for name in ["odd", "plain"] {
        ensure!(world.get(name)?["metadata"]["finalizers"].is_null(), "{}", operator.log());
        assert_eq!(world.stage.stock.observe(&name.parse()?).await?, None);
    }
    Ok(())
}
