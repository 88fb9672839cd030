//! Deletion of events whose coupons were used: it ends their use, and waits until the uses are sent to Kafka.

use anyhow::{Context as _, Result};
use couponry_domain::{
    Uuid,
    redemption::{Change, Order},
};
use couponry_postgres::{SendOutcome, UseOutcome, UseRequest};
use couponry_testbed::{ports, program::Running};
use serde_json::json;

use crate::support::{World, message, reason, wait_until};

fn spec(fields: &str) -> String {
    format!("{{policyName: p, totalCount: 100, discounts: [{{type: Amount, value: 1, count: 100}}]{fields}}}")
}

fn start_operator(world: &World, sends_uses: bool) -> Result<Running> {
    let topic = format!("{}-used", world.topic);
    let args = if sends_uses { vec!["--kafka-used-topic", &topic] } else { Vec::new() };
    world.operator_program(ports::free()?).args(args).start()
}

/// Records all issuances of the event, and redeems one of its coupons: an entry in the outbox of uses.
async fn redeem_one(world: &World, name: &str) -> Result<()> {
    world.record_all(name).await?;
    world
        .test_database
        .sql(&format!(
            "INSERT INTO coupon_use (event_uid, code, seq, kind, order_ref, at)
             SELECT event_uid, code, 1, 'REDEEMED', 'order-1', now() FROM issuance WHERE event_uid = '{}' LIMIT 1",
            world.uid(name).await?
        ))
        .map(drop)
}

/// Sends all uses that wait, in place of a redeemer. Returns their events.
async fn send_uses(world: &World) -> Result<Vec<Uuid>> {
    let mut sent = Vec::new();
    let outcome = world.database.send_uses(10, async |pending| {
        sent.extend(pending.records.into_iter().map(|record| record.event_uid));
        true
    });
    anyhow::ensure!(outcome.await? == SendOutcome::Sent, "nothing was sent");
    Ok(sent)
}

async fn wait_for_unsent_use(world: &World) -> Result<()> {
    wait_until("the status reports the unsent use", async || {
        let status = world.get("event").await?.status.unwrap_or_default();
        let is_deleting = reason(&status, "Ready") == "Deleting";
        Ok(is_deleting && message(&status, "Ready").contains("that the redeemers have not sent to Kafka yet: 1"))
    })
    .await
}

/// Starts the deletion of an event with its rows, which waits for a use that is not sent.
async fn start_waiting_deletion(world: &World) -> Result<Uuid> {
    let uid = world.open_event(&spec(", deletionPolicy: Delete")).await?;
    redeem_one(world, "event").await?;
    world.delete("event")?;
    wait_for_unsent_use(world).await?;
    Ok(uid)
}

#[tokio::test(flavor = "multi_thread")]
async fn deletion_of_rows_waits_until_uses_are_sent() -> Result<()> {
    let mut world = World::shared().await?;
    world.deletion_timeout_seconds = 600;
    let _operator = start_operator(&world, true)?;
    let uid = start_waiting_deletion(&world).await?;
    assert_eq!(send_uses(&world).await?, [uid]);
    world.wait_gone("event").await?;
    assert_eq!(world.database.event(uid).await?, None);
    let reasons = world.kube_event_reasons("event").await?;
    assert!(!reasons.contains(&"CleanupIncomplete".to_owned()), "{reasons:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn deletion_of_rows_reports_uses_that_were_not_sent_within_timeout() -> Result<()> {
    let world = World::shared().await?;
    let _operator = start_operator(&world, true)?;
    let uid = world.open_event(&spec(", deletionPolicy: Delete")).await?;
    redeem_one(&world, "event").await?;
    world.delete("event")?;
    world.wait_gone("event").await?;
    assert_eq!(world.database.event(uid).await?, None);
    let reasons = world.kube_event_reasons("event").await?;
    assert!(reasons.contains(&"CleanupIncomplete".to_owned()), "{reasons:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn deletion_does_not_wait_for_uses_that_are_retained_or_never_sent() -> Result<()> {
    for (policy, sends_uses) in [("Retain", true), ("Delete", false)] {
        let mut world = World::shared().await?;
        world.deletion_timeout_seconds = 600;
        let _operator = start_operator(&world, sends_uses)?;
        world.open_event(&spec(&format!(", deletionPolicy: {policy}"))).await?;
        redeem_one(&world, "event").await?;
        world.delete("event")?;
        world.wait_gone("event").await?;
    }
    Ok(())
}

/// A redeemer has decided to accept a use, and its transaction commits only after the deletion has started.
#[tokio::test(flavor = "multi_thread")]
async fn deletion_of_rows_waits_for_a_use_that_is_not_committed_yet() -> Result<()> {
    let mut world = World::shared().await?;
    world.deletion_timeout_seconds = 600;
    let _operator = start_operator(&world, true)?;
    let uid = world.open_event(&spec(", deletionPolicy: Delete")).await?;
    world.record_all("event").await?;
    let issuance = world.test_database.sql("SELECT code, user_id FROM issuance LIMIT 1")?;
    let (code, user) = issuance.split_once('|').context("no issuance")?;
    // The same entry of the history: the use waits until this transaction ends.
    let entry = format!(
        "INSERT INTO coupon_use (event_uid, code, seq, kind, reason, at)
         VALUES ('{uid}', '{code}', 1, 'VOIDED', 'test', now())"
    );
    let held = world.test_database.hold(&entry)?;
    let (database, request) = (world.database.clone(), redemption(code, user)?);
    let redeemed = tokio::spawn(async move { database.use_coupon(&request).await });
    let waiting = async |query: &str| {
        let sql = format!(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
                            AND wait_event_type = 'Lock' AND query LIKE '%{query}%')"
        );
        wait_until(query, async || Ok(world.test_database.sql(&sql)? == "t")).await
    };
    waiting("INSERT INTO coupon_use").await?;
    world.delete("event")?;
    // Of the deletion, which starts with the row of the event.
    waiting("coupon_event WHERE uid = $1 FOR UPDATE").await?;
    drop(held);
    let outcome = redeemed.await??;
    assert!(matches!(outcome, UseOutcome::Changed { .. }), "{outcome:?}");
    wait_for_unsent_use(&world).await?;
    let retried = world.database.use_coupon(&redemption(code, user)?).await?;
    assert!(matches!(retried, UseOutcome::Changed { .. }), "{retried:?}");
    let other = UseRequest { id: "request-2".parse()?, ..redemption(code, user)? };
    assert_eq!(world.database.use_coupon(&other).await?, UseOutcome::UnknownEvent);
    assert_eq!(send_uses(&world).await?, [uid]);
    world.wait_gone("event").await?;
    assert_eq!(world.database.event(uid).await?, None);
    Ok(())
}

fn redemption(code: &str, user: &str) -> Result<UseRequest> {
    Ok(UseRequest {
        event: "event".parse()?,
        coupon: code.parse()?,
        user: user.parse()?,
        order: Order { id: "order-1".parse()?, amount: None },
        change: Change::Redeem,
        id: "request-1".parse()?,
        hash: [0; 32],
        actor: None,
    })
}

/// The finalizer has left the deletion of the rows to the operator.
#[tokio::test(flavor = "multi_thread")]
async fn pending_deletion_waits_until_uses_are_sent() -> Result<()> {
    let mut world = World::shared().await?;
    world.deletion_timeout_seconds = 600;
    let _operator = start_operator(&world, true)?;
    let mut events = Vec::new();
    for name in ["event", "other"] {
        world.apply_open(name, &spec("")).await?;
        assert_eq!(world.issue(name, 0..10).await?, 10);
        world.record_all(name).await?;
        events.push((world.uid(name).await?, name));
    }
    // In this order they are deleted.
    events.sort_unstable();
    let [(uid, name), (uid_without_uses, _)] = events[..] else { panic!("{events:?}") };
    redeem_one(&world, name).await?;
    for name in ["event", "other"] {
        world.delete(name)?;
        world.wait_gone(name).await?;
    }
    world.test_database.sql("UPDATE coupon_event SET is_purging = true")?;
    wait_until("the other event is deleted", async || Ok(world.database.event(uid_without_uses).await?.is_none()))
        .await?;
    assert_ne!(world.database.event(uid).await?, None, "its use is not sent");
    assert_eq!(send_uses(&world).await?, [uid]);
    wait_until("the event is deleted", async || Ok(world.database.event(uid).await?.is_none())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn pending_deletion_ends_its_wait_for_unsent_uses_after_timeout() -> Result<()> {
    let world = World::shared().await?;
    let _operator = start_operator(&world, true)?;
    let uid = world.open_event(&spec("")).await?;
    redeem_one(&world, "event").await?;
    world.delete("event")?;
    world.wait_gone("event").await?;
    world.test_database.sql("UPDATE coupon_event SET is_purging = true")?;
    wait_until("the event is deleted", async || Ok(world.database.event(uid).await?.is_none())).await?;
    assert_eq!(world.test_database.sql("SELECT count(*) FROM coupon_use_outbox")?, "1", "without a record");
    Ok(())
}

/// The policy is changed while the deletion waits.
#[tokio::test(flavor = "multi_thread")]
async fn deletion_whose_policy_becomes_retain_keeps_rows() -> Result<()> {
    let mut world = World::shared().await?;
    world.deletion_timeout_seconds = 600;
    let _operator = start_operator(&world, true)?;
    let uid = start_waiting_deletion(&world).await?;
    world.patch(&["ce", "event"], &json!({"spec": {"deletionPolicy": "Retain"}}))?;
    world.wait_gone("event").await?;
    assert_ne!(world.database.event(uid).await?, None);
    assert_eq!(world.database.purging_events().await?, [], "nothing deletes the rows later");
    Ok(())
}
