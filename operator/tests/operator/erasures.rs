//! The command `erase-user`.

use std::process::Output;

use anyhow::{Context as _, Result};
use couponry_domain::{EventName, UserId};
use couponry_postgres::RecordOutcome;
use couponry_redis::{IssueOutcome, IssuedStatus};

use couponry_testbed::{http, ports};
use serde_json::json;

use crate::support::{World, is_true, wait_until};

const SPEC: &str = "{policyName: p, totalCount: 20, discounts: [{type: Amount, value: 1, count: 20}]}";

fn text(output: &Output) -> (Option<i32>, String) {
    let text = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat();
    (output.status.code(), text)
}

async fn outcomes(world: &World, users: &[&str]) -> Result<Vec<IssueOutcome>> {
    let users: Vec<UserId> = users.iter().map(|user| user.parse()).collect::<Result<_, _>>()?;
    let reply = world.redis_store.issue(&"event".parse()?, &users).await?.context("no event in Redis")?;
    Ok(reply.outcomes)
}

/// The users in Redis and Postgres.
async fn users(world: &World) -> Result<(Vec<String>, String)> {
    let in_redis = world.redis_store.scan_issued(&"event".parse()?).await?;
    let mut in_redis: Vec<String> = in_redis.into_keys().map(String::from).collect();
    in_redis.sort();
    Ok((in_redis, world.test_database.sql("SELECT user_id FROM issuance ORDER BY user_id COLLATE \"C\"")?))
}

impl World {
    fn pending_erasures(&self) -> Result<String> {
        Ok(self.test_database.sql("SELECT count(*) FROM pending_erasure")?.trim().to_owned())
    }

    /// An event whose issuances are recorded, while no operator runs.
    async fn recorded_event_without_operator(&self) -> Result<()> {
        let operator = self.start_operator()?;
        self.open_event(SPEC).await?;
        self.record_all("event").await?;
        operator.stop()
    }

    /// Removes the object while no operator runs, so that its keys and rows are left over.
    fn remove_object(&self) -> Result<()> {
        self.delete("event")?;
        self.patch(&["ce", "event"], &json!({"metadata": {"finalizers": null}}))
    }

    /// Erases the user in Postgres only.
    fn erase_half_way(&self, user: &str) -> Result<()> {
        let failpoint = ("FAILPOINTS", "operator.before-erasure-in-redis=return");
        let killed = self.run_command(&["erase-user", user], &[failpoint])?;
        assert_eq!(killed.status.code(), None, "the command is killed");
        Ok(())
    }

    /// The entry of the user in Redis.
    fn entry(&self, user: &str) -> Result<String> {
        let reply = self.redis(&["HGET", &self.key("couponIssued", "event"), user])?;
        Ok(reply.lines().nth(1).context("Redis has no entry of the user")?.to_owned())
    }

    fn set_entry(&self, user: &str, entry: &str) -> Result<String> {
        self.redis(&["HSET", &self.key("couponIssued", "event"), user, entry])
    }
}

/// Waits until the operator has looked for the pending erasures and reports this number.
async fn wait_reported(monitor: u16, pending: u32) -> Result<()> {
    let line = format!("couponry_operator_pending_erasures {pending}\n");
    wait_until(&format!("{pending} erasures are reported as pending"), async || {
        Ok(http::get(monitor, "/metrics").is_some_and(|(_, metrics)| metrics.contains(&line)))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn erased_user_is_replaced_everywhere_and_receives_no_other_coupon() -> Result<()> {
    let world = World::shared().await?;
    let _operator = world.start_operator()?;
    let uid = world.open_event(SPEC).await?;
    let event: EventName = "event".parse()?;
    // Not recorded yet, and its record is still to be consumed.
    let unconfirmed = world.redis_store.list_unconfirmed(&event, std::time::Duration::ZERO, None, 10).await?.entries;
    let records = unconfirmed.into_iter().flat_map(|entry| entry.records).collect::<Vec<_>>();
    let of_user = records.iter().find(|record| record.issued.user_id.as_str() == "user-0").context("no record")?;

    let listed = text(&world.run_command(&["erase-user", "--dry-run", "user-0"], &[])?);
    let expected =
        format!("  event  {uid}\n1 event: nothing was changed; repeat without --dry-run to erase the user\n");
    assert_eq!(listed, (Some(0), expected));
    assert_eq!(users(&world).await?.0[0], "user-0");
    let erased = text(&world.run_command(&["erase-user", "user-0"], &[])?);
    assert_eq!(erased, (Some(0), format!("  event  {uid}\nerased the user in 1 event\n")));
    let again = text(&world.run_command(&["erase-user", "user-0"], &[])?);
    assert_eq!(again, (Some(0), "erased the user in 0 events\n".to_owned()));

    world.record_all("event").await?;
    let (in_redis, in_postgres) = users(&world).await?;
    assert_eq!(in_redis.iter().filter(|user| user.starts_with("erased:")).count(), 1, "{in_redis:?}");
    assert_eq!(in_redis.len(), 10);
    assert_eq!(in_redis, in_postgres.lines().collect::<Vec<_>>());
    assert!(!in_redis.contains(&"user-0".to_owned()), "{in_redis:?}");
    let recorded = world.database.record(std::slice::from_ref(of_user)).await?;
    assert_eq!(recorded, [RecordOutcome::AlreadyRecorded], "a record that is consumed again");
    let exported = text(&world.run_command(&["export", "event", "issuances"], &[])?).1;
    assert!(exported.contains("erased:") && !exported.contains("user-0,"), "{exported}");

    // The user keeps no coupon that can be used, and receives no other one; others do.
    let found = outcomes(&world, &["user-0", "user-1", "user-10"]).await?;
    assert!(
        matches!(&found[..], [IssueOutcome::Voided, IssueOutcome::Duplicate(_), IssueOutcome::Issued(_)]),
        "{found:?}"
    );
    // Also after Redis has lost everything.
    world.record_all("event").await?;
    for kind in ["couponMeta", "couponQueue", "couponIssued", "couponOutbox"] {
        world.redis(&["DEL", &world.key(kind, "event")])?;
    }
    let is_restored = async || {
        let reply = world.redis_store.issue(&event, &["user-0".parse()?]).await?;
        let outcome = reply.and_then(|reply| reply.outcomes.into_iter().next());
        assert!(!matches!(outcome, Some(IssueOutcome::Issued(_))), "{outcome:?}");
        Ok(outcome == Some(IssueOutcome::Voided))
    };
    wait_until("Redis is restored with the pseudonym", is_restored).await?;
    world.wait("event", "balanced", |status| is_true(status, "Balanced") && is_true(status, "Ready")).await?;
    let (status, audited) = text(&world.run_command(&["audit", "event"], &[])?);
    assert_eq!(status, Some(0), "{audited}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn erasure_that_was_killed_half_way_is_completed_by_the_next_one() -> Result<()> {
    let world = World::shared().await?;
    world.recorded_event_without_operator().await?;
    world.erase_half_way("user-3")?;
    let found = outcomes(&world, &["user-3"]).await?;
    assert!(!matches!(found[..], [IssueOutcome::Issued(_)]), "{found:?}");
    let (status, output) = text(&world.run_command(&["erase-user", "user-3"], &[])?);
    assert_eq!(status, Some(0), "{output}");
    assert!(output.ends_with("erased the user in 1 event\n"), "{output}");
    assert_eq!(outcomes(&world, &["user-3"]).await?, [IssueOutcome::Voided]);
    let (in_redis, in_postgres) = users(&world).await?;
    assert_eq!(in_redis, in_postgres.lines().collect::<Vec<_>>());
    assert_eq!(world.pending_erasures()?, "0");
    let entries = world.redis_store.scan_issued(&"event".parse()?).await?;
    assert!(entries.values().all(|entry| entry.status == IssuedStatus::Completed));
    let (status, audited) = text(&world.run_command(&["audit", "event"], &[])?);
    assert_eq!(status, Some(0), "{audited}");
    Ok(())
}

/// The command is not repeated, and the record of one of the users was not consumed. Postgres has no erased user.
#[tokio::test(flavor = "multi_thread")]
async fn erasure_that_was_killed_half_way_is_completed_by_the_operator() -> Result<()> {
    let world = World::shared().await?;
    world.recorded_event_without_operator().await?;
    world.erase_half_way("user-3")?;
    world.set_entry("user-3", &world.entry("user-3")?.replace("COMPLETED", "PENDING"))?;
    world.redis(&["HINCRBY", &world.key("couponMeta", "event"), "completed", "-1"])?;
    let stored = world.test_database.sql("SELECT * FROM pending_erasure")?;
    assert!(stored.contains("erased:") && !stored.contains("user-3"), "{stored}");

    let operator = world.start_operator()?;
    wait_until("the erasure is completed", async || Ok(world.pending_erasures()? == "0")).await?;
    assert_eq!(outcomes(&world, &["user-3"]).await?, [IssueOutcome::Voided]);
    let (in_redis, in_postgres) = users(&world).await?;
    assert_eq!(in_redis, in_postgres.lines().collect::<Vec<_>>());
    let (status, audited) = text(&world.run_command(&["audit", "event"], &[])?);
    assert_eq!(status, Some(0), "{audited}");
    operator.stop()
}

/// Redis has another coupon for the second user, and that of the first one cannot be decoded.
#[tokio::test(flavor = "multi_thread")]
async fn erasure_with_undecodable_entry_stays_pending_and_others_are_completed() -> Result<()> {
    let world = World::shared().await?;
    world.recorded_event_without_operator().await?;
    for user in ["user-3", "user-4", "user-5"] {
        world.erase_half_way(user)?;
    }
    let (entry, other) = (world.entry("user-3")?, world.entry("user-4")?);
    let (_, terms) = other.split_once(':').context("the entry has no terms")?;
    world.set_entry("user-3", "unknown")?;
    world.set_entry("user-4", &format!("UNKNOWN22222:{terms}"))?;

    let monitor = ports::free()?;
    let operator = world.operator_program(monitor).start()?;
    wait_reported(monitor, 1).await?;
    assert_eq!(world.pending_erasures()?, "1");
    let fields = world.redis(&["HKEYS", &world.key("couponIssued", "event")])?;
    let fields: Vec<&str> = fields.lines().collect();
    for (user, is_named) in [("user-3", true), ("user-4", false), ("user-5", false), ("user-6", true)] {
        assert_eq!(fields.contains(&user), is_named, "{user}: {fields:?}");
    }

    world.set_entry("user-3", &entry)?;
    wait_reported(monitor, 0).await?;
    assert_eq!(world.pending_erasures()?, "0");
    assert_eq!(outcomes(&world, &["user-3"]).await?, [IssueOutcome::Voided]);
    operator.stop()
}

/// The entry of the user is missing in a Redis that was verified, and then in one that is not: an older state with the
/// entry may come back.
#[tokio::test(flavor = "multi_thread")]
async fn erasure_is_finished_only_by_a_verified_redis() -> Result<()> {
    let world = World::shared().await?;
    world.recorded_event_without_operator().await?;
    let (entry, meta) = (world.entry("user-3")?, world.key("couponMeta", "event"));
    world.redis(&["HDEL", &world.key("couponIssued", "event"), "user-3"])?;
    let (status, output) = text(&world.run_command(&["erase-user", "user-3"], &[])?);
    assert_eq!(status, Some(0), "{output}");
    assert_eq!(world.pending_erasures()?, "1", "the command has not replaced an entry");

    let verified = world.redis(&["HGET", &meta, "replicationId"])?;
    let verified = verified.lines().nth(1).context("no replication id")?;
    world.redis(&["HSET", &meta, "replicationId", &"0".repeat(40)])?;
    let monitor = ports::free()?;
    let operator = world.operator_program(monitor).args(["--redis-recovery-grace-seconds", "600"]).start()?;
    wait_reported(monitor, 1).await?;
    assert_eq!(world.pending_erasures()?, "1");

    world.set_entry("user-3", &entry)?;
    world.redis(&["HSET", &meta, "replicationId", verified])?;
    wait_reported(monitor, 0).await?;
    let (in_redis, in_postgres) = users(&world).await?;
    assert_eq!(in_redis, in_postgres.lines().collect::<Vec<_>>());
    operator.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn erasure_that_fails_in_one_event_is_done_in_the_others() -> Result<()> {
    let world = World::shared().await?;
    world.recorded_event_without_operator().await?;
    let first = world.uid("event").await?;
    let operator = world.start_operator()?;
    world.apply_open("other", SPEC).await?;
    world.issue("other", 0..10).await?;
    let other = world.uid("other").await?;
    world.record_all_by_uid("other", other).await?;
    operator.stop()?;
    world.set_entry("user-3", "unknown")?;
    let (status, output) = text(&world.run_command(&["erase-user", "user-3"], &[])?);
    assert_eq!(status, Some(2), "{output}");
    assert!(output.contains(&format!("the user is not erased in the event event ({first}): ")), "{output}");
    assert!(output.contains(&format!("  other  {other}\nerased the user in 1 event\n")), "{output}");
    assert!(output.contains("1 event failed: repeat the command"), "{output}");
    let named = world.test_database.sql("SELECT event_uid FROM issuance WHERE user_id = 'user-3'")?;
    assert_eq!(named.trim(), first.to_string());
    Ok(())
}

/// Redis may come back from a snapshot that has the user.
#[tokio::test(flavor = "multi_thread")]
async fn erasure_in_redis_that_lost_the_event_is_finished_once_the_event_is_deleted() -> Result<()> {
    let world = World::shared().await?;
    world.recorded_event_without_operator().await?;
    let uid = world.uid("event").await?;
    world.erase_half_way("user-3")?;
    // Otherwise the operator would recover it.
    world.remove_object()?;
    for key in ["couponMeta", "couponIssued", "couponQueue"] {
        world.redis(&["DEL", &world.key(key, "event")])?;
    }
    let monitor = ports::free()?;
    let operator = world.operator_program(monitor).start()?;
    wait_reported(monitor, 1).await?;
    assert_eq!(world.pending_erasures()?, "1");

    world.database.mark_resource_deleted(uid, &"event".parse()?).await?;
    wait_reported(monitor, 0).await?;
    assert_eq!(world.pending_erasures()?, "0");
    operator.stop()
}

/// No operator verifies the Redis of a deleted event any more. It has lost the entry of the second user.
#[tokio::test(flavor = "multi_thread")]
async fn users_are_erased_in_the_unverified_redis_of_a_deleted_event() -> Result<()> {
    let world = World::shared().await?;
    world.recorded_event_without_operator().await?;
    let uid = world.uid("event").await?;
    world.remove_object()?;
    world.database.mark_resource_deleted(uid, &"event".parse()?).await?;
    world.redis(&["HSET", &world.key("couponMeta", "event"), "replicationId", &"0".repeat(40)])?;
    let lost = world.entry("user-4")?;
    world.redis(&["HDEL", &world.key("couponIssued", "event"), "user-4"])?;
    for user in ["user-3", "user-4"] {
        let (status, output) = text(&world.run_command(&["erase-user", user], &[])?);
        assert_eq!(status, Some(0), "{output}");
    }
    assert_eq!(world.pending_erasures()?, "1", "no entry of the second user was replaced");

    world.set_entry("user-4", &lost)?;
    let operator = world.start_operator()?;
    wait_until("the erasure is completed", async || Ok(world.pending_erasures()? == "0")).await?;
    let (in_redis, in_postgres) = users(&world).await?;
    assert_eq!(in_redis, in_postgres.lines().collect::<Vec<_>>());
    operator.stop()
}
