//! Every coupon is in one place, and the operator says so, or what differs.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use couponry_crds::BalanceStatus;
use couponry_domain::EventName;
use couponry_redis::{Settlement, SettlementOutcome};
use couponry_testbed::ports;

use crate::stage::{Stage, eventually, holds, message, monitor, reason};

const SPEC: &str = "{policyName: p, totalCount: 100, discounts: [{type: Amount, value: 1, count: 100}]}";

#[tokio::test(flavor = "multi_thread")]
async fn what_has_vanished_is_told_with_words_and_so_is_that_it_is_back() -> Result<()> {
    let stage = Stage::new().await?;
    let port = ports::free()?;
    let _operator = stage.program(port).start()?;
    let queue = "Of 100 coupons in Postgres, 89 are available and 10 issued in Redis: 1 coupon is missing. Set issuance to Paused";
    let record = "10 coupons are marked as recorded in Redis, but only 9 of them are recorded in Postgres. Set issuance";
    let entry = "Of 100 coupons in Postgres, 90 are available and 9 issued in Redis: 1 coupon is missing. 10 coupons are recorded \
                 as issued in Postgres, but only 9 are issued in Redis. Set issuance";
    let cases = [("queue", queue, 1), ("record", record, 1), ("entry", entry, 2)];
    for (name, ..) in cases {
        stage.apply(name, SPEC)?;
        stage.wait(name, "open", |status| holds(status, "Open")).await?;
        assert_eq!(stage.ask(name, 0..10).await?, 10);
        stage.record_all(name).await?;
        let status = stage.wait(name, "recorded", |status| status.recorded == Some(10)).await?;
        let balance = BalanceStatus { generated: 100, available: 90, unrecorded: 0, recorded: 10, voided: 0 };
        assert_eq!(status.balance, Some(balance));
        assert_eq!((holds(&status, "Balanced"), reason(&status, "Balanced")), (true, "CountsMatch"));
    }

    stage.lose_coupon("queue")?;
    let uid = stage.uid("record").await?;
    let row = format!("event_uid = '{uid}' AND user_id = 'user-3'");
    stage
        .test_database
        .sql(&format!("CREATE TABLE kept AS SELECT * FROM issuance WHERE {row}; DELETE FROM issuance WHERE {row}"))?;
    stage.redis(&["HDEL", &stage.key("couponIssued", "entry"), "user-3"])?;

    for (name, words, coupons) in cases {
        let status = stage.wait(name, "out of balance", |status| reason(status, "Balanced") == "DriftFound").await?;
        let told = message(&status, "Balanced");
        assert!(told.starts_with(words), "{name}: {told}");
        assert_eq!([reason(&status, "Stalled"), reason(&status, "Ready")], ["DriftFound"; 2]);
        assert_eq!(message(&status, "Stalled"), told);
        assert!(holds(&status, "Open"), "users go on getting coupons");
        stage.wait_story(name, &["DriftFound", "Opened", "PreloadCompleted", "PreloadStarted"]).await?;
        let told_of = stage.told(name).await?;
        let warning = told_of.iter().find(|event| event.type_.as_deref() == Some("Warning")).context("no warning")?;
        assert_eq!(warning.note.as_deref(), Some(told));
        let gauge = format!("couponry_operator_balance_difference{{event=\"{name}\"}} {coupons}\n");
        eventually("it is in the metrics", async || Ok(metrics(port).await?.contains(&gauge))).await?;
    }

    stage.test_database.sql("INSERT INTO issuance SELECT * FROM kept")?;
    let status = stage.wait("record", "in balance", |status| holds(status, "Balanced")).await?;
    assert!(holds(&status, "Ready") && !holds(&status, "Stalled"));
    stage.wait_story("record", &["Balanced", "DriftFound", "Opened", "PreloadCompleted", "PreloadStarted"]).await?;
    stage.delete("record")?;
    stage.wait_gone("record").await?;
    let metrics = metrics(port).await?;
    assert!(!metrics.contains("event=\"record\"") && metrics.contains("event=\"queue\""), "{metrics}");
    Ok(())
}

async fn metrics(port: u16) -> Result<String> {
    Ok(monitor(port, "/metrics").await.context("no answer")?.1)
}

#[tokio::test(flavor = "multi_thread")]
async fn voided_coupons_are_counted_also_when_their_users_get_others() -> Result<()> {
    let stage = Stage::new().await?;
    let _operator = stage.operator()?;
    stage.apply("event", SPEC)?;
    stage.wait("event", "open", |status| holds(status, "Open")).await?;
    assert_eq!(stage.ask("event", 0..10).await?, 10);
    let event: EventName = "event".parse()?;
    let given = stage.stock.scan_issued(&event).await?;
    let settlements: Vec<_> = given
        .into_iter()
        .zip([true, false, false, false])
        .map(|((user, entry), return_to_stock)| {
            let outcome = SettlementOutcome::Cancelled { return_to_stock };
            Settlement { user, coupon: entry.issued.coupon, outcome }
        })
        .collect();
    stage.stock.settle(&event, stage.uid("event").await?, &settlements).await?;
    stage.wait("event", "voided", |status| status.balance.is_some_and(|balance| balance.voided == 3)).await?;
    assert_eq!(stage.ask("event", 0..10).await?, 4, "users whose coupon was cancelled receive another one");
    stage.record_all("event").await?;
    let expected = BalanceStatus { generated: 100, available: 87, unrecorded: 0, recorded: 10, voided: 3 };
    let status = stage.wait("event", "recorded", |status| status.balance == Some(expected)).await?;
    let report = stage.answer(&["audit", "event", "--output", "json", "--wait", "0"], &[])?;
    let report: serde_json::Value = serde_json::from_slice(&report.stdout)?;
    assert_eq!(report["counts"]["voided"], 3, "{report:#}");
    assert!(holds(&status, "Balanced") && holds(&status, "Ready"), "{status:#?}");
    Ok(())
}

/// Coupons move all the time, in both stores, and the two can never be read at one instant.
#[tokio::test(flavor = "multi_thread")]
async fn a_busy_event_gives_no_false_alarm() -> Result<()> {
    let stage = Stage::new().await?;
    let _operator = stage.operator()?;
    let spec = "{policyName: p, totalCount: 200000, discounts: [{type: Amount, value: 1, count: 200000}]}";
    stage.apply("event", spec)?;
    stage.wait("event", "open", |status| holds(status, "Open")).await?;
    let event: EventName = "event".parse()?;
    let uid = stage.uid("event").await?;
    let begun = Instant::now();
    let (mut asked, mut differing) = (0u32, 0);
    while begun.elapsed() < Duration::from_secs(12) {
        let users: Vec<_> = (asked..asked + 50).map(|n| format!("user-{n}").parse()).collect::<Result<_, _>>()?;
        asked += 50;
        let entry = stage.stock.issue(&event, &users).await?.and_then(|reply| reply.outbox).context("nothing given")?;
        stage.database.record(&entry.records).await?;
        let settlements: Vec<_> = entry
            .records
            .iter()
            .map(|record| Settlement {
                user: record.issued.user_id.clone(),
                coupon: record.issued.coupon.clone(),
                outcome: SettlementOutcome::Completed,
            })
            .collect();
        stage.stock.settle(&event, uid, &settlements).await?;
        stage.stock.confirm(&event, &[entry.id]).await?;
        let status = stage.get("event").await?.status.unwrap_or_default();
        differing += u32::from(!holds(&status, "Balanced"));
    }
    ensure!(asked > 500, "only {asked} users asked");
    assert_eq!(differing, 0, "a false alarm");
    let status = stage.wait("event", "recorded", |status| status.recorded == Some(u64::from(asked))).await?;
    let balance = status.balance.context("no balance")?;
    assert_eq!(balance.generated, balance.available + balance.unrecorded + balance.recorded + balance.voided);
    stage.wait_story("event", &["Opened", "PreloadCompleted", "PreloadStarted"]).await
}
