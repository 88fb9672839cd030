//! What deleting an event leaves.

use anyhow::Result;
use couponry_testbed::Redis;

use crate::stage::{Stage, eventually, holds, reason};

fn spec(more: &str) -> String {
    format!("{{policyName: p, totalCount: 100, discounts: [{{type: Amount, value: 1, count: 100}}]{more}}}")
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_waits_for_what_users_were_told_and_keeps_the_rows() -> Result<()> {
    let mut stage = Stage::new().await?;
    stage.drain_timeout_seconds = 600;
    let _operator = stage.operator()?;
    stage.apply("event", &spec(""))?;
    stage.wait("event", "open", |status| holds(status, "Open")).await?;
    let uid = stage.uid("event").await?;
    assert_eq!(stage.ask("event", 0..10).await?, 10);

    stage.delete("event")?;
    eventually("the deletion waits", async || {
        let status = stage.get("event").await?.status.unwrap_or_default();
        Ok(reason(&status, "Stalled") == "Deleting")
    })
    .await?;
    assert_eq!(stage.ask("event", 10..20).await?, 0, "the gate is closed");
    stage.record_all("event").await?;
    stage.wait_gone("event").await?;
    assert_eq!(stage.stock.observe(&"event".parse()?).await?, None);
    assert_eq!(stage.database.recorded_count(uid).await?, 10);
    assert_eq!(stage.coupons_in_postgres(uid).await?.len(), 100);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_policy_delete_the_rows_go_as_well() -> Result<()> {
    let stage = Stage::new().await?;
    let _operator = stage.operator()?;
    stage.apply("event", &spec(", deletionPolicy: Delete"))?;
    stage.wait("event", "open", |status| holds(status, "Open")).await?;
    let uid = stage.uid("event").await?;
    assert_eq!(stage.ask("event", 0..10).await?, 10);
    stage.record_all("event").await?;
    stage.delete("event")?;
    stage.wait_gone("event").await?;
    assert_eq!(stage.database.event(uid).await?, None);
    assert_eq!(stage.stock.observe(&"event".parse()?).await?, None);

    stage.apply("event", &spec(""))?;
    stage.wait("event", "open anew", |status| holds(status, "Open")).await?;
    assert_ne!(stage.uid("event").await?, uid);
    assert_eq!(stage.ask("event", 0..200).await?, 100, "it is another event: who had a coupon may have one again");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_never_recorded_does_not_hold_the_deletion_for_ever() -> Result<()> {
    let stage = Stage::new().await?;
    let _operator = stage.operator()?;
    stage.apply("event", &spec(""))?;
    stage.wait("event", "open", |status| holds(status, "Open")).await?;
    assert_eq!(stage.ask("event", 0..10).await?, 10);
    stage.delete("event")?;
    stage.wait_gone("event").await?;
    let story = stage.story("event").await?;
    assert!(story.contains(&"CleanupIncomplete".to_owned()), "{story:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_away_does_not_hold_the_deletion_for_ever_and_what_it_gives_can_be_recorded() -> Result<()> {
    let redis = Redis::start()?;
    let database = couponry_testbed::Database::create()?;
    let postgres = database.url();
    let stage = Stage::on(database, &redis.url(), &postgres).await?;
    let _operator = stage.operator()?;
    stage.apply("event", &spec(", deletionPolicy: Delete"))?;
    stage.wait("event", "open", |status| holds(status, "Open")).await?;
    let uid = stage.uid("event").await?;
    redis.pause()?;
    stage.delete("event")?;
    stage.wait_gone("event").await?;
    let story = stage.story("event").await?;
    assert!(story.contains(&"CleanupIncomplete".to_owned()), "{story:?}");
    assert_ne!(stage.database.event(uid).await?, None, "the rows stay");

    redis.resume()?;
    assert_eq!(stage.ask("event", 0..10).await?, 10, "nobody could tell it that the event is over");
    stage.record_all_of("event", uid).await?;
    assert_eq!(stage.database.recorded_count(uid).await?, 10);

    stage.apply("event", &spec(""))?;
    stage.wait("event", "open anew", |status| holds(status, "Open")).await?;
    stage.check_whole("event", &[("AMOUNT:1", 100)]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_an_earlier_event_of_the_name_left_make_room() -> Result<()> {
    let stage = Stage::new().await?;
    let operator = stage.operator()?;
    stage.apply("event", &spec(""))?;
    stage.wait("event", "open", |status| holds(status, "Open")).await?;
    let earlier = stage.uid("event").await?;
    // Its finalizer is taken off by hand, so that nothing is cleaned.
    operator.stop()?;
    let remove = serde_json::json!([{"op": "remove", "path": "/metadata/finalizers"}]);
    let remove = kube::api::Patch::Json::<()>(serde_json::from_value(remove)?);
    stage.events.patch("event", &kube::api::PatchParams::default(), &remove).await?;
    stage.delete("event")?;
    stage.wait_gone("event").await?;
    assert_eq!(stage.stock.observe(&"event".parse()?).await?.map(|redis| redis.uid), Some(earlier));

    operator.restart()?;
    stage.apply("event", &spec(""))?;
    stage.wait("event", "open", |status| holds(status, "Open")).await?;
    stage.check_whole("event", &[("AMOUNT:1", 100)]).await
}
