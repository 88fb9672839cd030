//! Events in each state: restart of the operator, deletion, and reuse of the name.

use anyhow::{Context as _, Result, ensure};
use couponry_crds::{CouponEvent, CouponEventStatus};
use couponry_testbed::{Kubernetes, http, ports, shared};
use kube::Api;
use serde_json::Value;

use crate::support::{World, client, install_crd, is_true, reason, wait_until};

const SPEC: &str = "policyName: p, totalCount: 10, discounts: [{type: Amount, value: 1, count: 10}]";

/// A state of an event, and how the event reaches it.
struct State {
    name: &'static str,
    /// Fields of the spec when the event is created.
    initial: &'static str,
    /// How many coupons are issued and recorded.
    issued: u32,
    /// Fields of the spec afterwards.
    changed: Option<&'static str>,
    /// The reason of Open.
    open: &'static str,
    /// The reason of Ready.
    ready: &'static str,
}

const STATES: [State; 8] = [
    State {
        name: "waiting",
        initial: "startTime: '2100-01-01T00:00:00Z'",
        issued: 0,
        changed: None,
        open: "Scheduled",
        ready: "StockComplete",
    },
    State { name: "open", initial: "issuance: Auto", issued: 3, changed: None, open: "Open", ready: "StockComplete" },
    State {
        name: "paused",
        initial: "issuance: Auto",
        issued: 3,
        changed: Some("issuance: Paused"),
        open: "Paused",
        ready: "StockComplete",
    },
    State {
        name: "sold-out",
        initial: "issuance: Auto",
        issued: 10,
        changed: None,
        open: "SoldOut",
        ready: "StockComplete",
    },
    State {
        name: "ended",
        initial: "issuance: Auto",
        issued: 3,
        changed: Some("endTime: '2020-01-01T00:00:00Z'"),
        open: "Ended",
        ready: "StockComplete",
    },
    State {
        name: "closed",
        initial: "issuance: Auto",
        issued: 3,
        changed: Some("issuance: Closed"),
        open: "Closed",
        ready: "Closed",
    },
    State {
        name: "retired",
        initial: "issuance: Auto",
        issued: 3,
        changed: Some("issuance: Closed, ttlSecondsAfterFinished: 0"),
        open: "Closed",
        ready: "Retired",
    },
    State { name: "stalled", initial: "issuance: Auto", issued: 3, changed: None, open: "Open", ready: "DriftFound" },
];

impl State {
    async fn reach(&self, world: &World) -> Result<()> {
        let &Self { name, initial, issued, changed, .. } = self;
        world.apply(name, &format!("{{{SPEC}, {initial}}}"))?;
        world.wait_ready(name).await?;
        if issued > 0 {
            world.wait(name, "open", |status| is_true(status, "Open")).await?;
            assert_eq!(world.issue(name, 0..issued).await?, usize::try_from(issued)?, "{name}");
            world.record_all(name).await?;
        }
        if self.ready == "DriftFound" {
            world.remove_available_coupon(name)?;
        }
        if let Some(changed) = changed {
            world.apply(name, &format!("{{{SPEC}, {changed}}}"))?;
        }
        self.wait(world).await.map(drop)
    }

    async fn wait(&self, world: &World) -> Result<CouponEventStatus> {
        world
            .wait(self.name, "in the expected state", |status| {
                let is_counted = status.recorded == Some(self.issued.into()) && status.issued == status.recorded;
                is_counted && reason(status, "Open") == self.open && reason(status, "Ready") == self.ready
            })
            .await
    }
}

/// The part of a status which does not change while the event does not change.
fn stable_part(status: &CouponEventStatus) -> Value {
    let conditions: Vec<_> = status
        .conditions
        .iter()
        .map(|condition| (&condition.type_, &condition.status, &condition.reason, &condition.message))
        .collect();
    let counts = (status.loaded, status.issued, status.recorded, status.available, status.balance);
    serde_json::json!([conditions, counts, status.opened_at, status.sold_out_at, status.finished_at])
}

#[tokio::test(flavor = "multi_thread")]
async fn event_in_each_state_survives_restart_and_recreation() -> Result<()> {
    let world = World::shared().await?;
    let port = ports::free()?;
    let operator = world.operator_program(port).start()?;
    for state in &STATES {
        state.reach(&world).await?;
    }

    let mut before = Vec::new();
    for state in &STATES {
        before.push((stable_part(&state.wait(&world).await?), world.kube_event_reasons(state.name).await?));
    }
    operator.kill9()?;
    operator.restart()?;
    wait_until("the operator has observed all events", async || {
        let Some((200, metrics)) = http::get(port, "/metrics") else { return Ok(false) };
        Ok(STATES.iter().all(|state| metrics.contains(&format!("balance_generated{{event=\"{}\"}}", state.name))))
    })
    .await?;
    for (state, (part_before, reasons_before)) in STATES.iter().zip(&before) {
        assert_eq!(&stable_part(&state.wait(&world).await?), part_before, "{}: the status changed", state.name);
        // The last Kubernetes Event may be published only after the first read.
        let mut now = world.kube_event_reasons(state.name).await?;
        now.retain(|reason| reasons_before.contains(reason));
        assert_eq!(&now, reasons_before, "{}: a Kubernetes Event was published twice", state.name);
    }

    for state in &STATES {
        let uid = world.uid(state.name).await?;
        world.delete(state.name)?;
        world.wait_gone(state.name).await?;
        assert_eq!(world.redis_store.observe(&state.name.parse()?).await?, None, "{}", state.name);
        assert_eq!(
            world.database.recorded_count(uid).await?,
            u64::from(state.issued),
            "{}: recorded issuances stay in Postgres",
            state.name
        );

        world.apply(state.name, &format!("{{{SPEC}}}"))?;
        let recreated = world.wait(state.name, "open as a new event", |status| is_true(status, "Open")).await?;
        assert_eq!(
            (recreated.issued, recreated.recorded, recreated.available),
            (Some(0), Some(0), Some(10)),
            "{}",
            state.name
        );
        ensure!(
            recreated.sold_out_at.is_none() && recreated.finished_at.is_none() && is_true(&recreated, "Balanced"),
            "{recreated:#?}"
        );
        world.check_generated_stock(state.name, &[("AMOUNT:1", 10)]).await?;
        let old = world.database.coupons(uid, 0, 100).await?;
        let new = world.coupons_in_postgres(world.uid(state.name).await?).await?;
        ensure!(
            old.iter().all(|old| new.iter().all(|new| new.code != old.code)),
            "{}: a code of the old event was generated again",
            state.name
        );
        assert_eq!(
            world.issue(state.name, 0..3).await?,
            3,
            "{}: the same users receive coupons of the new event",
            state.name
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn event_deleted_during_preload_is_removed() -> Result<()> {
    let world = World::shared().await?;
    let _operator = world.start_operator()?;
    let large = "{policyName: p, totalCount: 400000, discounts: [{type: Amount, value: 1, count: 400000}], \
                 deletionPolicy: Delete}";
    for _ in 0..2 {
        world.apply("event", large)?;
        world.wait("event", "loading", |status| reason(status, "Open") == "Loading").await?;
        let uid = world.uid("event").await?;
        world.delete("event")?;
        world.wait_gone("event").await?;
        assert_eq!(world.redis_store.observe(&"event".parse()?).await?, None);
        assert_eq!(world.database.event(uid).await?, None);
    }
    Ok(())
}

/// The API server rejects new Kubernetes Events, and all other new resources, in a namespace which is being deleted.
#[tokio::test(flavor = "multi_thread")]
async fn events_are_deleted_with_their_namespace() -> Result<()> {
    let world = World::shared().await?;
    let _operator = world.start_operator()?;
    for name in ["one", "other"] {
        world.apply_open(name, &format!("{{{SPEC}}}")).await?;
    }
    assert_eq!(world.issue("other", 0..3).await?, 3);
    shared::kubectl(&["delete", "namespace", world.namespace(), "--wait=false"])?;
    // In place of the namespace controller.
    shared::kubectl(&["delete", "ce", "--all", "--namespace", world.namespace(), "--wait=false"])?;
    for name in ["one", "other"] {
        world.wait_gone(name).await?;
        assert_eq!(world.redis_store.observe(&name.parse()?).await?, None);
    }
    Ok(())
}

/// An object stored under an older CRD, without some fields of the spec and with another field in the status.
#[tokio::test(flavor = "multi_thread")]
async fn event_of_older_crd_is_reconciled() -> Result<()> {
    let kubernetes = Kubernetes::start()?;
    let world = World::shared().await?;
    let mut older = serde_json::to_value(couponry_crds::crd())?;
    let schema = older.pointer_mut("/spec/versions/0/schema/openAPIV3Schema/properties").context("no schema")?;
    for field in ["scaling", "ttlSecondsAfterFinished", "deletionPolicy"] {
        let spec = schema.pointer_mut("/spec/properties").and_then(Value::as_object_mut).context("no spec")?;
        spec.remove(field).with_context(|| format!("no {field}"))?;
    }
    let status = schema.pointer_mut("/status/properties").and_then(Value::as_object_mut).context("no status")?;
    status.remove("balance").context("no balance")?;
    status.insert("phase".to_owned(), serde_json::json!({"type": "string"}));
    install_crd(kubernetes.kubeconfig(), &older.to_string())?;
    let namespace = world.namespace();
    kubernetes.kubectl(&["create", "namespace", namespace])?;
    let manifest =
        format!("{{apiVersion: couponry.dev/v1alpha1, kind: CouponEvent, metadata: {{name: old}}, spec: {{{SPEC}}}}}");
    kubernetes.kubectl_with(&["create", "--namespace", namespace, "-f", "-"], &manifest)?;
    let status = r#"{"status": {"phase": "Loading", "issued": 0}}"#;
    let patch = ["patch", "ce", "old", "--namespace", namespace, "--subresource=status", "--type=merge", "-p", status];
    kubernetes.kubectl(&patch)?;

    // The new operator runs with the older CRD first, then with the new one.
    let _operator = world.operator_program_at(kubernetes.kubeconfig(), ports::free()?).start()?;
    let events: Api<CouponEvent> = Api::namespaced(client(kubernetes.kubeconfig()).await?, namespace);
    let status = async || Ok::<_, anyhow::Error>(events.get("old").await?.status.unwrap_or_default());
    wait_until("the event is open", async || Ok(is_true(&status().await?, "Open"))).await?;
    install_crd(kubernetes.kubeconfig(), &couponry_crds::crd_yaml())?;
    assert_eq!(world.issue("old", 0..3).await?, 3);
    wait_until("the status has the new fields", async || {
        let balance = status().await?.balance;
        Ok(balance.is_some_and(|balance| balance.generated == 10 && balance.unrecorded == 3))
    })
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_name_the_operator_as_their_field_manager() -> Result<()> {
    let world = World::shared().await?;
    let operator = world.operator_program(ports::free()?).args(["--leader-elect", "--identity", "operator"]);
    let _operator = operator.start()?;
    world.apply("event", &format!("{{{SPEC}}}"))?;
    world.wait_ready("event").await?;
    world.wait_kube_events("event", &["Opened", "PreloadCompleted", "PreloadStarted"]).await?;
    for (kind, others) in [("couponevents", "kubectl-client-side-apply"), ("leases", ""), ("events.events.k8s.io", "")]
    {
        let list = ["get", kind, "--namespace", world.namespace(), "-o"];
        let path = "jsonpath={.items[*].metadata.managedFields[*].manager}";
        let managers = shared::kubectl(&[&list[..], &[path]].concat())?;
        let ours = managers.split_whitespace().filter(|manager| *manager != others);
        ensure!(ours.clone().count() > 0 && ours.clone().all(|name| name == "couponry-operator"), "{kind}: {managers}");
    }
    Ok(())
}
