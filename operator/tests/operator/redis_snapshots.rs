//! A Redis that comes back from an older snapshot, whose gate is open by settings that were replaced since; and times
//! that users received before the operator knew that the event had opened.

use anyhow::{Context as _, Result, ensure};
use couponry_domain::{EventName, Gate};
use couponry_testbed::{Clock, Redis, http};
use serde_json::Value;

use crate::{
    redis_installation::{Installation, spec},
    support::{DEADLINE, is_true, reason, wait_until},
};

/// 2100-01-01T00:00:00Z, in milliseconds.
const START: i64 = 4_102_444_800_000;

fn scheduled(fields: &str) -> String {
    format!(
        "{{policyName: p, totalCount: 50, discounts: [{{type: Amount, value: 1, count: 50}}], \
         startTime: '2100-01-01T00:00:00Z', {fields}}}"
    )
}

/// Sets the clock of Redis to a minute after the start.
fn set_after_start(clock: &Clock) -> Result<()> {
    clock.set(START + 60_000 - jiff::Timestamp::now().as_millisecond())
}

/// Requests coupons without a pause until Redis is verified and the condition holds. Fails if one is issued.
async fn request_in_vain_until(installation: &Installation, gate: Gate) -> Result<()> {
    let (event, started): (EventName, _) = ("event".parse()?, std::time::Instant::now());
    for user in 1000.. {
        let issued = installation.world.issue("event", user..user + 1).await?;
        let redis = installation.world.redis_store.observe(&event).await?.context("no event")?;
        ensure!(issued == 0, "a coupon was issued: {redis:?}");
        if redis.is_verified && redis.gate == gate {
            break;
        }
        ensure!(started.elapsed() < DEADLINE, "not verified: {redis:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_from_before_pause_issues_nothing() -> Result<()> {
    let installation = Installation::start(50, "Redis", None).await?;
    let world = &installation.world;
    let backup = installation.redis.dir().join("backup");
    installation.redis.back_up(&backup)?;
    world.apply("event", &spec(50, "Redis").replacen('{', "{issuance: Paused, ", 1))?;
    world.wait("event", "paused", |status| reason(status, "Open") == "Paused" && is_true(status, "Ready")).await?;
    installation.redis.roll_back(&backup)?;
    request_in_vain_until(&installation, Gate::Paused).await?;

    world.apply("event", &spec(50, "Redis"))?;
    world.wait("event", "open", |status| is_true(status, "Open")).await?;
    assert_eq!(world.issue("event", 0..100).await?, 50);
    Ok(())
}

/// Before the opening is stored again, the start has passed.
#[tokio::test(flavor = "multi_thread")]
async fn redis_from_before_withdrawal_of_opening_issues_nothing() -> Result<()> {
    let (redis, clock) = Redis::start_with_clock()?;
    let installation = Installation::start_on(redis, &scheduled(""), None).await?;
    let world = &installation.world;
    let backup = installation.redis.dir().join("backup");
    installation.redis.back_up(&backup)?;
    world.apply("event", &scheduled("issuance: Paused"))?;
    world.wait("event", "paused", |status| reason(status, "Open") == "Paused" && is_true(status, "Ready")).await?;
    assert_eq!(world.database.event(world.uid("event").await?).await?.context("no event")?.opens_at, None);
    set_after_start(&clock)?;
    installation.redis.roll_back(&backup)?;
    request_in_vain_until(&installation, Gate::Paused).await?;

    world.apply("event", &scheduled(""))?;
    world.wait("event", "open", |status| is_true(status, "Open")).await?;
    assert_eq!(world.issue("event", 0..100).await?, 50);
    Ok(())
}

/// The start and the drops of the snapshot are those of an earlier manifest.
#[tokio::test(flavor = "multi_thread")]
async fn redis_from_before_change_of_release_issues_by_the_current_one() -> Result<()> {
    let (redis, clock) = Redis::start_with_clock()?;
    let installation = Installation::start_on(redis, &scheduled(""), None).await?;
    let world = &installation.world;
    let backup = installation.redis.dir().join("backup");
    installation.redis.back_up(&backup)?;
    world.apply("event", &scheduled("drops: [{at: '2100-01-02T00:00:00Z', count: 50}]"))?;
    world
        .wait("event", "scheduled", |status| reason(status, "Open") == "Scheduled" && is_true(status, "Ready"))
        .await?;
    set_after_start(&clock)?;
    world.wait("event", "open", |status| is_true(status, "Open")).await?;
    installation.redis.roll_back(&backup)?;
    request_in_vain_until(&installation, Gate::Open).await?;
    assert_eq!(world.issue("event", 0..1).await?, 0, "all coupons are held back");
    let redis = world.redis_store.observe(&"event".parse()?).await?.context("no event")?;
    let stored = world.database.event(world.uid("event").await?).await?.context("no event")?;
    assert_eq!((redis.release, redis.window.start), (stored.release, Some(START)));
    Ok(())
}

/// The operator finds a paused gate, no issued coupon, and an opening that was not final.
#[tokio::test(flavor = "multi_thread")]
async fn release_is_fixed_once_users_wait_although_the_event_is_paused() -> Result<()> {
    let (redis, clock) = Redis::start_with_clock()?;
    let ramp = |seconds: u32| format!("admission: {{rampSeconds: {seconds}}}");
    let installation = Installation::start_on(redis, &scheduled(&ramp(80_000)), None).await?;
    let world = &installation.world;
    installation.operator.kill9()?;
    set_after_start(&clock)?;
    let issue = |user: u32| {
        let body = format!(r#"{{"userId":"user-{user}","eventId":"event"}}"#);
        let (status, body) = http::post(installation.ports()[0], "/coupons/issue", &body).context("no response")?;
        ensure!(status == 200, "{status} {body}");
        anyhow::Ok(serde_json::from_str::<Value>(&body)?)
    };
    let key = world.database.event(world.uid("event").await?).await?.context("no event")?.admission_key();
    let key = key.context("no key")?;
    let is_late = |user: &u32| {
        let user = format!("user-{user}").parse().expect("a user id");
        key.admitted_at(START, 80_000, &user) > START + 40_000_000
    };
    let user = (0..1000).find(is_late).context("all users are early")?;
    let answer = issue(user)?;
    assert_eq!(answer["reason"], "WAIT", "{answer}");

    world.apply("event", &scheduled(&format!("issuance: Paused, {}", ramp(60))))?;
    installation.operator.restart()?;
    let stalled = world.wait("event", "stalled", |status| is_true(status, "Stalled")).await?;
    assert_eq!(reason(&stalled, "Stalled"), "ChangeNotPossible");
    assert_eq!(reason(&stalled, "Open"), "Paused");
    assert!(stalled.opened_at.is_some(), "the API server refuses further changes");

    world.apply("event", &scheduled(&ramp(80_000)))?;
    world.wait("event", "open", |status| is_true(status, "Open") && is_true(status, "Ready")).await?;
    wait_until("the issuer has the gate", async || Ok(issue(user)?["reason"] == "WAIT")).await?;
    assert_eq!(issue(user)?, answer, "the admission has changed");
    Ok(())
}
