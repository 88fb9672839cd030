//! Manifests that are changed, before an event has opened and after.

use anyhow::Result;

use crate::stage::{Stage, holds, reason};

const BY_SHARES: &str = "{policyName: p, totalCount: 100, discounts: [{type: Percent, value: 10, allocationPercentage: 70}, \
     {type: Amount, value: 5000, allocationPercentage: 30}]}";

fn with(spec: &str, more: &str) -> String {
    spec.replacen('{', &format!("{{{more}, "), 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_can_be_paused_and_resumed_and_closed_for_good() -> Result<()> {
    let stage = Stage::new().await?;
    let _operator = stage.operator()?;
    stage.apply("event", BY_SHARES)?;
    stage.wait("event", "open", |status| holds(status, "Open")).await?;
    assert_eq!(stage.ask("event", 0..10).await?, 10);

    stage.apply("event", &with(BY_SHARES, "issuance: Paused"))?;
    stage.wait("event", "paused", |status| reason(status, "Open") == "Paused" && holds(status, "Ready")).await?;
    assert_eq!(stage.ask("event", 10..20).await?, 0);

    stage.apply("event", BY_SHARES)?;
    stage.wait("event", "open again", |status| holds(status, "Open")).await?;
    assert_eq!(stage.ask("event", 10..20).await?, 10);

    stage.apply("event", &with(BY_SHARES, "issuance: Closed"))?;
    stage.wait("event", "closed", |status| reason(status, "Open") == "Closed").await?;
    assert_eq!(stage.ask("event", 20..30).await?, 0);
    stage.check_whole("event", &[("PERCENT:10", 70), ("AMOUNT:5000", 30)]).await?;
    let story = ["Ended", "Opened", "Paused", "PreloadCompleted", "PreloadStarted", "Resumed"];
    stage.wait_story("event", &story).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_top_up_adds_to_an_event_that_is_sold_out() -> Result<()> {
    let stage = Stage::new().await?;
    let _operator = stage.operator()?;
    stage.apply("event", BY_SHARES)?;
    stage.wait("event", "open", |status| holds(status, "Open")).await?;
    assert_eq!(stage.ask("event", 0..150).await?, 100);
    stage.wait("event", "sold out", |status| reason(status, "Open") == "SoldOut").await?;

    stage.apply("event", &BY_SHARES.replace("totalCount: 100", "totalCount: 111"))?;
    let open = stage.wait("event", "open again", |status| holds(status, "Open") && holds(status, "Ready")).await?;
    assert_eq!((open.loaded, open.issued, open.available), (Some(111), Some(100), Some(11)));
    assert_eq!(open.sold_out_at, None);
    // 11 more, 70 to 30 percent: 8 and 3.
    stage.check_stores("event", &[("PERCENT:10", 78), ("AMOUNT:5000", 33)]).await?;
    assert_eq!(stage.ask("event", 0..200).await?, 11);
    stage.wait_story("event", &["Opened", "PreloadCompleted", "PreloadStarted", "SoldOut", "SoldOut", "ToppedUp"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_top_up_by_counts_adds_what_the_counts_say() -> Result<()> {
    let counts = |one: u32, other: u32| {
        format!(
            "{{policyName: p, totalCount: {}, discounts: [{{type: Percent, value: 10, count: {one}}}, \
             {{type: Amount, value: 10, count: {other}}}]}}",
            one + other
        )
    };
    let stage = Stage::new().await?;
    let _operator = stage.operator()?;
    stage.apply("event", &counts(7, 3))?;
    stage.wait("event", "open", |status| holds(status, "Open")).await?;
    stage.apply("event", &counts(7, 13))?;
    stage.wait_ready("event").await?;
    stage.check_stores("event", &[("PERCENT:10", 7), ("AMOUNT:10", 13)]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn before_it_opens_everything_but_the_code_may_change() -> Result<()> {
    let stage = Stage::new().await?;
    let _operator = stage.operator()?;
    let scheduled = with(BY_SHARES, "startTime: '2100-01-01T00:00:00Z'");
    stage.apply("event", &scheduled)?;
    let first = stage.wait_ready("event").await?;
    assert_eq!((reason(&first, "Open"), &first.opened_at), ("Scheduled", &None));

    stage.apply("event", &scheduled.replace("totalCount: 100", "totalCount: 50"))?;
    stage.wait("event", "smaller", |status| holds(status, "Ready") && status.loaded == Some(50)).await?;
    stage.check_whole("event", &[("PERCENT:10", 35), ("AMOUNT:5000", 15)]).await?;

    let other = "{policyName: p, totalCount: 60, discounts: [{type: Percent, value: 99, count: 60}]}";
    stage.apply("event", &with(other, "startTime: '2099-01-01T00:00:00Z'"))?;
    stage.wait("event", "other", |status| holds(status, "Ready") && status.loaded == Some(60)).await?;
    stage.check_whole("event", &[("PERCENT:99", 60)]).await?;
    assert_eq!(stage.ask("event", 0..1).await?, 0);

    stage.apply("event", other)?;
    stage.wait("event", "open without a start", |status| holds(status, "Open")).await?;
    assert_eq!(stage.ask("event", 0..100).await?, 60);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_came_too_late_is_said_and_not_followed() -> Result<()> {
    let stage = Stage::new().await?;
    let operator = stage.operator()?;
    stage.apply("event", BY_SHARES)?;
    stage.wait("event", "open", |status| holds(status, "Open")).await?;
    operator.kill9()?;
    // What the API server would refuse, had the status been written before the operator died.
    let forget = serde_json::json!([{"op": "remove", "path": "/status/openedAt"}]);
    let forget = kube::api::Patch::Json::<()>(serde_json::from_value(forget)?);
    stage.events.patch_status("event", &kube::api::PatchParams::default(), &forget).await?;
    stage.apply("event", &BY_SHARES.replace("totalCount: 100", "totalCount: 99"))?;
    operator.restart()?;
    let stalled = stage.wait("event", "stalled", |status| holds(status, "Stalled")).await?;
    assert_eq!(reason(&stalled, "Stalled"), "ChangeNotPossible");
    let told = &stalled.condition("Stalled").expect("just seen").message;
    assert_eq!(told, "the event has opened with 100 coupons: raise totalCount to 100 or more");
    assert!(holds(&stalled, "Open"), "users still get coupons");
    assert_eq!(stage.ask("event", 0..200).await?, 100);
    stage.apply("event", BY_SHARES)?;
    stage.wait_ready("event").await?;
    Ok(())
}
