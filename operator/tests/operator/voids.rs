//! The command `void`, and how its effect reaches Redis.

use std::process::Output;

use anyhow::{Context as _, Result};
use couponry_domain::UserId;
use couponry_redis::{IssueOutcome, IssuedStatus};
use couponry_testbed::{Redis, http, ports};

use crate::support::{World, is_true, message, reason, wait_until};

const SPEC: &str = "{policyName: p, totalCount: 20, discounts: [{type: Amount, value: 1, count: 20}]}";

fn text(output: &Output) -> (Option<i32>, String) {
    let text = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat();
    (output.status.code(), text)
}

impl World {
    fn void(&self, coupon: &str, overrides: &[(&str, &str)]) -> Result<(Option<i32>, String)> {
        let args = ["void", "event", coupon, "--reason", "resold", "--actor", "alice"];
        Ok(text(&self.run_command(&args, overrides)?))
    }

    async fn outcome(&self, user: &str) -> Result<IssueOutcome> {
        let reply = self.redis_store.issue(&"event".parse()?, &[user.parse()?]).await?.context("no event in Redis")?;
        reply.outcomes.into_iter().next().context("no outcome")
    }

    async fn code_of(&self, user: &str) -> Result<String> {
        let issued = self.redis_store.scan_issued(&"event".parse()?).await?;
        Ok(issued.get(&user.parse::<UserId>()?).context("the user has no coupon")?.issued.coupon.to_string())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn voided_coupon_is_recorded_and_its_user_receives_no_other_one() -> Result<()> {
    let world = World::shared().await?;
    let _operator = world.start_operator()?;
    let uid = world.open_event(SPEC).await?;
    let code = world.code_of("user-1").await?;

    // Neither issuance is recorded yet.
    let (status, output) = world.void("--user=user-0", &[])?;
    assert_eq!(status, Some(0), "{output}");
    assert!(output.starts_with("voided the coupon ") && output.ends_with(" of user-0\n"), "{output}");
    assert_eq!(world.void(&format!("--code={code}"), &[])?, (Some(0), format!("voided the coupon {code} of user-1\n")));
    assert_eq!(world.database.recorded_count(uid).await?, 2);
    let stored = world.test_database.sql("SELECT DISTINCT kind, actor, reason FROM coupon_use")?;
    assert_eq!(stored.trim(), "VOIDED|alice|resold");
    for user in ["user-0", "user-1"] {
        assert_eq!(world.outcome(user).await?, IssueOutcome::Voided);
    }
    assert!(matches!(world.outcome("user-2").await?, IssueOutcome::Duplicate(_)));

    world.record_all("event").await?;
    let again = world.void("--user=user-1", &[])?;
    assert_eq!(again, (Some(0), format!("the coupon {code} of user-1 was voided before\n")));
    let unknown = world.void("--user=unknown", &[])?;
    assert_eq!(unknown, (Some(1), "the user unknown has no coupon of the event: nothing was changed\n".to_owned()));
    let event = "event".parse()?;
    let (available, _) = world.redis_store.scan_queue(&event).await?.into_iter().next().context("no coupon is left")?;
    let unissued = world.void(&format!("--code={available}"), &[])?;
    assert_eq!(unissued, (Some(1), format!("the coupon {available} has no user: nothing was changed\n")));
    let redeemed = world.code_of("user-2").await?;
    world.test_database.sql(&format!(
        "INSERT INTO coupon_use (event_uid, code, seq, kind, order_ref, at)
         VALUES ('{uid}', '{redeemed}', 1, 'REDEEMED', 'order-1', now())"
    ))?;
    let refused = world.void("--user=user-2", &[])?;
    let expected =
        format!("the coupon was redeemed, so it cannot be voided: {redeemed} of user-2. Nothing was changed.\n");
    assert_eq!(refused, (Some(1), expected));

    // The balance counts voided coupons as recorded, once.
    let status = world.wait("event", "balance", |status| {
        status.balance.is_some_and(|balance| (balance.recorded, balance.unrecorded, balance.available) == (10, 0, 10))
            && (status.redeemed, status.voided) == (Some(1), Some(2))
    });
    assert!(is_true(&status.await?, "Balanced"));
    let (status, audited) = text(&world.run_command(&["audit", "event"], &[])?);
    assert_eq!(status, Some(0), "{audited}");
    assert!(audited.contains("1 coupons were redeemed, 0 are reserved, 2 were voided\n"), "{audited}");
    Ok(())
}

/// The command ends after Postgres has the void. The operator applies it to Redis, which is verified all the time.
/// The record of the issuance may still be in Kafka, so it must not be said that the coupon has no user.
#[tokio::test(flavor = "multi_thread")]
async fn void_of_unrecorded_coupon_that_redis_has_lost_is_inconclusive() -> Result<()> {
    let world = World::shared().await?;
    let operator = world.start_operator()?;
    world.open_event(SPEC).await?;
    let code = world.code_of("user-0").await?;
    operator.kill9()?;
    world.redis(&["DEL", &world.key("couponMeta", "event"), &world.key("couponIssued", "event")])?;
    for coupon in ["--user=user-0", &format!("--code={code}")] {
        let (status, output) = world.void(coupon, &[])?;
        assert_eq!(status, Some(2), "{output}");
        assert!(output.contains("Redis has lost the event: repeat the command"), "{output}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn void_of_killed_command_is_applied_by_the_operator() -> Result<()> {
    let world = World::shared().await?;
    let _operator = world.start_operator()?;
    world.open_event(SPEC).await?;
    world.record_all("event").await?;
    let (status, _) = world.void("--user=user-3", &[("FAILPOINTS", "operator.before-void-in-redis=return")])?;
    assert_eq!(status, None, "the command is killed");
    wait_until("the void is in Redis", async || Ok(world.outcome("user-3").await? == IssueOutcome::Voided)).await?;
    let observed = world.redis_store.observe(&"event".parse()?).await?.context("no event in Redis")?;
    assert_eq!((observed.voided, observed.marked_recorded, observed.issued), (1, 10, 10));
    let (status, audited) = text(&world.run_command(&["audit", "event"], &[])?);
    assert_eq!(status, Some(0), "{audited}");
    Ok(())
}

/// Redis is unavailable when the coupon is voided, and has lost everything when it is back.
#[tokio::test(flavor = "multi_thread")]
async fn void_during_outage_of_redis_is_in_the_restored_redis() -> Result<()> {
    let redis = Redis::start()?;
    let world = World::with_redis(&redis.url()).await?;
    let operator = world.start_operator()?;
    world.open_event(SPEC).await?;
    world.record_all("event").await?;
    assert_eq!(world.void("--user=user-4", &[])?.0, Some(0));
    redis.stop()?;
    let (status, output) = world.void("--user=user-5", &[])?;
    assert_eq!(status, Some(0), "{output}");
    assert!(output.contains("Redis is not available") && output.contains("The operator applies the void"), "{output}");
    let unknown = world.void("--user=unknown", &[])?;
    assert_eq!(unknown.0, Some(2), "{unknown:?}");
    assert!(unknown.1.contains("it is not known whether Redis has"), "{unknown:?}");

    redis.restart()?;
    wait_until("the test has reconnected to Redis", async || Ok(world.redis_store.ping().await.is_ok())).await?;
    world.redis(&["FLUSHALL"])?;
    let voided = async || {
        let Ok(reply) = world.redis_store.issue(&"event".parse()?, &["user-4".parse()?, "user-5".parse()?]).await
        else {
            return Ok(false);
        };
        Ok(reply.is_some_and(|reply| reply.outcomes == [IssueOutcome::Voided, IssueOutcome::Voided]))
    };
    wait_until("Redis is restored with the voids", voided).await?;
    let entries = world.redis_store.scan_issued(&"event".parse()?).await?;
    let count = |status| entries.values().filter(|entry| entry.status == status).count();
    assert_eq!((count(IssuedStatus::Voided), count(IssuedStatus::Completed)), (2, 8));
    let (status, audited) = text(&world.run_command(&["audit", "event"], &[])?);
    assert_eq!(status, Some(0), "{audited}");
    operator.stop()
}

/// Redis has another coupon for the user, or the coupon was redeemed after Postgres was restored.
#[tokio::test(flavor = "multi_thread")]
async fn void_that_one_store_cannot_have_is_reported_and_retried() -> Result<()> {
    let world = World::shared().await?;
    let monitor = ports::free()?;
    let operator = world.operator_program(monitor).start()?;
    let uid = world.open_event(SPEC).await?;
    world.record_all("event").await?;
    // No user can receive a coupon any more, so that the event would be idle.
    world.apply("event", &SPEC.replacen('{', "{issuance: Closed, ", 1))?;
    world.wait("event", "closed", |status| reason(status, "Open") == "Closed" && is_true(status, "Ready")).await?;
    let key = world.key("couponIssued", "event");
    let entry = world.redis(&["HGET", &key, "user-3"])?;
    let entry = entry.lines().nth(1).context("the user has no entry")?.to_owned();
    world.redis(&["HSET", &key, "user-3", &entry.replacen(&*world.code_of("user-3").await?, "UNKNOWN22222", 1)])?;
    let (status, output) = world.void("--user=user-3", &[])?;
    assert_eq!(status, Some(0), "{output}");
    let status = world.wait("event", "mismatch", |status| reason(status, "Balanced") == "DriftFound").await?;
    let reported = message(&status, "Balanced");
    assert!(reported.starts_with("1 coupon is voided in Postgres and cannot be voided in Redis"), "{reported}");
    let metrics = http::get(monitor, "/metrics").context("no response")?.1;
    assert!(metrics.contains("couponry_operator_balance_mismatch{event=\"event\"} 1\n"), "{metrics}");

    // It is retried until Redis has the coupon of the user.
    world.redis(&["HSET", &key, "user-3", &entry])?;
    world.wait("event", "balanced again", |status| is_true(status, "Balanced") && is_true(status, "Ready")).await?;
    assert_eq!(world.outcome("user-3").await?, IssueOutcome::Voided);

    let redeemed = world.code_of("user-3").await?;
    world.test_database.sql(&format!(
        "DELETE FROM coupon_use;
         INSERT INTO coupon_use (event_uid, code, seq, kind, order_ref, at)
         VALUES ('{uid}', '{redeemed}', 1, 'REDEEMED', 'order-1', now())"
    ))?;
    let status = world.wait("event", "mismatch", |status| reason(status, "Balanced") == "DriftFound").await?;
    let reported = message(&status, "Balanced");
    assert!(reported.starts_with("1 coupon is voided in Redis and cannot be voided in Postgres"), "{reported}");
    operator.stop()
}

/// Postgres was restored from a state before the first void, and the command of the second one was killed: the numbers
/// are equal.
#[tokio::test(flavor = "multi_thread")]
async fn different_voids_of_equal_number_are_applied_to_both_stores() -> Result<()> {
    let world = World::shared().await?;
    let operator = world.start_operator()?;
    let uid = world.open_event(SPEC).await?;
    world.record_all("event").await?;
    operator.stop()?;
    assert_eq!(world.void("--user=user-4", &[])?.0, Some(0));
    world.test_database.sql("DELETE FROM coupon_use")?;
    let (status, _) = world.void("--user=user-5", &[("FAILPOINTS", "operator.before-void-in-redis=return")])?;
    assert_eq!(status, None, "the command is killed");

    let operator = world.start_operator()?;
    wait_until("the void that Redis lacks is applied", async || {
        Ok(world.outcome("user-5").await? == IssueOutcome::Voided)
    })
    .await?;
    wait_until("the void that Postgres lacks is restored", async || {
        Ok(world.database.use_counts(uid).await?.voided == 2)
    })
    .await?;
    world.wait("event", "balanced", |status| is_true(status, "Balanced") && status.voided == Some(2)).await?;
    let (status, audited) = text(&world.run_command(&["audit", "event"], &[])?);
    assert_eq!(status, Some(0), "{audited}");
    operator.stop()
}

/// A complete observation of a finished event is made every five minutes.
#[tokio::test(flavor = "multi_thread")]
async fn void_of_killed_command_after_the_end_is_applied_soon() -> Result<()> {
    let world = World::shared().await?;
    let operator = world.start_operator()?;
    world.open_event(SPEC).await?;
    world.record_all("event").await?;
    world.apply("event", &SPEC.replacen('{', "{issuance: Closed, ", 1))?;
    world.wait("event", "finished", |status| status.finished_at.is_some()).await?;
    // By then, the void of the first event has been counted.
    assert_eq!(world.void("--user=user-2", &[])?.0, Some(0));
    world.wait("event", "counted", |status| status.voided == Some(1)).await?;
    let (status, _) = world.void("--user=user-3", &[("FAILPOINTS", "operator.before-void-in-redis=return")])?;
    assert_eq!(status, None, "the command is killed");
    wait_until("the void is in Redis", async || Ok(world.outcome("user-3").await? == IssueOutcome::Voided)).await?;
    operator.stop()
}

/// Otherwise the coupon could be redeemed again.
#[tokio::test(flavor = "multi_thread")]
async fn voids_that_a_restored_postgres_has_lost_are_restored_from_redis() -> Result<()> {
    let world = World::shared().await?;
    let operator = world.start_operator()?;
    let uid = world.open_event(SPEC).await?;
    world.record_all("event").await?;
    for user in ["--user=user-4", "--user=user-5"] {
        assert_eq!(world.void(user, &[])?.0, Some(0));
    }
    world.wait("event", "counted", |status| status.voided == Some(2)).await?;
    world.test_database.sql("DELETE FROM coupon_use WHERE kind = 'VOIDED'")?;
    wait_until("the voids are restored", async || Ok(world.database.use_counts(uid).await?.voided == 2)).await?;
    let (status, audited) = text(&world.run_command(&["audit", "event"], &[])?);
    assert_eq!(status, Some(0), "{audited}");
    operator.stop()
}
