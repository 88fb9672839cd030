//! The validity of coupons, from the manifest to the user, the records, the rows and the exports.

use anyhow::{Context as _, Result, ensure};
use couponry_domain::{EventName, IssuedRecord};
use couponry_kafka::KafkaSettings;
use couponry_testbed::{Redis, http, redis::command};
use futures::TryStreamExt as _;
use serde_json::Value;

use crate::{
    redis_installation::{Installation, request_until_received},
    support::wait_until,
};

/// Issues a coupon to a user, and returns the user's view of it.
async fn issue(installation: &Installation, user: u32) -> Result<Value> {
    request_until_received(&installation.ports(), user).await?;
    view(installation, user)
}

fn view(installation: &Installation, user: u32) -> Result<Value> {
    let (status, body) = http::get(installation.ports()[0], &format!("/coupons/event/users/user-{user}"))
        .context("the issuer does not respond")?;
    ensure!(status == 200, "{body}");
    Ok(serde_json::from_str(&body)?)
}

fn milliseconds(view: &Value, field: &str) -> Result<i64> {
    Ok(view[field]
        .as_str()
        .with_context(|| format!("no {field}: {view}"))?
        .parse::<jiff::Timestamp>()?
        .as_millisecond())
}

fn export(installation: &Installation, rows: &str) -> Result<String> {
    let output = installation.world.run_command(&["export", "event", rows], &[])?;
    Ok(String::from_utf8(output.stdout)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn validity_of_coupon_is_the_same_everywhere_and_survives_loss_of_redis() -> Result<()> {
    const SPEC: &str = "{policyName: p, totalCount: 10, discounts: [{type: Amount, value: 1, count: 10}], \
                        validity: {duration: P1M, timeZone: Asia/Seoul, endOfDay: true}}";
    let installation = Installation::start_on(Redis::start()?, SPEC, None).await?;
    let Installation { world, .. } = &installation;
    let first = issue(&installation, 1).await?;
    let (issued_at, valid_until) = (milliseconds(&first, "issuedAt")?, milliseconds(&first, "validUntil")?);
    // Midnight in Seoul, 28 to 32 days later.
    assert_eq!((valid_until + 9 * 3_600_000) % 86_400_000, 0, "{first}");
    assert!((28 * 86_400_000..=32 * 86_400_000).contains(&(valid_until - issued_at)), "{first}");

    installation.wait_recorded().await?;
    let records = couponry_kafka::read_all(&KafkaSettings::at(&world.brokers, &world.topic)).await?;
    let record = IssuedRecord::decode(records[0].version(), &records[0].payload)?;
    assert_eq!(record.valid_until, Some(valid_until));
    let uid = world.uid("event").await?;
    let issuances: Vec<_> = world.database.stream_issuances(uid).try_collect().await?;
    assert_eq!(issuances[0].valid_until, Some(valid_until));
    let until = first["validUntil"].as_str().unwrap_or_default();
    for rows in ["coupons", "issuances"] {
        let csv = export(&installation, rows)?;
        let is_in_last_column = |line: &str| line.ends_with(&format!(",{until}"));
        assert!(csv.lines().any(|line| line.contains("user-1,") && is_in_last_column(line)), "{csv}");
    }

    command(&installation.redis.url(), &["FLUSHALL"])?;
    installation.wait_recovered().await?;
    assert_eq!(milliseconds(&view(&installation, 1)?, "validUntil")?, valid_until);
    let second = issue(&installation, 2).await?;
    ensure!(milliseconds(&second, "validUntil")? >= valid_until, "{second}");

    // Deletion records what is not recorded yet, with its validity.
    installation.consumer.kill9()?;
    let third = issue(&installation, 3).await?;
    world.delete("event")?;
    let event: EventName = "event".parse()?;
    wait_until("the gate is closed", async || {
        let in_redis = world.redis_store.observe(&event).await?;
        Ok(in_redis.is_none_or(|redis| redis.gate == couponry_domain::Gate::Closed))
    })
    .await?;
    installation.consumer.restart()?;
    world.wait_gone("event").await?;
    let issuance = world.database.issuance_of(uid, &"user-3".parse()?).await?.context("user-3 is not recorded")?;
    assert_eq!(issuance.valid_until, Some(milliseconds(&third, "validUntil")?));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn event_without_validity_has_coupons_without_end() -> Result<()> {
    const SPEC: &str = "{policyName: p, totalCount: 10, discounts: [{type: Amount, value: 1, count: 10}]}";
    let installation = Installation::start_on(Redis::start()?, SPEC, None).await?;
    let Installation { world, .. } = &installation;
    let user = issue(&installation, 1).await?;
    let mut fields: Vec<_> = user.as_object().context("not an object")?.keys().map(String::as_str).collect();
    fields.sort_unstable();
    let expected = ["couponKey", "discountAmount", "discountType", "eventId", "issuedAt", "recorded", "userId"];
    assert_eq!(fields, expected);
    installation.wait_recorded().await?;
    let records = couponry_kafka::read_all(&KafkaSettings::at(&world.brokers, &world.topic)).await?;
    ensure!(!String::from_utf8_lossy(&records[0].payload).contains("validUntil"));
    let issuances: Vec<_> = world.database.stream_issuances(world.uid("event").await?).try_collect().await?;
    assert_eq!(issuances[0].valid_until, None);
    let csv = export(&installation, "issuances")?;
    ensure!(csv.lines().any(|line| line.starts_with("user-1,") && line.ends_with("Z,")), "{csv}");
    Ok(())
}

/// Otherwise coupons would be issued that have expired.
#[tokio::test(flavor = "multi_thread")]
async fn event_ends_when_its_coupons_expire() -> Result<()> {
    let until = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(8);
    let spec = format!(
        "{{policyName: p, totalCount: 10, discounts: [{{type: Amount, value: 1, count: 10}}], validity: {{until: \
         '{until}'}}}}"
    );
    let world = crate::support::World::shared().await?;
    let _operator = world.start_operator()?;
    world.apply("event", &spec)?;
    world.wait("event", "ended", |status| crate::support::reason(status, "Open") == "Ended").await?;
    let event: EventName = "event".parse()?;
    let window = world.redis_store.observe(&event).await?.context("no event")?.window;
    assert_eq!(window.end, Some(until.as_millisecond()));
    assert_eq!(world.issue("event", 0..1).await?, 0);
    Ok(())
}
