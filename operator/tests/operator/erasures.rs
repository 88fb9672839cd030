//! The command `erase-user`.

use std::process::Output;

use anyhow::{Context as _, Result};
use couponry_domain::{EventName, UserId};
use couponry_postgres::RecordOutcome;
use couponry_redis::{IssueOutcome, IssuedStatus};

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
    let _operator = world.start_operator()?;
    world.open_event(SPEC).await?;
    world.record_all("event").await?;
    let failpoint = ("FAILPOINTS", "operator.before-erasure-in-redis=return");
    let killed = world.run_command(&["erase-user", "user-3"], &[failpoint])?;
    assert_eq!(killed.status.code(), None);
    let found = outcomes(&world, &["user-3"]).await?;
    assert!(!matches!(found[..], [IssueOutcome::Issued(_)]), "{found:?}");
    let (status, output) = text(&world.run_command(&["erase-user", "user-3"], &[])?);
    assert_eq!(status, Some(0), "{output}");
    assert!(output.ends_with("erased the user in 1 event\n"), "{output}");
    assert_eq!(outcomes(&world, &["user-3"]).await?, [IssueOutcome::Voided]);
    let (in_redis, in_postgres) = users(&world).await?;
    assert_eq!(in_redis, in_postgres.lines().collect::<Vec<_>>());
    let entries = world.redis_store.scan_issued(&"event".parse()?).await?;
    assert!(entries.values().all(|entry| entry.status == IssuedStatus::Completed));
    let (status, audited) = text(&world.run_command(&["audit", "event"], &[])?);
    assert_eq!(status, Some(0), "{audited}");
    Ok(())
}
