//! Deletion of events: waiting for recorded coupons, the deletion policy, and the keys and rows that stay.

use anyhow::{Context as _, Result};
use couponry_testbed::Redis;

use crate::support::{World, is_true, message, reason, wait_until};

fn spec(fields: &str) -> String {
    format!("{{policyName: p, totalCount: 100, discounts: [{{type: Amount, value: 1, count: 100}}]{fields}}}")
}

#[tokio::test(flavor = "multi_thread")]
async fn deletion_waits_for_recording_and_keeps_rows() -> Result<()> {
    let mut world = World::shared().await?;
    world.deletion_timeout_seconds = 600;
    let _operator = world.start_operator()?;
    let uid = world.open_event(&spec("")).await?;

    world.delete("event")?;
    wait_until("the status reports the deletion", async || {
        let status = world.get("event").await?.status.unwrap_or_default();
        Ok(reason(&status, "Stalled") == "Deleting")
    })
    .await?;
    assert_eq!(world.issue("event", 10..20).await?, 0, "the gate is closed");
    world.record_all("event").await?;
    world.wait_gone("event").await?;
    assert_eq!(world.redis_store.observe(&"event".parse()?).await?, None);
    assert_eq!(world.database.recorded_count(uid).await?, 10);
    assert_eq!(world.coupons_in_postgres(uid).await?.len(), 100);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn deletion_with_policy_delete_removes_rows() -> Result<()> {
    let world = World::shared().await?;
    let _operator = world.start_operator()?;
    let uid = world.open_event(&spec(", deletionPolicy: Delete")).await?;
    world.record_all("event").await?;
    world.delete("event")?;
    world.wait_gone("event").await?;
    assert_eq!(world.database.event(uid).await?, None);
    assert_eq!(world.redis_store.observe(&"event".parse()?).await?, None);

    world.apply("event", &spec(""))?;
    world.wait("event", "open as a new event", |status| is_true(status, "Open")).await?;
    assert_ne!(world.uid("event").await?, uid);
    assert_eq!(world.issue("event", 0..200).await?, 100, "the same users receive coupons of the new event");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn deletion_records_issuances_without_record_in_flight() -> Result<()> {
    let mut world = World::shared().await?;
    world.deletion_timeout_seconds = 600;
    let _operator = world.start_operator()?;
    let uid = world.open_event(&spec("")).await?;
    // As if Kafka had lost confirmed records.
    world.redis(&["DEL", &world.key("couponOutbox", "event")])?;
    world.delete("event")?;
    world.wait_gone("event").await?;
    assert_eq!(world.database.recorded_count(uid).await?, 10);
    let reasons = world.kube_event_reasons("event").await?;
    assert!(!reasons.contains(&"CleanupIncomplete".to_owned()), "{reasons:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn deletion_without_consumer_records_issuances_after_timeout() -> Result<()> {
    let world = World::shared().await?;
    let _operator = world.start_operator()?;
    let uid = world.open_event(&spec("")).await?;
    world.delete("event")?;
    world.wait_gone("event").await?;
    assert_eq!(world.database.recorded_count(uid).await?, 10);
    let reasons = world.kube_event_reasons("event").await?;
    assert!(!reasons.contains(&"CleanupIncomplete".to_owned()), "{reasons:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn deletion_with_conflicting_issuance_completes_after_timeout() -> Result<()> {
    let world = World::shared().await?;
    let _operator = world.start_operator()?;
    let uid = world.open_event(&spec("")).await?;
    let coupon =
        &world.redis_store.scan_issued(&"event".parse()?).await?.into_values().next().context("none")?.issued.coupon;
    world.test_database.sql(&format!(
        "INSERT INTO issuance (event_uid, user_id, code, type, value, issued_at)
         VALUES ('{uid}', 'ghost', '{coupon}', 'AMOUNT', 1, now())"
    ))?;
    world.delete("event")?;
    world.wait_gone("event").await?;
    assert_eq!(world.database.recorded_count(uid).await?, 10, "nine and the ghost");
    let reasons = world.kube_event_reasons("event").await?;
    assert!(reasons.contains(&"CleanupIncomplete".to_owned()), "{reasons:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn deletion_without_redis_completes_and_late_issuances_are_recorded() -> Result<()> {
    let redis = Redis::start()?;
    let world = World::with_redis(&redis.url()).await?;
    let _operator = world.start_operator()?;
    world.apply_open("event", &spec(", deletionPolicy: Delete")).await?;
    let uid = world.uid("event").await?;
    redis.pause()?;
    world.delete("event")?;
    world.wait_gone("event").await?;
    let reasons = world.kube_event_reasons("event").await?;
    assert!(reasons.contains(&"CleanupIncomplete".to_owned()), "{reasons:?}");
    assert_ne!(world.database.event(uid).await?, None, "the rows stay");

    redis.resume()?;
    assert_eq!(world.issue("event", 0..10).await?, 10, "the gate in Redis is still open");
    world.record_all_by_uid("event", uid).await?;
    assert_eq!(world.database.recorded_count(uid).await?, 10);

    world.apply("event", &spec(""))?;
    world.wait("event", "open as a new event", |status| is_true(status, "Open")).await?;
    world.check_generated_stock("event", &[("AMOUNT:1", 100)]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn deletion_waits_for_locked_rows_and_says_so() -> Result<()> {
    let mut world = World::shared().await?;
    world.deletion_timeout_seconds = 600;
    let _operator = world.start_operator()?;
    let uid = world.open_event(&spec(", deletionPolicy: Delete")).await?;
    world.record_all("event").await?;
    let lock = world.test_database.hold("SELECT FROM issuance FOR UPDATE")?;
    world.delete("event")?;
    wait_until("the status reports the deletion", async || {
        let status = world.get("event").await?.status.unwrap_or_default();
        let cause = message(&status, "Ready").contains("lock timeout");
        let is_deleting = |type_: &str| reason(&status, type_) == "Deleting" && !is_true(&status, type_);
        Ok(cause && is_deleting("Ready") && is_deleting("Open"))
    })
    .await?;
    drop(lock);
    world.wait_gone("event").await?;
    assert_eq!(world.database.event(uid).await?, None);
    assert_eq!(world.database.recorded_count(uid).await?, 0);
    Ok(())
}

/// Otherwise a new event could not have the name.
#[tokio::test(flavor = "multi_thread")]
async fn deletion_waits_until_the_retained_event_is_marked_as_deleted() -> Result<()> {
    let mut world = World::shared().await?;
    world.deletion_timeout_seconds = 600;
    let _operator = world.start_operator()?;
    let uid = world.open_event(&spec("")).await?;
    world.record_all("event").await?;
    let lock = world.test_database.hold(&format!("SELECT FROM coupon_event WHERE uid = '{uid}' FOR UPDATE"))?;
    world.delete("event")?;
    wait_until("the status reports the deletion", async || {
        let status = world.get("event").await?.status.unwrap_or_default();
        Ok(reason(&status, "Ready") == "Deleting" && message(&status, "Ready").contains("its name stays in use"))
    })
    .await?;
    drop(lock);
    world.wait_gone("event").await?;
    assert_eq!(world.database.events_not_deleted(&"event".parse()?).await?, []);
    world.apply_open("event", &spec("")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_locked_for_long_are_deleted_later() -> Result<()> {
    let world = World::shared().await?;
    let _operator = world.start_operator()?;
    for name in ["event", "marked"] {
        world.apply_open(name, &spec(", deletionPolicy: Delete")).await?;
        assert_eq!(world.issue(name, 0..10).await?, 10);
        world.record_all(name).await?;
    }
    let uids = [world.uid("event").await?, world.uid("marked").await?];
    // The deletion of the first cannot even be marked in Postgres.
    let event = format!("SELECT FROM coupon_event WHERE uid = '{}' FOR UPDATE", uids[0]);
    let locks = [world.test_database.hold(&event)?, world.test_database.hold("SELECT FROM issuance FOR UPDATE")?];
    for name in ["event", "marked"] {
        world.delete(name)?;
    }
    for (name, uid) in ["event", "marked"].into_iter().zip(uids) {
        world.wait_gone(name).await?;
        let reasons = world.kube_event_reasons(name).await?;
        assert!(reasons.contains(&"CleanupIncomplete".to_owned()), "{reasons:?}");
        assert_ne!(world.database.event(uid).await?, None, "the rows are locked");
    }
    drop(locks);
    wait_until("the rows are deleted", async || {
        Ok(world.database.event(uids[0]).await?.is_none() && world.database.event(uids[1]).await?.is_none())
    })
    .await
}
