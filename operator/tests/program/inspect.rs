//! The commands that only look: `audit`, `export`, `check`.

use std::process::Output;

use anyhow::Result;
use couponry_testbed::{ports, shared};
use serde_json::json;

use crate::stage::{Stage, holds};

const SPEC: &str =
    "{policyName: p, totalCount: 10, discounts: [{type: Percent, value: 10, allocationPercentage: 100}]}";

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_says_ok_or_what_differs_by_its_exit_code_too() -> Result<()> {
    let stage = Stage::new().await?;
    let _operator = stage.operator()?;
    stage.apply("event", SPEC)?;
    stage.wait("event", "open", |status| holds(status, "Open")).await?;
    let good = stage.answer(&["audit", "event"], &[])?;
    assert_eq!(good.status.code(), Some(0), "{}{}", out(&good), err(&good));
    assert!(out(&good).contains("10 coupons, 0 of them recorded"), "{}", out(&good));
    assert!(out(&good).ends_with("OK: Redis, Kafka and Postgres are consistent\n"), "{}", out(&good));

    stage.lose_coupon("event")?;
    let bad = stage.answer(&["audit", "event"], &[])?;
    assert_eq!(bad.status.code(), Some(1), "{}{}", out(&bad), err(&bad));
    assert!(out(&bad).contains("was loaded into Redis, but is neither available nor issued there\nDIFFERS: 1 discrepancies\n"), "{}", out(&bad));
    let json: serde_json::Value =
        serde_json::from_slice(&stage.answer(&["audit", "event", "-o", "json"], &[])?.stdout)?;
    assert_eq!((&json["verdict"], &json["discrepancies"]["counts"]["missing"]), (&"DIFFERS".into(), &1.into()));

    let unknown = stage.answer(&["audit", "other"], &[])?;
    assert_eq!(unknown.status.code(), Some(2));
    assert!(err(&unknown).contains("the event other does not exist"), "{}", err(&unknown));
    let nowhere = format!("redis://127.0.0.1:{}", ports::free()?);
    let unreachable = stage.answer(&["audit", "event"], &[("REDIS_URL", &nowhere)])?;
    assert_eq!(unreachable.status.code(), Some(2));
    assert!(err(&unreachable).contains("Error: cannot reach Redis at "), "{}", err(&unreachable));

    // Of an event whose resource is gone, the rows may still be there.
    let uid = stage.uid("event").await?.to_string();
    stage.delete("event")?;
    stage.wait_gone("event").await?;
    let gone = stage.answer(&["audit", "event"], &[])?;
    assert_eq!(gone.status.code(), Some(2));
    assert!(err(&gone).contains(&format!("Postgres holds data of {uid}: select one with --uid")), "{}", err(&gone));
    let coupons = stage.answer(&["export", "event", "coupons", "--uid", &uid], &[])?;
    assert_eq!(out(&coupons).lines().count(), 11);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_is_csv_that_any_program_reads() -> Result<()> {
    let stage = Stage::new().await?;
    let _operator = stage.operator()?;
    stage.apply("event", SPEC)?;
    stage.wait("event", "open", |status| holds(status, "Open")).await?;
    let users = ["u1".parse()?, r#"a "b", c"#.parse()?, "=1+1".parse()?];
    stage.stock.issue(&"event".parse()?, &users).await?;
    stage.record_all("event").await?;

    let coupons = stage.answer(&["export", "event", "coupons"], &[])?;
    assert!(coupons.status.success(), "{}", err(&coupons));
    let coupons = out(&coupons);
    let rows: Vec<&str> = coupons.split("\r\n").collect();
    assert_eq!(rows[0], "couponKey,discountType,discountAmount,issued,userId,issuedAt");
    assert_eq!((rows.len(), rows[11]), (12, ""));
    // In the order in which they are given.
    for (row, user) in rows[1..4].iter().zip(["u1", r#""a ""b"", c""#, "=1+1"]) {
        assert!(row.contains(&format!(",PERCENT,10,true,{user},20")), "{row}");
    }
    assert!(rows[4].ends_with(",PERCENT,10,false,,"), "{}", rows[4]);

    let issuances = stage.answer(&["export", "event", "issuances", "--for-spreadsheets"], &[])?;
    let issuances = out(&issuances);
    assert!(
        issuances.starts_with("userId,couponKey,discountType,discountAmount,issuedAt,recordedAt\r\n"),
        "{issuances}"
    );
    assert_eq!(issuances.matches("\r\n").count(), 4);
    assert!(issuances.contains("\r\n'=1+1,"), "{issuances}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_names_what_fails_and_what_to_do() -> Result<()> {
    let stage = Stage::new().await?;
    let before = stage.answer(&["check"], &[])?;
    assert_eq!(before.status.code(), Some(1), "{}", out(&before));
    for part in ["FAIL  schema", "version 0, but this operator requires", "does not exist", "couponry-operator migrate"] {
        assert!(out(&before).contains(part), "{part:?} is not in\n{}", out(&before));
    }

    let _operator = stage.operator()?;
    stage.apply("event", SPEC)?;
    stage.wait("event", "open", |status| holds(status, "Open")).await?;
    let good = stage.answer(&["check"], &[])?;
    assert_eq!(good.status.code(), Some(0), "{}{}", out(&good), err(&good));
    for part in [
        "OK    Postgres      reachable",
        "OK    CRD           CouponEvent v1alpha1 matches this operator",
        "OK    consumers     lag 0",
        "OK    dead letters  none",
        "OK    events        1 in",
    ] {
        assert!(out(&good).contains(part), "{part:?} is not in\n{}", out(&good));
    }
    stage.lose_coupon("event")?;
    stage.wait("event", "stalled", |status| holds(status, "Stalled")).await?;
    let found: serde_json::Value = serde_json::from_slice(&stage.answer(&["check", "-o", "json"], &[])?.stdout)?;
    let fails: Vec<_> = found.as_array().into_iter().flatten().filter(|finding| finding["level"] == "FAIL").collect();
    assert_eq!(fails.len(), 1, "{found:#}");
    assert_eq!((&fails[0]["about"], &fails[0]["found"]), (&"event event".into(), &"Stalled (DriftFound)".into()));

    let nowhere = format!("postgres://postgres@127.0.0.1:{}/postgres", ports::free()?);
    let bad = stage.answer(&["check"], &[("POSTGRES_URL", &nowhere)])?;
    assert_eq!(bad.status.code(), Some(1));
    assert!(out(&bad).contains("FAIL  Postgres"), "{}", out(&bad));
    let nowhere = format!("127.0.0.1:{}", ports::free()?);
    let login = format!("redis://:geheim@{nowhere}");
    let bad = stage.answer(&["check"], &[("REDIS_URL", &login), ("KAFKA_BROKERS", &nowhere)])?;
    assert!(out(&bad).contains(&format!("cannot reach Redis at {nowhere}: ")), "{}", out(&bad));
    assert!(out(&bad).contains("FAIL  Kafka"), "{}", out(&bad));
    assert!(!out(&bad).contains("geheim"), "{}", out(&bad));
    assert_eq!(err(&bad), "", "what is wrong is in the answer");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_names_the_pods_that_are_not_ready() -> Result<()> {
    let stage = Stage::new().await?;
    let _operator = stage.operator()?;
    let pod = |name: &str, instance: &str, status: &serde_json::Value| -> Result<()> {
        let labels = json!({"app.kubernetes.io/name": "couponry", "app.kubernetes.io/instance": instance});
        let spec = json!({"containers": [{"name": "c", "image": "c"}]});
        let metadata = json!({"name": name, "labels": labels, "namespace": stage.namespace()});
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
        shared::kubectl_with(&["create", "-f", "-"], &pod.to_string())?;
        let patch = json!({"status": status}).to_string();
        let which = ["--namespace", stage.namespace(), "--subresource=status", "--type=merge", "-p", &patch];
        shared::kubectl(&[&["patch", "pod", name], &which[..]].concat()).map(drop)
    };
    let ready = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
    pod("operator-old", "shop", &ready)?;
    let all = stage.answer(&["check"], &[("POD_NAME", "operator-old")])?;
    assert!(out(&all).contains("1 of 1 are ready; checked from operator-old"), "{}", out(&all));

    let waiting = json!({"reason": "ImagePullBackOff", "message": "no such image"});
    let container = json!({"name": "c", "image": "c", "imageID": "", "ready": false, "restartCount": 0, "state": {"waiting": waiting}});
    pod("operator-new", "shop", &json!({"phase": "Pending", "containerStatuses": [container]}))?;
    let nodes = json!([{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}]);
    pod("issuer-new", "shop", &json!({"phase": "Pending", "conditions": nodes}))?;
    pod("test", "shop", &json!({"phase": "Succeeded"}))?;
    pod("stranger", "other", &json!({"phase": "Pending"}))?;
    let upgrade = stage.answer(&["check"], &[("POD_NAME", "operator-old")])?;
    for part in [
        "operator-new is not ready (ImagePullBackOff)",
        "→ no such image",
        "issuer-new is not ready (Unschedulable)",
        "1 of 3 are ready; checked from operator-old",
    ] {
        assert!(out(&upgrade).contains(part), "{part:?} is not in\n{}", out(&upgrade));
    }
    assert_eq!(out(&upgrade).matches("WARN  pods").count(), 2, "{}", out(&upgrade));
    Ok(())
}
