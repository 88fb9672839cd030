//! From `kubectl apply` to coupons that can be given out.

use anyhow::{Result, ensure};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::stage::{Stage, holds, reason};

const THREE_DISCOUNTS: &str = "{policyName: p, totalCount: 1000, code: {prefix: TEST, length: 10}, discounts: [\
     {type: Percent, value: 10, allocationPercentage: 33}, {type: Amount, value: 10, allocationPercentage: 33}, \
     {type: Percent, value: 20, allocationPercentage: 34}]}";

#[tokio::test(flavor = "multi_thread")]
async fn an_event_becomes_ready_with_exactly_its_coupons() -> Result<()> {
    let stage = Stage::new().await?;
    let _operator = stage.operator()?;
    stage.apply("event", THREE_DISCOUNTS)?;
    let status = stage.wait("event", "open", |status| holds(status, "Ready") && holds(status, "Open")).await?;
    stage.check_whole("event", &[("PERCENT:10", 330), ("AMOUNT:10", 330), ("PERCENT:20", 340)]).await?;
    assert_eq!(
        [status.loaded, status.available, status.issued, status.recorded].map(Option::unwrap),
        [1000, 1000, 0, 0]
    );
    assert!(holds(&status, "Preloaded") && holds(&status, "Recorded") && !holds(&status, "Stalled"));
    assert!(status.opened_at.is_some());
    let uid = stage.uid("event").await?;
    let code = &stage.coupons_in_postgres(uid).await?[0].code;
    ensure!(code.starts_with("TEST-") && code.len() == 15, "{code}");
    stage.wait_story("event", &["Opened", "PreloadCompleted", "PreloadStarted"]).await?;
    let table = stage.table()?;
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NAME", "READY", "STATE", "TOTAL", "ISSUED", "RECORDED", "START", "AGE"]);
    assert_eq!(lines[1][..6], ["event", "True", "Open", "1000", "0", "0"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_counts_follow_what_happens() -> Result<()> {
    let stage = Stage::new().await?;
    let _operator = stage.operator()?;
    stage.apply("event", "{policyName: p, totalCount: 5, discounts: [{type: Amount, value: 1, count: 5}]}")?;
    stage.wait("event", "open", |status| holds(status, "Open")).await?;
    assert_eq!(stage.ask("event", 0..3).await?, 3);
    let issued = stage.wait("event", "issuing", |status| status.issued == Some(3)).await?;
    assert_eq!((issued.available, issued.recorded), (Some(2), Some(0)));
    assert_eq!((holds(&issued, "Recorded"), reason(&issued, "Recorded")), (false, "Recording"));
    assert_eq!(stage.ask("event", 0..9).await?, 2);
    let sold_out = stage.wait("event", "sold out", |status| reason(status, "Open") == "SoldOut").await?;
    assert!(sold_out.sold_out_at.is_some() && sold_out.finished_at.is_none() && holds(&sold_out, "Ready"));
    stage.record_all("event").await?;
    let finished = stage.wait("event", "finished", |status| status.finished_at.is_some()).await?;
    assert_eq!((finished.recorded, reason(&finished, "Recorded")), (Some(5), "AllRecorded"));
    stage.wait_story("event", &["Opened", "PreloadCompleted", "PreloadStarted", "SoldOut"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_opens_and_ends_by_itself() -> Result<()> {
    let stage = Stage::new().await?;
    let _operator = stage.operator()?;
    let spec = |window: &str| {
        format!("{{policyName: p, totalCount: 10, discounts: [{{type: Amount, value: 1, count: 10}}], {window}}}")
    };
    let soon = || Timestamp::now() + SignedDuration::from_secs(3);
    stage.apply("event", &spec("startTime: '2100-01-01T00:00:00Z'"))?;
    let scheduled = stage.wait_ready("event").await?;
    assert_eq!((reason(&scheduled, "Open"), &scheduled.opened_at), ("Scheduled", &None));
    assert_eq!(stage.ask("event", 0..1).await?, 0);

    let start = soon();
    stage.apply("event", &spec(&format!("startTime: '{start}'")))?;
    let open = stage.wait("event", "open", |status| holds(status, "Open")).await?;
    ensure!(Timestamp::now() >= start, "it opened before its start");
    ensure!(open.opened_at.as_ref().is_some_and(|at| at.0.as_second() >= start.as_second()), "{:?}", open.opened_at);
    assert_eq!(stage.ask("event", 0..1).await?, 1);

    let end = soon();
    stage.apply("event", &spec(&format!("startTime: '{start}', endTime: '{end}'")))?;
    stage.wait("event", "over", |status| reason(status, "Open") == "Ended").await?;
    ensure!(Timestamp::now() >= end, "it ended before its end");
    assert_eq!(stage.ask("event", 5..9).await?, 0);
    stage.wait_story("event", &["Ended", "Opened", "PreloadCompleted", "PreloadStarted"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_over_when_it_is_made_has_not_opened() -> Result<()> {
    let stage = Stage::new().await?;
    let _operator = stage.operator()?;
    let spec = "{policyName: p, totalCount: 10, discounts: [{type: Amount, value: 1, count: 10}], \
                endTime: '2020-01-01T00:00:00Z'}";
    stage.apply("event", spec)?;
    stage.wait("event", "over", |status| reason(status, "Open") == "Ended").await?;
    assert_eq!(stage.ask("event", 0..1).await?, 0);
    stage.wait_story("event", &["Ended", "PreloadCompleted", "PreloadStarted"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_become_ready_side_by_side() -> Result<()> {
    let stage = Stage::new().await?;
    let _operator = stage.operator()?;
    for example in ["summer", "scheduled", "counts"] {
        let path = format!("{}/../examples/{example}.yaml", env!("CARGO_MANIFEST_DIR"));
        let manifest: serde_json::Value = serde_yaml::from_str(&std::fs::read_to_string(path)?)?;
        let name = manifest["metadata"]["name"].as_str().expect("an example has a name");
        stage.apply(name, &manifest["spec"].to_string())?;
    }
    stage.wait_ready("launch").await?;
    stage.check_whole("launch", &[("PERCENT:100", 1), ("PERCENT:30", 110), ("AMOUNT:1000", 1000)]).await?;
    stage.wait_ready("winter").await?;
    stage.check_whole("winter", &[("PERCENT:50", 10), ("PERCENT:20", 330), ("PERCENT:10", 660)]).await?;
    stage.wait_ready("summer").await?;
    stage.check_whole("summer", &[("PERCENT:10", 70_000), ("AMOUNT:5000", 30_000)]).await
}
