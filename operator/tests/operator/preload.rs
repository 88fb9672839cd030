//! From an applied event to available coupons, and the status in the meantime.

use anyhow::{Result, ensure};
use couponry_testbed::{http, ports};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::support::{World, is_true, reason};

const THREE_DISCOUNTS: &str = "{policyName: p, totalCount: 1000, code: {prefix: TEST, length: 10}, discounts: [\
     {type: Percent, value: 10, allocationPercentage: 33}, {type: Amount, value: 10, allocationPercentage: 33}, \
     {type: Percent, value: 20, allocationPercentage: 34}]}";

#[tokio::test(flavor = "multi_thread")]
async fn applied_event_opens_with_exact_stock() -> Result<()> {
    let world = World::shared().await?;
    let _operator = world.start_operator()?;
    world.apply("event", THREE_DISCOUNTS)?;
    let status = world.wait("event", "open", |status| is_true(status, "Ready") && is_true(status, "Open")).await?;
    world.check_generated_stock("event", &[("PERCENT:10", 330), ("AMOUNT:10", 330), ("PERCENT:20", 340)]).await?;
    assert_eq!(
        [status.loaded, status.available, status.issued, status.recorded].map(Option::unwrap),
        [1000, 1000, 0, 0]
    );
    assert!(is_true(&status, "Preloaded") && is_true(&status, "Recorded") && !is_true(&status, "Stalled"));
    assert!(status.opened_at.is_some());
    let uid = world.uid("event").await?;
    let code = &world.coupons_in_postgres(uid).await?[0].code.to_string();
    ensure!(code.starts_with("TEST-") && code.len() == 15, "{code}");
    world.wait_kube_events("event", &["Opened", "PreloadCompleted", "PreloadStarted"]).await?;
    let kubectl_get = world.kubectl_get()?;
    let lines: Vec<Vec<&str>> = kubectl_get.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NAME", "READY", "STATE", "TOTAL", "ISSUED", "RECORDED", "START", "AGE"]);
    assert_eq!(lines[1][..6], ["event", "True", "Open", "1000", "0", "0"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn status_counts_follow_issuing_and_recording() -> Result<()> {
    let world = World::shared().await?;
    let _operator = world.start_operator()?;
    world
        .apply_open("event", "{policyName: p, totalCount: 5, discounts: [{type: Amount, value: 1, count: 5}]}")
        .await?;
    assert_eq!(world.issue("event", 0..3).await?, 3);
    let issued = world.wait("event", "issuing", |status| status.issued == Some(3)).await?;
    assert_eq!((issued.available, issued.recorded), (Some(2), Some(0)));
    assert_eq!((is_true(&issued, "Recorded"), reason(&issued, "Recorded")), (false, "Recording"));
    assert_eq!(world.issue("event", 0..9).await?, 2);
    let sold_out = world.wait("event", "sold out", |status| reason(status, "Open") == "SoldOut").await?;
    assert!(sold_out.sold_out_at.is_some() && sold_out.finished_at.is_none() && is_true(&sold_out, "Ready"));
    world.record_all("event").await?;
    let finished = world.wait("event", "finished", |status| status.finished_at.is_some()).await?;
    assert_eq!((finished.recorded, reason(&finished, "Recorded")), (Some(5), "AllRecorded"));
    world.wait_kube_events("event", &["Opened", "PreloadCompleted", "PreloadStarted", "SoldOut"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn event_with_window_opens_at_start_and_ends_at_end() -> Result<()> {
    let world = World::shared().await?;
    let monitor = ports::free()?;
    let _operator = world.operator_program(monitor).start()?;
    let metrics = || http::get(monitor, "/metrics").unwrap_or_default().1;
    let start_metric = |value| format!("couponry_operator_event_start_time_seconds{{event=\"event\"}} {value}");
    let ready_metric = "couponry_operator_condition{event=\"event\",condition=\"Ready\"} 1";
    let spec = |window: &str| {
        format!("{{policyName: p, totalCount: 10, discounts: [{{type: Amount, value: 1, count: 10}}], {window}}}")
    };
    let soon = || Timestamp::now() + SignedDuration::from_secs(3);
    world.apply("event", &spec("startTime: '2100-01-01T00:00:00Z'"))?;
    let scheduled = world.wait_ready("event").await?;
    assert_eq!((reason(&scheduled, "Open"), &scheduled.opened_at), ("Scheduled", &None));
    assert_eq!(world.issue("event", 0..1).await?, 0);
    for line in [&*start_metric("4102444800"), ready_metric] {
        ensure!(metrics().contains(line), "{line} is not in\n{}", metrics());
    }

    let start = soon();
    world.apply("event", &spec(&format!("startTime: '{start}'")))?;
    let open = world.wait("event", "open", |status| is_true(status, "Open")).await?;
    ensure!(Timestamp::now() >= start, "the event opened before its start");
    ensure!(open.opened_at.as_ref().is_some_and(|at| at.0.as_second() >= start.as_second()), "{:?}", open.opened_at);
    assert_eq!(world.issue("event", 0..1).await?, 1);
    ensure!(!metrics().contains(&start_metric("")) && metrics().contains(ready_metric), "{}", metrics());

    let end = soon();
    world.apply("event", &spec(&format!("startTime: '{start}', endTime: '{end}'")))?;
    world.wait("event", "over", |status| reason(status, "Open") == "Ended").await?;
    ensure!(Timestamp::now() >= end, "the event ended before its end");
    assert_eq!(world.issue("event", 5..9).await?, 0);
    world.wait_kube_events("event", &["Ended", "Opened", "PreloadCompleted", "PreloadStarted"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn event_created_after_its_end_never_opens() -> Result<()> {
    let world = World::shared().await?;
    let _operator = world.start_operator()?;
    let spec = "{policyName: p, totalCount: 10, discounts: [{type: Amount, value: 1, count: 10}], \
                endTime: '2020-01-01T00:00:00Z'}";
    world.apply("event", spec)?;
    world.wait("event", "over", |status| reason(status, "Open") == "Ended").await?;
    assert_eq!(world.issue("event", 0..1).await?, 0);
    world.wait_kube_events("event", &["Ended", "PreloadCompleted", "PreloadStarted"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn examples_applied_together_become_ready() -> Result<()> {
    let world = World::shared().await?;
    let _operator = world.start_operator()?;
    for example in ["summer", "scheduled", "counts"] {
        let path = format!("{}/../examples/{example}.yaml", env!("CARGO_MANIFEST_DIR"));
        let manifest: serde_json::Value = serde_yaml::from_str(&std::fs::read_to_string(path)?)?;
        let name = manifest["metadata"]["name"].as_str().expect("an example has a name");
        world.apply(name, &manifest["spec"].to_string())?;
    }
    world.wait_ready("launch").await?;
    world.check_generated_stock("launch", &[("PERCENT:100", 1), ("PERCENT:30", 110), ("AMOUNT:1000", 1000)]).await?;
    world.wait_ready("winter").await?;
    world.check_generated_stock("winter", &[("PERCENT:50", 10), ("PERCENT:20", 330), ("PERCENT:10", 660)]).await?;
    world.wait_ready("summer").await?;
    world.check_generated_stock("summer", &[("PERCENT:10", 70_000), ("AMOUNT:5000", 30_000)]).await
}
