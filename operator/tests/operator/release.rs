//! Admission and drops, from the manifest to the user.

use anyhow::{Context as _, Result, bail, ensure};
use couponry_domain::{EventName, Release};
use couponry_testbed::{Redis, http, redis::command};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::{
    redis_installation::Installation,
    support::{World, is_true, reason, wait_until},
};

/// The response to an issue request of this user.
fn issue(installation: &Installation, user: u32) -> Result<Value> {
    let body = format!(r#"{{"userId":"user-{user}","eventId":"event"}}"#);
    let (status, body) = http::post(installation.ports()[0], "/coupons/issue", &body).context("no response")?;
    ensure!(status == 200, "{status} {body}");
    Ok(serde_json::from_str(&body)?)
}

fn after(seconds: i64) -> Timestamp {
    let time = Timestamp::now() + SignedDuration::from_secs(seconds);
    time.round(jiff::Unit::Second).expect("a time in range")
}

#[tokio::test(flavor = "multi_thread")]
async fn admission_and_drops_survive_loss_of_redis() -> Result<()> {
    let (start, drop) = (after(-1800), after(3600));
    let spec = format!(
        "{{policyName: p, totalCount: 10, discounts: [{{type: Amount, value: 1, count: 10}}], startTime: '{start}', \
         admission: {{rampSeconds: 3600}}, drops: [{{at: '{drop}', count: 6}}]}}"
    );
    let installation = Installation::start_on(Redis::start()?, &spec, None).await?;
    let world = &installation.world;
    let event: EventName = "event".parse()?;
    let release = Release { ramp_seconds: Some(3600), drops: format!("{}:6,", drop.as_millisecond()).parse()? };
    let stored = world.database.event(world.uid("event").await?).await?.context("not registered")?;
    assert_eq!(stored.release, release);
    let key = stored.admission_key().context("no key")?;

    // 4 of 10 coupons are available, and half of the users are admitted.
    let (mut issued, mut waiting) = (Vec::new(), None);
    for user in 0..1000 {
        if issued.len() == 2 && waiting.is_some() {
            break;
        }
        let admitted_at = key.admitted_at(start.as_millisecond(), 3600, &format!("user-{user}").parse()?);
        let is_close = (admitted_at - Timestamp::now().as_millisecond()).abs() < 300_000;
        if is_close || (issued.len() == 2 && admitted_at < Timestamp::now().as_millisecond()) {
            continue;
        }
        let response = issue(&installation, user)?;
        if response["success"] == true {
            assert!(admitted_at <= Timestamp::now().as_millisecond(), "user-{user} was issued a coupon early");
            issued.push(user);
        } else {
            assert_eq!(response["reason"], "WAIT", "{response}");
            let expected = format!("{:.3}", Timestamp::from_millisecond(admitted_at)?);
            assert_eq!(response["admittedAt"], Value::from(expected));
            waiting = Some((user, response));
        }
    }
    let Some((user, response)) = waiting else { bail!("no user waits") };
    installation.wait_recorded().await?;

    command(&installation.redis.url(), &["FLUSHALL"])?;
    installation.wait_recovered().await?;
    assert_eq!(issue(&installation, user)?, response, "the admission has changed");
    assert_eq!(issue(&installation, issued[0])?["reason"], "DUPLICATE");
    let mut last = Value::Null;
    for user in 1000..1100 {
        last = issue(&installation, user)?;
        if last["reason"] == "SOLD_OUT" {
            break;
        }
    }
    assert_eq!(last["nextDropAt"], Value::from(format!("{drop:.3}")), "{last}");
    let in_redis = world.redis_store.observe(&event).await?.context("no event")?;
    assert_eq!((in_redis.issued, in_redis.available, in_redis.available_at(in_redis.now)), (4, 6, 0));
    assert_eq!((in_redis.release, in_redis.admission_key), (release, Some(key)));

    // For the administrator, the event is not sold out yet.
    let object = world.get("event").await?;
    let status = object.status.clone().context("no status")?;
    assert!(is_true(&status, "Open") && status.sold_out_at.is_none(), "{status:?}");
    let object = serde_json::to_string(&object)?;
    let key = stored.admission_key().map(|key| key.as_str().to_owned()).unwrap_or_default();
    assert!(!object.contains(&key), "the key is secret");
    Ok(())
}

/// Issuers return an error until then. The operator used to fail as well.
#[tokio::test(flavor = "multi_thread")]
async fn damaged_release_in_redis_is_repaired() -> Result<()> {
    let world = World::shared().await?;
    let _operator = world.start_operator()?;
    let spec = format!(
        "{{policyName: p, totalCount: 10, discounts: [{{type: Amount, value: 1, count: 10}}], \
         startTime: '2026-01-01T00:00:00Z', admission: {{rampSeconds: 1}}, drops: [{{at: '{}', count: 3}}]}}",
        after(3600)
    );
    world.apply_open("event", &spec).await?;
    let event: EventName = "event".parse()?;
    let intact = world.redis_store.observe(&event).await?.context("no event")?.release;
    for (field, value) in [("drops", "x"), ("rampSeconds", "-1"), ("admissionKey", "x")] {
        world.redis(&["HSET", &world.key("couponMeta", "event"), field, value])?;
        wait_until("the release is repaired", async || {
            let observed = world.redis_store.observe(&event).await?.context("no event")?;
            let key = observed.admission_key.as_ref().is_some_and(|key| key.as_str().len() == 64);
            Ok(observed.release == intact && observed.damaged_release.is_none() && key)
        })
        .await?;
    }
    assert_eq!(world.issue("event", 0..10).await?, 7);
    Ok(())
}

/// The CRD refuses the change only once the status shows that the event has opened.
#[tokio::test(flavor = "multi_thread")]
async fn release_changes_until_the_event_has_opened() -> Result<()> {
    let world = World::shared().await?;
    let _operator = world.start_operator()?;
    let spec = |start: Timestamp, release: &str| {
        format!(
            "{{policyName: p, totalCount: 10, discounts: [{{type: Amount, value: 1, count: 10}}], startTime: '{start}', \
             {release}}}"
        )
    };
    let (event, later): (EventName, _) = ("event".parse()?, after(3600));
    world.apply("event", &spec(later, "admission: {rampSeconds: 60}"))?;
    world.wait("event", "scheduled", |status| reason(status, "Open") == "Scheduled").await?;
    let drops = format!("drops: [{{at: '{}', count: 3}}]", after(7200));
    world.apply("event", &spec(later, &drops))?;
    world
        .wait("event", "scheduled again", |status| {
            status.observed_generation == Some(2) && reason(status, "Open") == "Scheduled" && is_true(status, "Ready")
        })
        .await?;
    let in_redis = world.redis_store.observe(&event).await?.context("no event")?;
    assert_eq!((in_redis.release.ramp_seconds, in_redis.admission_key), (None, None));
    assert_eq!(in_redis.release.drops.held_back(in_redis.now), 3);
    Ok(())
}
