//! The condition `Balanced`: the counts of generated, available, issued, recorded and withheld coupons match.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use couponry_crds::BalanceStatus;
use couponry_domain::EventName;
use couponry_redis::{Settlement, SettlementOutcome};
use couponry_testbed::{http, ports};

use crate::support::{World, is_true, message, reason, wait_until};

const SPEC: &str = "{policyName: p, totalCount: 100, discounts: [{type: Amount, value: 1, count: 100}]}";

#[tokio::test(flavor = "multi_thread")]
async fn lost_data_sets_drift_found_until_restored() -> Result<()> {
    let world = World::shared().await?;
    let port = ports::free()?;
    let _operator = world.operator_program(port).start()?;
    let queue = "Of 100 coupons in Postgres, 89 are available and 10 issued in Redis: 1 coupon is missing. \
                 Set issuance to Paused";
    let entry = "Of 100 coupons in Postgres, 90 are available and 9 issued in Redis: 1 coupon is missing. \
                 10 issuances are recorded in Postgres, but only 9 coupons are issued in Redis. Set issuance";
    let cases = [("queue", queue, 1), ("entry", entry, 2)];
    for (name, ..) in cases {
        world.apply_open(name, SPEC).await?;
        assert_eq!(world.issue(name, 0..10).await?, 10);
        world.record_all(name).await?;
        let status = world.wait(name, "recorded", |status| status.recorded == Some(10)).await?;
        let balance = BalanceStatus { generated: 100, available: 90, unrecorded: 0, recorded: 10, withheld: 0 };
        assert_eq!(status.balance, Some(balance));
        assert_eq!((is_true(&status, "Balanced"), reason(&status, "Balanced")), (true, "CountsMatch"));
    }

    world.remove_available_coupon("queue")?;
    world.redis(&["HDEL", &world.key("couponIssued", "entry"), "user-3"])?;

    for (name, words, coupons) in cases {
        let status = world.wait(name, "unbalanced", |status| reason(status, "Balanced") == "DriftFound").await?;
        let mismatch = message(&status, "Balanced");
        assert!(mismatch.starts_with(words), "{name}: {mismatch}");
        assert_eq!([reason(&status, "Stalled"), reason(&status, "Ready")], ["DriftFound"; 2]);
        assert_eq!(message(&status, "Stalled"), mismatch);
        assert!(is_true(&status, "Open"), "{name}: a mismatch does not stop issuing");
        world.wait_kube_events(name, &["DriftFound", "Opened", "PreloadCompleted", "PreloadStarted"]).await?;
        let events = world.kube_events(name).await?;
        let warning = events.iter().find(|event| event.type_.as_deref() == Some("Warning")).context("no warning")?;
        assert_eq!(warning.note.as_deref(), Some(mismatch));
        let gauge = format!("couponry_operator_balance_mismatch{{event=\"{name}\"}} {coupons}\n");
        wait_until("the metrics report the difference", async || Ok(metrics(port)?.contains(&gauge))).await?;
    }

    // The lost coupon returns.
    let uid = world.uid("queue").await?;
    let first = world.test_database.sql(&format!(
        "SELECT code || ':' || type || ':' || value FROM coupon_status
         WHERE event_uid = '{uid}' AND NOT recorded ORDER BY ordinal LIMIT 1"
    ))?;
    world.redis(&["LPUSH", &world.key("couponQueue", "queue"), first.trim()])?;
    let status = world.wait("queue", "balanced", |status| is_true(status, "Balanced")).await?;
    assert!(is_true(&status, "Ready") && !is_true(&status, "Stalled"));
    world
        .wait_kube_events("queue", &["Balanced", "DriftFound", "Opened", "PreloadCompleted", "PreloadStarted"])
        .await?;
    world.delete("queue")?;
    world.wait_gone("queue").await?;
    let metrics = metrics(port)?;
    assert!(!metrics.contains("event=\"queue\"") && metrics.contains("event=\"entry\""), "{metrics}");
    Ok(())
}

fn metrics(port: u16) -> Result<String> {
    Ok(http::get(port, "/metrics").context("no response")?.1)
}

#[tokio::test(flavor = "multi_thread")]
async fn withheld_coupons_stay_counted_after_reissue() -> Result<()> {
    let world = World::shared().await?;
    let _operator = world.start_operator()?;
    world.apply_open("event", SPEC).await?;
    assert_eq!(world.issue("event", 0..10).await?, 10);
    let event: EventName = "event".parse()?;
    let issued = world.redis_store.scan_issued(&event).await?;
    let settlements: Vec<_> = issued
        .into_iter()
        .zip([true, false, false, false])
        .map(|((user, entry), requeue)| {
            let outcome = SettlementOutcome::Cancelled { requeue };
            Settlement { user, coupon: entry.issued.coupon, outcome }
        })
        .collect();
    world.redis_store.settle(&event, world.uid("event").await?, &settlements).await?;
    world.wait("event", "withheld", |status| status.balance.is_some_and(|balance| balance.withheld == 3)).await?;
    assert_eq!(world.issue("event", 0..10).await?, 4, "users whose coupon was withheld receive another one");
    world.record_all("event").await?;
    let expected = BalanceStatus { generated: 100, available: 87, unrecorded: 0, recorded: 10, withheld: 3 };
    let status = world.wait("event", "recorded", |status| status.balance == Some(expected)).await?;
    let report = world.run_command(&["audit", "event", "--output", "json", "--wait-seconds", "0"], &[])?;
    let report: serde_json::Value = serde_json::from_slice(&report.stdout)?;
    assert_eq!(report["counts"]["withheld"], 3, "{report:#}");
    assert!(is_true(&status, "Balanced") && is_true(&status, "Ready"), "{status:#?}");
    Ok(())
}

/// The operator cannot read both stores at one instant, and meanwhile coupons are issued and recorded.
#[tokio::test(flavor = "multi_thread")]
async fn balance_of_busy_event_stays_true() -> Result<()> {
    let world = World::shared().await?;
    let _operator = world.start_operator()?;
    let spec = "{policyName: p, totalCount: 200000, discounts: [{type: Amount, value: 1, count: 200000}]}";
    world.apply_open("event", spec).await?;
    let event: EventName = "event".parse()?;
    let uid = world.uid("event").await?;
    let started = Instant::now();
    let (mut requested, mut differing) = (0u32, 0);
    while started.elapsed() < Duration::from_secs(12) {
        let users: Vec<_> =
            (requested..requested + 50).map(|n| format!("user-{n}").parse()).collect::<Result<_, _>>()?;
        requested += 50;
        let entry = world
            .redis_store
            .issue(&event, &users)
            .await?
            .and_then(|reply| reply.outbox)
            .context("no coupon was issued")?;
        world.database.record(&entry.records).await?;
        let settlements: Vec<_> = entry
            .records
            .iter()
            .map(|record| Settlement {
                user: record.issued.user_id.clone(),
                coupon: record.issued.coupon.clone(),
                outcome: SettlementOutcome::Completed,
            })
            .collect();
        world.redis_store.settle(&event, uid, &settlements).await?;
        world.redis_store.delete_confirmed(&event, &[entry.id]).await?;
        let status = world.get("event").await?.status.unwrap_or_default();
        differing += u32::from(!is_true(&status, "Balanced"));
    }
    ensure!(requested > 500, "only {requested} users requested a coupon");
    assert_eq!(differing, 0, "Balanced was not True");
    let status = world.wait("event", "recorded", |status| status.recorded == Some(u64::from(requested))).await?;
    let balance = status.balance.context("no balance")?;
    assert_eq!(balance.generated, balance.available + balance.unrecorded + balance.recorded + balance.withheld);
    world.wait_kube_events("event", &["Opened", "PreloadCompleted", "PreloadStarted"]).await
}
