//! Outages in which the servers still respond to the operator: what conditions and `check` report.

use anyhow::{Context as _, Result, ensure};
use couponry_crds::CouponEventStatus;
use couponry_testbed::{Kafka, Redis, ports, redis::command};

use crate::support::{World, is_true, message, reason, reconciliations, wait_reconciled};

const SPEC: &str = "{policyName: p, totalCount: 100, discounts: [{type: Amount, value: 1, count: 100}]}";

fn has_status(status: &CouponEventStatus, type_: &str, expected: &str, reason: &str) -> bool {
    status.condition(type_).is_some_and(|found| found.status == expected && found.reason == reason)
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_that_rejects_writes_is_reported_by_conditions_and_check() -> Result<()> {
    let redis = Redis::start()?;
    let world = World::with_redis(&redis.url()).await?;
    let _operator = world.start_operator()?;
    world.apply_open("event", SPEC).await?;
    let check = || -> Result<String> { Ok(String::from_utf8(world.run_command(&["check"], &[])?.stdout)?) };
    assert!(check()?.contains("OK    writes        accepted\n"), "{}", check()?);

    let set = |words: &[&str]| command(&redis.url(), words);
    for (fault, repair, code) in [
        (["CONFIG", "SET", "maxmemory", "1"], ["CONFIG", "SET", "maxmemory", "0"], "OOM"),
        (
            ["CONFIG", "SET", "min-replicas-to-write", "1"],
            ["CONFIG", "SET", "min-replicas-to-write", "0"],
            "NOREPLICAS",
        ),
        (["ACL", "SETUSER", "default", "-ltrim"], ["ACL", "SETUSER", "default", "+ltrim"], "NOPERM"),
    ] {
        set(&fault)?;
        let rejected = |status: &CouponEventStatus| has_status(status, "Open", "False", "RedisRejectsCommands");
        let status = world.wait("event", code, rejected).await?;
        // The driver formats codes that it knows in another case.
        assert!(message(&status, "Open").to_uppercase().contains(code), "{}", message(&status, "Open"));
        assert_eq!([reason(&status, "Ready"), reason(&status, "Stalled")], ["RedisRejectsCommands"; 2]);
        assert!(world.issue("event", 0..1).await.is_err(), "{code}");
        let checked = check()?;
        assert!(checked.contains("FAIL  event event   Stalled (RedisRejectsCommands)"), "{checked}");
        // Missing permissions depend on the key.
        assert!(code == "NOPERM" || checked.contains("FAIL  writes"), "{checked}");
        set(&repair)?;
        world.wait("event", "open again", |status| is_true(status, "Open") && is_true(status, "Ready")).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_event_is_reported_as_rejected_and_as_open_again_by_the_next_reconciliations() -> Result<()> {
    // Far fewer than between two complete observations. One of them may be in progress, and the status is read late.
    const MAX_RECONCILIATIONS: u64 = 8;
    let redis = Redis::start()?;
    let world = World::with_redis(&redis.url()).await?;
    let port = ports::free()?;
    let _operator = world.operator_program(port).start()?;
    world.apply_open("event", SPEC).await?;
    let mut reconciled = wait_reconciled(port, 3).await?;
    for (limit, expected) in [("1", "RedisRejectsCommands"), ("0", "Open")] {
        command(&redis.url(), &["CONFIG", "SET", "maxmemory", limit])?;
        world.wait("event", expected, |status| reason(status, "Open") == expected).await?;
        let now = reconciliations(port).context("no metrics")?;
        let count = now - std::mem::replace(&mut reconciled, now);
        ensure!(count <= MAX_RECONCILIATIONS, "{expected} is reported by reconciliation {count}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn event_is_paused_while_redis_is_full() -> Result<()> {
    let redis = Redis::start()?;
    let world = World::with_redis(&redis.url()).await?;
    let _operator = world.start_operator()?;
    world.apply_open("event", SPEC).await?;
    command(&redis.url(), &["CONFIG", "SET", "maxmemory", "1"])?;
    world.wait("event", "rejected", |status| reason(status, "Open") == "RedisRejectsCommands").await?;
    world.apply("event", &SPEC.replacen('{', "{issuance: Paused, ", 1))?;
    let paused = world.wait("event", "paused", |status| reason(status, "Open") == "Paused").await?;
    assert!(!is_true(&paused, "Stalled"), "nothing has to be written any more");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_wrong_type_and_orphaned_keys_have_their_own_reasons() -> Result<()> {
    let redis = Redis::start()?;
    let world = World::with_redis(&redis.url()).await?;
    let _operator = world.start_operator()?;
    world.apply_open("event", SPEC).await?;
    let key = |kind: &str| format!("{}-coupon{kind}:{{event}}", world.namespace());
    command(&redis.url(), &["SET", &key("Queue"), "what"])?;
    let wrong = world.wait("event", "wrong type", |status| reason(status, "Stalled") == "WrongKeyType").await?;
    assert!(has_status(&wrong, "Open", "False", "WrongKeyType"), "{wrong:?}");

    // As the runbook says.
    command(&redis.url(), &["DEL", &key("Queue")])?;
    let repair = world.run_command(&["repair", "event", "--yes"], &[])?;
    assert!(repair.status.success(), "{repair:?}");
    world.wait("event", "restored", |status| is_true(status, "Open") && is_true(status, "Ready")).await?;

    command(&redis.url(), &["DEL", &key("Meta")])?;
    let orphaned = world.wait("event", "orphaned", |status| reason(status, "Stalled") == "OrphanedKeys").await?;
    assert!(has_status(&orphaned, "Open", "False", "OrphanedKeys"), "{orphaned:?}");
    command(&redis.url(), &["DEL", &key("Queue")])?;
    world.wait("event", "restored", |status| is_true(status, "Open") && is_true(status, "Ready")).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_value_of_the_event_makes_its_conditions_unknown_until_it_is_corrected() -> Result<()> {
    let redis = Redis::start()?;
    let world = World::with_redis(&redis.url()).await?;
    let _operator = world.start_operator()?;
    world.apply_open("event", SPEC).await?;
    world.issue("event", 0..3).await?;
    world.record_all("event").await?;
    world.wait("event", "recorded", |status| reason(status, "Recorded") == "AllRecorded").await?;
    let meta = format!("{}-couponMeta:{{event}}", world.namespace());
    for (field, value) in [("uid", world.uid("event").await?.to_string()), ("loaded", "100".to_owned())] {
        command(&redis.url(), &["HSET", &meta, field, "what"])?;
        let invalid = world.wait("event", "invalid", |status| reason(status, "Stalled") == "InvalidValue").await?;
        for type_ in ["Open", "Recorded", "Balanced"] {
            assert!(has_status(&invalid, type_, "Unknown", "InvalidValue"), "{field}: {invalid:#?}");
        }
        let text = message(&invalid, "Open");
        assert!(text.contains(&format!("{field}=what")) && text.contains("see the runbook"), "{text}");
        // As the runbook says.
        command(&redis.url(), &["HSET", &meta, field, &value])?;
        let valid = world.wait("event", "valid", |status| is_true(status, "Open") && is_true(status, "Ready")).await?;
        assert_eq!([reason(&valid, "Recorded"), reason(&valid, "Balanced")], ["AllRecorded", "CountsMatch"]);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_outage_makes_only_events_that_acknowledge_kafka_unknown() -> Result<()> {
    let kafka = Kafka::start()?;
    let mut world = World::shared().await?;
    world.brokers = kafka.brokers();
    let _operator = world.start_operator()?;
    world.apply("plain", SPEC)?;
    world.apply("strict", &SPEC.replacen('{', "{acknowledge: Kafka, ", 1))?;
    for name in ["plain", "strict"] {
        world.wait(name, "open", |status| is_true(status, "Open")).await?;
    }
    kafka.kill9()?;
    world.wait("strict", "unknown", |status| has_status(status, "Open", "Unknown", "BackendUnavailable")).await?;
    let plain = world.get("plain").await?.status.context("no status")?;
    assert!(is_true(&plain, "Open"), "{plain:?}");
    kafka.restart()?;
    world.wait("strict", "open again", |status| is_true(status, "Open")).await?;
    Ok(())
}
