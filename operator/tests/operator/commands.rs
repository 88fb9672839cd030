//! The commands `audit`, `export`, `report`, `check` and `purge`.

use std::process::Output;

use anyhow::{Result, ensure};
use couponry_crds::CouponEventStatus;
use couponry_domain::redemption::{Change, Order};
use couponry_postgres::{UseOutcome, UseRequest};
use couponry_testbed::{Database, Postgres, ports, shared};
use futures::TryStreamExt as _;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::support::{World, is_true};

const SPEC: &str =
    "{policyName: p, totalCount: 10, discounts: [{type: Percent, value: 10, allocationPercentage: 100}]}";

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn audit_with_differences_exits_with_1() -> Result<()> {
    let world = World::shared().await?;
    let _operator = world.start_operator()?;
    world.apply_open("event", SPEC).await?;
    let good = world.run_command(&["audit", "event"], &[])?;
    assert_eq!(good.status.code(), Some(0), "{}{}", stdout(&good), stderr(&good));
    assert!(stdout(&good).contains("10 coupons, 0 of them recorded"), "{}", stdout(&good));
    assert!(stdout(&good).ends_with("OK: Redis, Kafka and Postgres are consistent\n"), "{}", stdout(&good));

    world.remove_available_coupon("event")?;
    let bad = world.run_command(&["audit", "event"], &[])?;
    assert_eq!(bad.status.code(), Some(1), "{}{}", stdout(&bad), stderr(&bad));
    assert!(
        stdout(&bad).contains(
            "was loaded into Redis, but is neither available, issued nor withheld there\n\
             DIFFERS: 1 discrepancies\n"
        ),
        "{}",
        stdout(&bad)
    );
    let json: serde_json::Value =
        serde_json::from_slice(&world.run_command(&["audit", "event", "-o", "json"], &[])?.stdout)?;
    assert_eq!((&json["verdict"], &json["discrepancies"]["counts"]["missing"]), (&"DIFFERS".into(), &1.into()));

    let unknown = world.run_command(&["audit", "other"], &[])?;
    assert_eq!(unknown.status.code(), Some(2));
    assert!(stderr(&unknown).contains("the event other does not exist"), "{}", stderr(&unknown));
    let unused = format!("redis://127.0.0.1:{}", ports::free()?);
    let unreachable = world.run_command(&["audit", "event"], &[("REDIS_URL", &unused)])?;
    assert_eq!(unreachable.status.code(), Some(2));
    assert!(
        stderr(&unreachable).contains(&format!("Error: cannot read the event from Redis at {}: ", &unused[8..])),
        "{}",
        stderr(&unreachable)
    );

    // After the resource is removed, its rows stay in Postgres.
    let uid = world.uid("event").await?.to_string();
    world.delete("event")?;
    world.wait_gone("event").await?;
    let gone = world.run_command(&["audit", "event"], &[])?;
    assert_eq!(gone.status.code(), Some(2));
    assert!(
        stderr(&gone).contains(&format!("Postgres holds data of {uid}: select one with --uid")),
        "{}",
        stderr(&gone)
    );
    let coupons = world.run_command(&["export", "event", "coupons", "--uid", &uid], &[])?;
    assert_eq!(stdout(&coupons).lines().count(), 11);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn export_with_special_characters_writes_valid_csv() -> Result<()> {
    let world = World::shared().await?;
    let _operator = world.start_operator()?;
    world.apply_open("event", SPEC).await?;
    let users = ["u1".parse()?, r#"a "b", c"#.parse()?, "=1+1".parse()?];
    world.redis_store.issue(&"event".parse()?, &users).await?;
    world.record_all("event").await?;

    let coupons = world.run_command(&["export", "event", "coupons"], &[])?;
    assert!(coupons.status.success(), "{}", stderr(&coupons));
    let coupons = stdout(&coupons);
    let rows: Vec<&str> = coupons.split("\r\n").collect();
    assert_eq!(rows[0], "couponKey,discountType,discountAmount,recorded,userId,issuedAt,validUntil");
    assert_eq!((rows.len(), rows[11]), (12, ""));
    // In the order in which coupons are issued.
    for (row, user) in rows[1..4].iter().zip(["u1", r#""a ""b"", c""#, "=1+1"]) {
        assert!(row.contains(&format!(",PERCENT,10,true,{user},20")), "{row}");
    }
    assert!(rows[4].ends_with(",PERCENT,10,false,,,"), "{}", rows[4]);

    let issuances = world.run_command(&["export", "event", "issuances", "--for-spreadsheets"], &[])?;
    let issuances = stdout(&issuances);
    assert!(
        issuances.starts_with("userId,couponKey,discountType,discountAmount,issuedAt,recordedAt,validUntil\r\n"),
        "{issuances}"
    );
    assert_eq!(issuances.matches("\r\n").count(), 4);
    assert!(issuances.contains("\r\n'=1+1,"), "{issuances}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn report_has_the_figures_of_a_sale_without_users_and_codes() -> Result<()> {
    let world = World::shared().await?;
    let _operator = world.start_operator()?;
    world.apply_open("event", SPEC).await?;
    let report = || -> Result<serde_json::Value> {
        let output = world.run_command(&["report", "event"], &[])?;
        ensure!(output.status.success(), "{}", stderr(&output));
        Ok(serde_json::from_slice(&output.stdout)?)
    };
    let before = report()?;
    assert_eq!((&before["recorded"], &before["issuing"]), (&0.into(), &serde_json::Value::Null));
    assert!(before["openedAt"].is_string() && before["soldOutAfterMilliseconds"].is_null(), "{before}");

    world.issue("event", 0..10).await?;
    world.record_all("event").await?;
    let after = report()?;
    assert_eq!((&after["name"], &after["policyName"]), (&"event".into(), &"p".into()));
    let discounts = json!([{"type": "PERCENT", "value": 10, "total": 10, "recorded": 10}]);
    assert_eq!((&after["recorded"], &after["total"], &after["discounts"]), (&10.into(), &10.into(), &discounts));
    assert!(after["soldOutAfterMilliseconds"].is_u64(), "{after}");
    let issuing = &after["issuing"];
    let points = issuing["points"].as_array().unwrap();
    let sum: u64 = points.iter().map(|point| point[1].as_u64().unwrap()).sum();
    let peak = points.iter().map(|point| point[1].as_u64().unwrap()).max();
    assert_eq!((sum, issuing["peakPerSecond"].as_u64(), &issuing["secondsPerPoint"]), (10, peak, &1.into()));
    assert!(issuing["firstAt"].as_str() <= issuing["lastAt"].as_str(), "{issuing}");
    let delay = &issuing["recordingDelayMilliseconds"];
    assert!(delay["p50"].as_u64() <= delay["p99"].as_u64() && delay["p99"].as_u64() <= delay["max"].as_u64());

    let text = after.to_string();
    let uid = world.uid("event").await?;
    let issuances: Vec<_> = world.database.stream_issuances(uid).try_collect().await?;
    assert_eq!(issuances.len(), 10);
    for issuance in issuances {
        assert!(!text.contains(issuance.issued.user_id.as_str()) && !text.contains(issuance.issued.coupon.as_str()));
    }
    let unknown = world.run_command(&["report", "other"], &[])?;
    assert_eq!(unknown.status.code(), Some(2));
    assert!(stderr(&unknown).contains("the event other does not exist"), "{}", stderr(&unknown));
    Ok(())
}

/// `kubectl couponry plan` estimates the memory of Redis.
#[tokio::test(flavor = "multi_thread")]
async fn planned_memory_of_redis_is_that_of_real_entries() -> Result<()> {
    const COUPONS: u64 = 20_000;
    let world = World::shared().await?;
    let _operator = world.start_operator()?;
    let spec = format!(
        "{{policyName: p, totalCount: {COUPONS}, code: {{prefix: SUMMER}}, discounts: [{{type: Percent, value: 10, \
         allocationPercentage: 100}}]}}"
    );
    let scratch = couponry_testbed::scratch::Scratch::new("plan")?;
    let file = scratch.path().join("event.yaml");
    std::fs::write(
        &file,
        format!("{{apiVersion: couponry.dev/v1alpha1, kind: CouponEvent, metadata: {{name: event}}, spec: {spec}}}"),
    )?;
    let plan = std::process::Command::new(shared::program("kubectl-couponry"))
        .args(["plan", "--offline", "--output", "json", "--filename"])
        .arg(&file)
        .output()?;
    ensure!(plan.status.success(), "{}", stderr(&plan));
    let plan: serde_json::Value = serde_json::from_slice(&plan.stdout)?;
    let estimate = |name: &str| plan[0]["redisBytes"][name].as_f64().unwrap_or_default();
    let measured = |kind: &str| -> Result<f64> {
        let reply = world.redis(&["MEMORY", "USAGE", &world.key(kind, "event"), "SAMPLES", "0"])?;
        Ok(reply.trim().trim_start_matches(':').parse()?)
    };

    world.apply_open("event", &spec).await?;
    let loaded = measured("couponQueue")?;
    assert!((0.85..1.15).contains(&(estimate("loaded") / loaded)), "{plan}, measured {loaded}");
    let users: Vec<_> =
        (0..COUPONS).map(|n| format!("{n:08x}-0000-4000-8000-00000000{n:04x}").parse()).collect::<Result<_, _>>()?;
    for users in users.chunks(1000) {
        world.redis_store.issue(&"event".parse()?, users).await?;
    }
    let issued = measured("couponIssued")?;
    assert!((0.85..1.15).contains(&(estimate("soldOut") / issued)), "{plan}, measured {issued}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn reserved_and_redeemed_coupons_are_in_status_and_export() -> Result<()> {
    let world = World::shared().await?;
    let _operator = world.start_operator()?;
    world.apply_open("event", SPEC).await?;
    world.issue("event", 0..3).await?;
    world.record_all("event").await?;
    let uid = world.uid("event").await?;
    let issuances: Vec<_> = world.database.stream_issuances(uid).try_collect().await?;
    for (issuance, change) in issuances.iter().zip([Change::Redeem, Change::Reserve { seconds: 3600 }]) {
        let id = issuance.issued.coupon.as_str();
        let request = UseRequest {
            event: "event".parse()?,
            coupon: issuance.issued.coupon.clone(),
            user: issuance.issued.user_id.clone(),
            order: Order { id: "=order-1".parse()?, amount: None },
            change,
            id: id.parse()?,
            hash: [0; 32],
            actor: Some("shop".to_owned()),
        };
        ensure!(matches!(world.database.use_coupon(&request).await?, UseOutcome::Changed { .. }));
    }
    let counted = |status: &CouponEventStatus| (status.reserved, status.redeemed) == (Some(1), Some(1));
    world.wait("event", "the uses are counted", counted).await?;

    let export = world.run_command(&["export", "event", "redemptions", "--for-spreadsheets"], &[])?;
    let export = stdout(&export);
    ensure!(export.starts_with("couponKey,userId,seq,kind,orderId,reservedUntil,changedAt,caller\r\n"), "{export}");
    let redeemed = &issuances[0].issued;
    ensure!(export.contains(&format!("\r\n{},{},1,REDEEMED,'=order-1,,20", redeemed.coupon, redeemed.user_id)));
    ensure!(export.lines().count() == 3 && export.contains(",1,RESERVED,'=order-1,20"), "{export}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn purge_deletes_rows_of_old_deleted_events_only() -> Result<()> {
    let world = World::shared().await?;
    let operator = world.start_operator()?;
    for name in ["deleted", "recent", "existing", "in-redis"] {
        world.apply_open(name, SPEC).await?;
        world.redis_store.issue(&name.parse()?, &["u1".parse()?]).await?;
        world.record_all(name).await?;
    }
    let [deleted, recent, existing] =
        [world.uid("deleted").await?, world.uid("recent").await?, world.uid("existing").await?];
    let in_redis = world.uid("in-redis").await?;
    for name in ["deleted", "recent"] {
        world.delete(name)?;
        world.wait_gone(name).await?;
    }
    // Its keys are in Redis, because no operator has removed them.
    operator.stop()?;
    let remove = serde_json::from_value(json!([{"op": "remove", "path": "/metadata/finalizers"}]))?;
    world.events.patch("in-redis", &PatchParams::default(), &Patch::Json::<()>(remove)).await?;
    world.delete("in-redis")?;
    world.wait_gone("in-redis").await?;
    // The second one exists in the cluster.
    let age = "UPDATE coupon_event SET resource_deleted_at = now() - interval '100 days' WHERE uid IN";
    world.test_database.sql(&format!("{age} ('{deleted}', '{existing}')"))?;
    let older =
        format!("UPDATE coupon_event SET resource_deleted_at = now() - interval '101 days' WHERE uid = '{in_redis}'");
    world.test_database.sql(&older)?;

    world.test_database.sql(&format!(
        "INSERT INTO coupon_use (event_uid, code, seq, kind, order_ref, at)
         SELECT event_uid, code, 1, 'REDEEMED', 'order-1', now() FROM issuance WHERE event_uid = '{deleted}'"
    ))?;

    let list = world.run_command(&["purge", "--older-than", "90d"], &[])?;
    assert_eq!(list.status.code(), Some(0), "{}{}", stdout(&list), stderr(&list));
    let kept =
        format!("  in-redis  {in_redis}  101 days  10 coupons  1 issuances\n    kept: Redis still has this event\n");
    let unsent = "    uses of its coupons that were not sent to Kafka, and are lost with its rows: 1\n";
    let line = format!("{kept}  deleted  {deleted}  100 days  10 coupons  1 issuances\n{unsent}");
    let expected = format!("{line}1 event with 11 rows: nothing was deleted; repeat with --yes to delete it\n");
    assert_eq!(stdout(&list), expected);
    assert_eq!(world.database.recorded_count(deleted).await?, 1);

    let purged = world.run_command(&["purge", "--older-than", "90d", "--yes"], &[])?;
    assert_eq!(stdout(&purged), format!("{line}deleted 1 event with 11 rows\n"), "{}", stderr(&purged));
    assert_eq!(world.database.event(deleted).await?, None);
    assert_eq!(world.database.recorded_count(deleted).await?, 0);
    for uid in [recent, existing, in_redis] {
        assert_eq!(world.database.recorded_count(uid).await?, 1);
    }
    let again = world.run_command(&["purge", "--older-than", "90d", "--yes"], &[])?;
    assert_eq!(stdout(&again), format!("{kept}nothing to delete\n"));
    let invalid = world.run_command(&["purge", "--older-than", "90"], &[])?;
    assert!(stderr(&invalid).contains("such as 90d or 12h"), "{}", stderr(&invalid));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn check_with_failures_reports_causes_and_advice() -> Result<()> {
    let world = World::shared().await?;
    let before = world.run_command(&["check"], &[])?;
    assert_eq!(before.status.code(), Some(1), "{}", stdout(&before));
    for part in ["FAIL  schema", "version 0, but this operator requires", "does not exist", "couponry-operator migrate"]
    {
        assert!(stdout(&before).contains(part), "{part:?} is not in\n{}", stdout(&before));
    }

    let _operator = world.start_operator()?;
    world.apply_open("event", SPEC).await?;
    let good = world.run_command(&["check"], &[])?;
    assert_eq!(good.status.code(), Some(0), "{}{}", stdout(&good), stderr(&good));
    for part in [
        "OK    Postgres      reachable",
        "OK    database      PostgreSQL ",
        "OK    CRD           CouponEvent v1alpha1 matches this operator",
        "OK    consumers     lag 0",
        "OK    dead letters  none",
        "OK    events        1 in",
    ] {
        assert!(stdout(&good).contains(part), "{part:?} is not in\n{}", stdout(&good));
    }
    world.remove_available_coupon("event")?;
    world.wait("event", "stalled", |status| is_true(status, "Stalled")).await?;
    let found: serde_json::Value = serde_json::from_slice(&world.run_command(&["check", "-o", "json"], &[])?.stdout)?;
    let failures: Vec<_> =
        found.as_array().into_iter().flatten().filter(|finding| finding["severity"] == "FAIL").collect();
    assert_eq!(failures.len(), 1, "{found:#}");
    assert_eq!((&failures[0]["about"], &failures[0]["found"]), (&"event event".into(), &"Stalled (DriftFound)".into()));

    let unused = format!("postgres://postgres@127.0.0.1:{}/postgres", ports::free()?);
    let bad = world.run_command(&["check"], &[("POSTGRES_URL", &unused)])?;
    assert_eq!(bad.status.code(), Some(1));
    assert!(stdout(&bad).contains("FAIL  Postgres"), "{}", stdout(&bad));
    let unused = format!("127.0.0.1:{}", ports::free()?);
    let login = format!("redis://:secret-password@{unused}");
    let bad = world.run_command(&["check"], &[("REDIS_URL", &login), ("KAFKA_BROKERS", &unused)])?;
    assert!(stdout(&bad).contains(&format!("cannot reach Redis at {unused}: ")), "{}", stdout(&bad));
    assert!(stdout(&bad).contains("FAIL  Kafka"), "{}", stdout(&bad));
    assert!(!stdout(&bad).contains("secret-password"), "{}", stdout(&bad));
    assert_eq!(stderr(&bad), "", "failures are reported on stdout only");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn check_reports_role_and_settings_of_postgres() -> Result<()> {
    let postgres = Postgres::start_with(&["fsync=off"])?;
    let database = Database::create_on(&postgres.url())?;
    let world = World::shared().await?;
    let check = |url: &str| -> Result<String> { Ok(stdout(&world.run_command(&["check"], &[("POSTGRES_URL", url)])?)) };
    let checked = check(&database.url())?;
    assert!(checked.contains("WARN  database") && checked.contains("fsync = off"), "{checked}");

    database.sql("CREATE ROLE reader LOGIN")?;
    let url = database.url().replacen("postgres@", "reader@", 1);
    let checked = check(&url)?;
    assert!(checked.contains("FAIL  database"), "{checked}");
    assert!(checked.contains("the role reader may not create tables in its schema"), "{checked}");
    assert!(checked.contains("GRANT CREATE ON SCHEMA public TO reader"), "{checked}");
    database.sql("GRANT CREATE ON SCHEMA public TO reader")?;
    assert!(!check(&url)?.contains("FAIL  database"), "{}", check(&url)?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn check_with_unready_pods_reports_them() -> Result<()> {
    let world = World::shared().await?;
    let _operator = world.start_operator()?;
    let pod = |name: &str, instance: &str, status: &serde_json::Value| -> Result<()> {
        let labels = json!({"app.kubernetes.io/name": "couponry", "app.kubernetes.io/instance": instance});
        let spec = json!({"containers": [{"name": "c", "image": "c"}]});
        let metadata = json!({"name": name, "labels": labels, "namespace": world.namespace()});
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
        shared::kubectl_with(&["create", "-f", "-"], &pod.to_string())?;
        let patch = json!({"status": status}).to_string();
        let options = ["--namespace", world.namespace(), "--subresource=status", "--type=merge", "-p", &patch];
        shared::kubectl(&[&["patch", "pod", name], &options[..]].concat()).map(drop)
    };
    let ready = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
    pod("operator-old", "shop", &ready)?;
    let all = world.run_command(&["check"], &[("POD_NAME", "operator-old")])?;
    assert!(stdout(&all).contains("1 of 1 are ready; checked from operator-old"), "{}", stdout(&all));

    let waiting = json!({"reason": "ImagePullBackOff", "message": "no such image"});
    let state = json!({"waiting": waiting});
    let container =
        json!({"name": "c", "image": "c", "imageID": "", "ready": false, "restartCount": 0, "state": state});
    pod("operator-new", "shop", &json!({"phase": "Pending", "containerStatuses": [container]}))?;
    let nodes = json!([{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}]);
    pod("issuer-new", "shop", &json!({"phase": "Pending", "conditions": nodes}))?;
    pod("test", "shop", &json!({"phase": "Succeeded"}))?;
    pod("other-release", "other", &json!({"phase": "Pending"}))?;
    let upgrade = world.run_command(&["check"], &[("POD_NAME", "operator-old")])?;
    for part in [
        "operator-new is not ready (ImagePullBackOff)",
        "→ no such image",
        "issuer-new is not ready (Unschedulable)",
        "1 of 3 are ready; checked from operator-old",
    ] {
        assert!(stdout(&upgrade).contains(part), "{part:?} is not in\n{}", stdout(&upgrade));
    }
    assert_eq!(stdout(&upgrade).matches("WARN  pods").count(), 2, "{}", stdout(&upgrade));
    Ok(())
}
