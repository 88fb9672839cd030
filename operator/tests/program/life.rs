//! An event in each of its states: the operator starts again, the event is deleted, its name is used again.

use anyhow::{Context as _, Result, ensure};
use couponry_crds::{CouponEvent, CouponEventStatus};
use couponry_testbed::{Kubernetes, ports, shared};
use kube::{
    Api, Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::Value;

use crate::stage::{Stage, eventually, holds, monitor, reason};

const PLAIN: &str = "policyName: p, totalCount: 10, discounts: [{type: Amount, value: 1, count: 10}]";

/// A state, how an event comes into it, and how many users have a coupon then.
struct State {
    name: &'static str,
    before: &'static str,
    asked: u32,
    after: Option<&'static str>,
    /// The reason of Open.
    open: &'static str,
    /// The reason of Ready.
    ready: &'static str,
}

const STATES: [State; 8] = [
    State {
        name: "waiting",
        before: "startTime: '2100-01-01T00:00:00Z'",
        asked: 0,
        after: None,
        open: "Scheduled",
        ready: "StockComplete",
    },
    State { name: "open", before: "issuance: Auto", asked: 3, after: None, open: "Open", ready: "StockComplete" },
    State {
        name: "paused",
        before: "issuance: Auto",
        asked: 3,
        after: Some("issuance: Paused"),
        open: "Paused",
        ready: "StockComplete",
    },
    State {
        name: "sold-out",
        before: "issuance: Auto",
        asked: 10,
        after: None,
        open: "SoldOut",
        ready: "StockComplete",
    },
    State {
        name: "ended",
        before: "issuance: Auto",
        asked: 3,
        after: Some("endTime: '2020-01-01T00:00:00Z'"),
        open: "Ended",
        ready: "StockComplete",
    },
    State {
        name: "closed",
        before: "issuance: Auto",
        asked: 3,
        after: Some("issuance: Closed"),
        open: "Closed",
        ready: "Closed",
    },
    State {
        name: "retired",
        before: "issuance: Auto",
        asked: 3,
        after: Some("issuance: Closed, ttlSecondsAfterFinished: 0"),
        open: "Closed",
        ready: "Retired",
    },
    State { name: "stalled", before: "issuance: Auto", asked: 3, after: None, open: "Open", ready: "DriftFound" },
];

impl State {
    async fn reach(&self, stage: &Stage) -> Result<()> {
        let &Self { name, before, asked, after, .. } = self;
        stage.apply(name, &format!("{{{PLAIN}, {before}}}"))?;
        stage.wait_ready(name).await?;
        if asked > 0 {
            stage.wait(name, "open", |status| holds(status, "Open")).await?;
            assert_eq!(stage.ask(name, 0..asked).await?, usize::try_from(asked)?, "{name}");
            stage.record_all(name).await?;
        }
        if self.ready == "DriftFound" {
            stage.lose_coupon(name)?;
        }
        if let Some(after) = after {
            stage.apply(name, &format!("{{{PLAIN}, {after}}}"))?;
        }
        self.wait(stage).await.map(drop)
    }

    async fn wait(&self, stage: &Stage) -> Result<CouponEventStatus> {
        stage
            .wait(self.name, "in its state", |status| {
                let is_counted = status.recorded == Some(self.asked.into()) && status.issued == status.recorded;
                is_counted && reason(status, "Open") == self.open && reason(status, "Ready") == self.ready
            })
            .await
    }
}

/// What of a status does not change while nothing happens.
fn essence(status: &CouponEventStatus) -> Value {
    let conditions: Vec<_> =
        status.conditions.iter().map(|one| (&one.type_, &one.status, &one.reason, &one.message)).collect();
    let counts = (status.loaded, status.issued, status.recorded, status.available, status.balance);
    serde_json::json!([conditions, counts, status.opened_at, status.sold_out_at, status.finished_at])
}

#[tokio::test(flavor = "multi_thread")]
async fn in_every_state_the_operator_starts_again_and_the_event_is_deleted_and_made_anew() -> Result<()> {
    let stage = Stage::new().await?;
    let port = ports::free()?;
    let operator = stage.program(port).start()?;
    for state in &STATES {
        state.reach(&stage).await?;
    }

    let mut before = Vec::new();
    for state in &STATES {
        before.push((essence(&state.wait(&stage).await?), stage.story(state.name).await?));
    }
    operator.kill9()?;
    operator.restart()?;
    eventually("it has looked at each of them", async || {
        let Some((200, metrics)) = monitor(port, "/metrics").await else { return Ok(false) };
        Ok(STATES.iter().all(|state| metrics.contains(&format!("balance_generated{{event=\"{}\"}}", state.name))))
    })
    .await?;
    for (state, (essence_before, story)) in STATES.iter().zip(&before) {
        assert_eq!(&essence(&state.wait(&stage).await?), essence_before, "{}: nothing has happened", state.name);
        // What happened last may have been told only after we listened.
        let mut now = stage.story(state.name).await?;
        now.retain(|told| story.contains(told));
        assert_eq!(&now, story, "{}: nothing is told twice", state.name);
    }

    for state in &STATES {
        let uid = stage.uid(state.name).await?;
        stage.delete(state.name)?;
        stage.wait_gone(state.name).await?;
        assert_eq!(stage.stock.observe(&state.name.parse()?).await?, None, "{}", state.name);
        assert_eq!(stage.database.recorded_count(uid).await?, u64::from(state.asked), "{}: its records stay", state.name);

        stage.apply(state.name, &format!("{{{PLAIN}}}"))?;
        let anew = stage.wait(state.name, "open anew", |status| holds(status, "Open")).await?;
        assert_eq!((anew.issued, anew.recorded, anew.available), (Some(0), Some(0), Some(10)), "{}", state.name);
        ensure!(anew.sold_out_at.is_none() && anew.finished_at.is_none() && holds(&anew, "Balanced"), "{anew:#?}");
        stage.check_whole(state.name, &[("AMOUNT:1", 10)]).await?;
        let old = stage.database.coupons(uid, 0, 100).await?;
        let new = stage.coupons_in_postgres(stage.uid(state.name).await?).await?;
        ensure!(old.iter().all(|old| new.iter().all(|new| new.code != old.code)), "{}: an old code", state.name);
        assert_eq!(stage.ask(state.name, 0..3).await?, 3, "{}: whoever had one may have one again", state.name);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_deleted_while_its_coupons_are_made() -> Result<()> {
    let stage = Stage::new().await?;
    let _operator = stage.operator()?;
    let large = "{policyName: p, totalCount: 400000, discounts: [{type: Amount, value: 1, count: 400000}], deletionPolicy: Delete}";
    for _ in 0..2 {
        stage.apply("event", large)?;
        stage.wait("event", "loading", |status| reason(status, "Open") == "Loading").await?;
        let uid = stage.uid("event").await?;
        stage.delete("event")?;
        stage.wait_gone("event").await?;
        assert_eq!(stage.stock.observe(&"event".parse()?).await?, None);
        assert_eq!(stage.database.event(uid).await?, None);
    }
    Ok(())
}

/// No Kubernetes Event can be made in a namespace that is being deleted, and nothing else that is new.
#[tokio::test(flavor = "multi_thread")]
async fn events_go_with_their_namespace() -> Result<()> {
    let stage = Stage::new().await?;
    let _operator = stage.operator()?;
    for name in ["one", "other"] {
        stage.apply(name, &format!("{{{PLAIN}}}"))?;
        stage.wait(name, "open", |status| holds(status, "Open")).await?;
    }
    assert_eq!(stage.ask("other", 0..3).await?, 3);
    shared::kubectl(&["delete", "namespace", stage.namespace(), "--wait=false"])?;
    // What the namespace controller would do.
    shared::kubectl(&["delete", "ce", "--all", "--namespace", stage.namespace(), "--wait=false"])?;
    for name in ["one", "other"] {
        stage.wait_gone(name).await?;
        assert_eq!(stage.stock.observe(&name.parse()?).await?, None);
    }
    Ok(())
}

/// An object that was stored under a definition that knew less, and other things in the status.
#[tokio::test(flavor = "multi_thread")]
async fn an_object_of_an_older_definition_is_read() -> Result<()> {
    let kubernetes = Kubernetes::start()?;
    let stage = Stage::new().await?;
    let mut older = serde_json::to_value(couponry_crds::crd())?;
    let schema = older.pointer_mut("/spec/versions/0/schema/openAPIV3Schema/properties").context("no schema")?;
    for gone in ["scaling", "ttlSecondsAfterFinished", "deletionPolicy"] {
        let spec = schema.pointer_mut("/spec/properties").and_then(Value::as_object_mut).context("no spec")?;
        spec.remove(gone).with_context(|| format!("no {gone}"))?;
    }
    let status = schema.pointer_mut("/status/properties").and_then(Value::as_object_mut).context("no status")?;
    status.remove("balance").context("no balance")?;
    status.insert("phase".to_owned(), serde_json::json!({"type": "string"}));
    let apply = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
    kubernetes.kubectl_with(&apply, &older.to_string())?;
    kubernetes.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "crd/couponevents.couponry.dev"])?;
    let namespace = stage.namespace();
    kubernetes.kubectl(&["create", "namespace", namespace])?;
    let manifest =
        format!("{{apiVersion: couponry.dev/v1alpha1, kind: CouponEvent, metadata: {{name: old}}, spec: {{{PLAIN}}}}}");
    kubernetes.kubectl_with(&["create", "--namespace", namespace, "-f", "-"], &manifest)?;
    let status = r#"{"status": {"phase": "Loading", "issued": 0}}"#;
    let patch = ["patch", "ce", "old", "--namespace", namespace, "--subresource=status", "--type=merge", "-p", status];
    kubernetes.kubectl(&patch)?;

    // The new operator comes before the new definition, and with it.
    let _operator = stage.program_on(kubernetes.kubeconfig(), ports::free()?).start()?;
    let kubeconfig = Kubeconfig::read_from(kubernetes.kubeconfig())?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let events: Api<CouponEvent> = Api::namespaced(Client::try_from(config)?, namespace);
    let status = async || Ok::<_, anyhow::Error>(events.get("old").await?.status.unwrap_or_default());
    eventually("it is open", async || Ok(holds(&status().await?, "Open"))).await?;
    kubernetes.kubectl_with(&apply, &couponry_crds::crd_yaml())?;
    assert_eq!(stage.ask("old", 0..3).await?, 3);
    eventually("the new fields are there", async || {
        let balance = status().await?.balance;
        Ok(balance.is_some_and(|balance| balance.generated == 10 && balance.unrecorded == 3))
    })
    .await?;
    Ok(())
}
