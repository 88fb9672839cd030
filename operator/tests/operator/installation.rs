//! Two installations on the same stores, and a namespace that continues the installation of another one.

use std::process::Output;

use anyhow::{Context as _, Result, ensure};
use couponry_crds::CONTINUES;
use couponry_domain::EventName;
use couponry_redis::{RedisEvent, RedisStore};
use couponry_testbed::{Redis, http, ports, redis::command, shared};
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::support::{World, is_true, message, reason, wait_operator_ready, wait_until};

fn spec(policy_name: &str, issuance: &str) -> String {
    format!(
        "{{policyName: {policy_name}, totalCount: 100, discounts: [{{type: Amount, value: 1, count: 100}}], \
         issuance: {issuance}}}"
    )
}

/// An open event, ten of whose coupons are issued and recorded.
async fn open_event(world: &World) -> Result<RedisEvent> {
    world.open_event(&spec("first", "Auto")).await?;
    world.record_all("event").await?;
    observe(&world.redis_store).await
}

async fn observe(redis_store: &RedisStore) -> Result<RedisEvent> {
    redis_store.observe(&"event".parse::<EventName>()?).await?.context("the event is not in Redis")
}

/// Waits until an operator is not ready because its stores belong to another installation.
async fn wait_refused(monitor: u16, text: &str) -> Result<()> {
    wait_until("the operator refuses the stores", async || {
        let response = http::get(monitor, "/readyz");
        Ok(response.is_some_and(|(status, body)| status == 503 && body.contains(text)))
    })
    .await
}

fn text(output: &Output) -> String {
    [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn second_operator_on_the_same_stores_changes_nothing() -> Result<()> {
    let world = World::shared().await?;
    let _operator = world.start_operator()?;
    let before = open_event(&world).await?;
    ensure!(before.installation == Some(world.database.installation().await?.id), "{before:?}");

    let second = world.in_another_namespace().await?;
    let monitor = ports::free()?;
    let _second = second.operator_program(monitor).start()?;
    second.apply("event", &spec("first", "Closed"))?;
    let owner = format!("of the namespace {}", world.namespace());
    wait_refused(monitor, &owner).await?;
    let check = second.run_command(&["check"], &[])?;
    let checked = text(&check);
    ensure!(check.status.code() == Some(1) && checked.contains("FAIL  installation"), "{checked}");
    ensure!(checked.contains(&owner) && checked.contains(second.namespace()), "{checked}");

    // The first operator reconciles several times meanwhile.
    world.apply("event", &spec("first", "Paused"))?;
    world.wait("event", "paused", |status| reason(status, "Open") == "Paused").await?;
    let after = observe(&world.redis_store).await?;
    assert_eq!((after.uid, after.issued, after.available), (before.uid, 10, 90));
    ensure!(second.get("event").await?.status.is_none(), "the event of the second namespace is not reconciled");
    assert_eq!(world.database.event_uids(&"event".parse()?).await?, [before.uid]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn operator_with_new_database_refuses_the_redis_of_another_installation() -> Result<()> {
    let world = World::shared().await?;
    let operator = world.start_operator()?;
    let before = open_event(&world).await?;
    operator.stop()?;

    let monitor = ports::free()?;
    let empty = world.with_new_database()?;
    let _operator = empty.operator_program(monitor).start()?;
    wait_refused(monitor, "Redis belongs to the installation").await?;
    assert!(empty.database.event_uids(&"event".parse()?).await?.is_empty());
    assert_eq!(observe(&world.redis_store).await?.uid, before.uid);
    Ok(())
}

/// A cluster or a namespace was restored: the uids of the namespace and of its events differ.
#[tokio::test(flavor = "multi_thread")]
async fn take_over_continues_events_and_stops_the_previous_operator() -> Result<()> {
    let world = World::shared().await?;
    let operator = world.start_operator()?;
    let before = open_event(&world).await?;
    // The generations of the restored object begin again.
    for policy_name in ["second", "third"] {
        world.apply("event", &spec(policy_name, "Auto"))?;
        world.wait_ready("event").await?;
    }
    let coupons = world.redis_store.scan_issued(&"event".parse()?).await?;
    let stock = world.coupons_in_postgres(before.uid).await?;

    let restored = world.in_another_namespace().await?;
    restored.apply("event", &spec("first", "Auto"))?;
    restored.apply("new", &spec("first", "Auto"))?;
    let restored_uid = restored.uid("event").await?;
    assert_ne!(restored_uid, before.uid);
    let monitor = ports::free()?;
    let _restored = restored.operator_program(monitor).start()?;
    wait_refused(monitor, "couponry-operator take-over").await?;

    let dry_run = restored.run_command(&["take-over"], &[])?;
    ensure!(dry_run.status.code() == Some(1), "{}", text(&dry_run));
    ensure!(text(&dry_run).contains(&format!("will continue the stored event {}", before.uid)), "{}", text(&dry_run));
    ensure!(operator.process().exited()?.is_none(), "the dry run changes nothing");
    let taken = restored.run_command(&["take-over", "--yes"], &[])?;
    ensure!(taken.status.success(), "{}", text(&taken));
    ensure!(!text(&taken).contains("event new"), "{}", text(&taken));

    wait_until("the previous operator stops", async || Ok(operator.process().exited()?.is_some())).await?;
    ensure!(operator.log().contains("belongs to the installation"), "{}", operator.log());
    wait_operator_ready(monitor).await?;
    for name in ["event", "new"] {
        restored.wait(name, "open", |status| is_true(status, "Open")).await?;
    }
    assert_eq!(restored.uid("event").await?, before.uid, "the event continues");
    assert_eq!(restored.issue("event", 0..10).await?, 0, "each user keeps the coupon");
    assert_eq!(restored.redis_store.scan_issued(&"event".parse()?).await?, coupons);
    assert_eq!(restored.coupons_in_postgres(before.uid).await?, stock);
    let status = restored.get("event").await?.status.context("no status")?;
    assert_eq!((status.issued, status.recorded, status.available), (Some(10), Some(10), Some(90)));

    restored.apply("event", &spec("first", "Paused"))?;
    restored.wait("event", "paused", |status| reason(status, "Open") == "Paused").await?;
    let repeated = restored.run_command(&["take-over"], &[])?;
    ensure!(repeated.status.success(), "nothing is left to do: {}", text(&repeated));
    Ok(())
}

/// The annotation of a take-over was copied with the manifest.
#[tokio::test(flavor = "multi_thread")]
async fn refused_copy_of_an_event_affects_neither_its_recovery_nor_its_rows() -> Result<()> {
    let redis = Redis::start()?;
    let world = World::with_redis(&redis.url()).await?;
    let _operator = world.operator_program(ports::free()?).args(["--redis-recovery-grace-seconds", "4"]).start()?;
    let event = open_event(&world).await?;
    let copy = json!({
        "apiVersion": "couponry.dev/v1alpha1",
        "kind": "CouponEvent",
        "metadata": {
            "name": "copy",
            "namespace": world.namespace(),
            "annotations": {CONTINUES: format!("{}/1", event.uid)},
        },
        "spec": {
            "policyName": "first",
            "totalCount": 100,
            "discounts": [{"type": "Amount", "value": 1, "count": 100}],
            "deletionPolicy": "Delete",
        },
    });
    shared::kubectl_with(&["create", "-f", "-"], &copy.to_string())?;
    world.wait("copy", "refused", |status| reason(status, "Stalled") == "ChangeNotPossible").await?;

    command(&redis.url(), &["FLUSHALL"])?;
    wait_until("the event is recovered", async || {
        Ok(observe(&world.redis_store).await.is_ok_and(|event| event.is_verified && event.issued == 10))
    })
    .await?;
    world.delete("copy")?;
    world.wait_gone("copy").await?;
    assert_eq!(world.database.recorded_count(event.uid).await?, 10);
    assert_eq!(world.coupons_in_postgres(event.uid).await?.len(), 100);
    let stored = world.database.events_not_deleted(&"event".parse()?).await?;
    assert_eq!(stored.into_iter().map(|(uid, _)| uid).collect::<Vec<_>>(), [event.uid]);
    Ok(())
}

/// An event is missing in Kubernetes without having been deleted, as after a restore of etcd, and is created again.
#[tokio::test(flavor = "multi_thread")]
async fn event_that_was_not_deleted_is_not_replaced() -> Result<()> {
    let world = World::shared().await?;
    let operator = world.start_operator()?;
    let before = open_event(&world).await?;
    operator.stop()?;
    let remove = json!([{"op": "remove", "path": "/metadata/finalizers"}]);
    let remove = Patch::Json::<()>(serde_json::from_value(remove)?);
    world.events.patch("event", &PatchParams::default(), &remove).await?;
    world.delete("event")?;
    world.wait_gone("event").await?;

    world.apply("event", &spec("first", "Auto"))?;
    operator.restart()?;
    let is_refused = |status: &_| {
        reason(status, "Stalled") == "NameConflict" && message(status, "Stalled").contains(&before.uid.to_string())
    };
    world.wait("event", "refused", is_refused).await?;
    let after = observe(&world.redis_store).await?;
    assert_eq!((after.uid, after.gate, after.issued), (before.uid, before.gate, 10));
    assert_eq!(world.issue("event", 0..10).await?, 0, "each user keeps the coupon");

    // The same if Redis has lost it.
    let keys = ["Meta", "Queue", "Issued", "Outbox"].map(|kind| world.key(&format!("coupon{kind}"), "event"));
    world.redis(&[&["DEL"][..], &keys.each_ref().map(String::as_str)].concat())?;
    operator.stop()?;
    operator.restart()?;
    world.wait("event", "refused", is_refused).await?;
    assert_eq!(world.redis_store.observe(&"event".parse()?).await?, None);
    assert_eq!(world.database.event_uids(&"event".parse()?).await?, [before.uid]);

    // An administrator declares that it is obsolete.
    let replaces = json!({"metadata": {"annotations": {"couponry.dev/replaces": before.uid.to_string()}}});
    world.events.patch("event", &PatchParams::default(), &Patch::Merge(replaces)).await?;
    world.wait("event", "open", |status| is_true(status, "Open")).await?;
    world.check_generated_stock("event", &[("AMOUNT:1", 100)]).await
}

/// The namespace was deleted and created again, so that it has another uid.
#[tokio::test(flavor = "multi_thread")]
async fn namespace_that_was_created_again_claims_stores_without_events() -> Result<()> {
    let world = World::shared().await?;
    let operator = world.start_operator()?;
    open_event(&world).await?;
    operator.stop()?;
    world.test_database.sql("UPDATE installation SET namespace_uid = 'an earlier uid'")?;
    let monitor = ports::free()?;
    let _operator = world.operator_program(monitor).start()?;
    wait_refused(monitor, "couponry-operator take-over").await?;

    world.test_database.sql("UPDATE coupon_event SET resource_deleted_at = now()")?;
    wait_operator_ready(monitor).await?;
    let owner = world.database.installation().await?.owner.context("no owner")?;
    assert_ne!(owner.uid, "an earlier uid");
    Ok(())
}

/// Negative control: without the checks, the second operator removes the live event.
#[tokio::test(flavor = "multi_thread")]
async fn second_operator_without_checks_replaces_the_event() -> Result<()> {
    let world = World::shared().await?;
    let operator = world.start_operator()?;
    let before = open_event(&world).await?;
    operator.stop()?;
    let second = world.in_another_namespace().await?;
    let program = second.operator_program(ports::free()?).env("FAILPOINTS", "operator.ignore-installation=return");
    let _second = program.start()?;
    second.apply_open("event", &spec("first", "Auto")).await?;
    assert_ne!(observe(&world.redis_store).await?.uid, before.uid);
    assert_eq!(second.issue("event", 0..10).await?, 10, "the users receive a second coupon");
    Ok(())
}
