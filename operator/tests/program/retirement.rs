//! Coupons that leave Redis some time after the end.

use anyhow::{Context as _, Result, ensure};
use couponry_domain::Gate;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::stage::{Stage, holds, message, reason};

fn spec(total: u32, more: &str) -> String {
    format!("{{policyName: p, totalCount: {total}, discounts: [{{type: Amount, value: 1, count: {total}}}], {more}}}")
}

impl Stage {
    /// How many keys of the event Redis has.
    fn keys_left(&self, name: &str) -> Result<String> {
        let keys = ["couponMeta", "couponQueue", "couponIssued", "couponOutbox"].map(|kind| self.key(kind, name));
        let answer = self.redis(&["EXISTS", &keys[0], &keys[1], &keys[2], &keys[3]])?;
        Ok(answer.trim().trim_start_matches(':').to_owned())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_its_time_an_event_that_is_over_keeps_only_its_counts_in_redis() -> Result<()> {
    let stage = Stage::new().await?;
    let operator = stage.operator()?;
    let end = Timestamp::from_second((Timestamp::now() + SignedDuration::from_secs(20)).as_second())?;
    stage.apply("ended", &spec(10, &format!("ttlSecondsAfterFinished: 1, endTime: '{end}'")))?;
    stage.apply("sold-out", &spec(4, "ttlSecondsAfterFinished: 0"))?;
    stage.apply("closed", &spec(10, "ttlSecondsAfterFinished: 0"))?;
    stage.apply("stays", &spec(4, "issuance: Auto"))?;
    let all = [("ended", "Ended", 6), ("sold-out", "SoldOut", 0), ("closed", "Closed", 6), ("stays", "SoldOut", 0)];
    for (name, ..) in all {
        stage.wait(name, "open", |status| holds(status, "Open")).await?;
        assert_eq!(stage.ask(name, 0..4).await?, 4);
    }
    stage.apply("closed", &spec(10, "ttlSecondsAfterFinished: 0, issuance: Closed"))?;
    for (name, state, _) in all {
        let over = stage.wait(name, "over", |status| reason(status, "Open") == state).await?;
        ensure!(over.finished_at.is_none(), "nothing is recorded yet: {over:?}");
        stage.record_all(name).await?;
        // Killed wherever it is.
        operator.kill9()?;
        operator.restart()?;
    }
    for (name, state, left) in &all[..3] {
        let status = stage.wait(name, "retired", |status| reason(status, "Ready") == "Retired").await?;
        ensure!(holds(&status, "Ready") && holds(&status, "Balanced") && !holds(&status, "Stalled"), "{status:#?}");
        assert_eq!(reason(&status, "Open"), *state, "how it ended is still said");
        assert_eq!((status.issued, status.recorded, status.available), (Some(4), Some(4), Some(*left)));
        let finished = status.finished_at.context("not finished")?.0;
        ensure!(*name != "ended" || Timestamp::now() > end && finished >= end, "{finished}");
        assert_eq!(stage.keys_left(name)?, "1", "couponMeta stays");
        let seen = stage.stock.observe(&name.parse()?).await?.context("couponMeta is gone")?;
        assert_eq!(seen.gate, Gate::Closed);
        assert_eq!(stage.ask(name, 3..6).await?, 0);
        let story = stage.story(name).await?;
        // Not at all by an operator that was killed right after its report.
        ensure!(story.iter().filter(|told| *told == "Retired").count() <= 1, "{story:?}");
        ensure!(!story.contains(&"DriftFound".to_owned()), "{story:?}");
    }
    stage.wait("stays", "finished", |status| status.finished_at.is_some()).await?;
    assert_eq!(stage.keys_left("stays")?, "3", "it was not asked for: all but the queue, which is empty");

    let audited = stage.answer(&["audit", "ended"], &[])?;
    let audited = String::from_utf8_lossy(&audited.stdout);
    ensure!(audited.contains("Redis      6 available, 4 issued (before they were removed)\n"), "{audited}");

    // What is gone does not come back.
    stage.apply("sold-out", &spec(9, "ttlSecondsAfterFinished: 0"))?;
    let stuck = stage.wait("sold-out", "stuck", |status| holds(status, "Stalled")).await?;
    assert_eq!(reason(&stuck, "Stalled"), "ChangeNotPossible");
    ensure!(message(&stuck, "Stalled").contains("Create another event"), "{stuck:?}");
    stage.apply("sold-out", &spec(9, "ttlSecondsAfterFinished: 0, issuance: Closed"))?;
    stage.wait_ready("sold-out").await?;

    // And its name can be used again.
    stage.delete("closed")?;
    stage.wait_gone("closed").await?;
    assert_eq!(stage.keys_left("closed")?, "0");
    stage.apply("closed", &spec(10, "issuance: Auto"))?;
    stage.wait("closed", "open anew", |status| holds(status, "Open")).await?;
    stage.check_whole("closed", &[("AMOUNT:1", 10)]).await
}
