//! Servers that are not there: at the start, in the middle, and without their data.

use anyhow::{Context as _, Result};
use couponry_testbed::{Database, Kafka, Kubernetes, Postgres, Redis, ports, shared};

use crate::stage::{Stage, eventually, holds, message, monitor, reason};

const SPEC: &str = "{policyName: p, totalCount: 100, discounts: [{type: Amount, value: 1, count: 100}]}";

#[tokio::test(flavor = "multi_thread")]
async fn it_waits_for_servers_that_are_not_there_and_says_for_which() -> Result<()> {
    let (redis, postgres, kafka) = (Redis::start()?, Postgres::start()?, Kafka::start()?);
    let database = Database::create_on(&postgres.url())?;
    let url = database.url();
    let mut stage = Stage::on(database, &redis.url(), &url).await?;
    stage.brokers = kafka.brokers();
    redis.stop()?;
    postgres.stop()?;
    kafka.stop()?;

    let port = ports::free()?;
    let operator = stage.program(port).start()?;
    stage.apply("event", SPEC)?;
    eventually("it says what is missing", async || {
        let Some((status, body)) = monitor(port, "/readyz").await else { return Ok(false) };
        let missing: Vec<_> = body.lines().filter_map(|line| line.split_once(':')).map(|(server, _)| server).collect();
        Ok(status == 503 && missing == ["kafka", "postgres", "redis"])
    })
    .await?;
    assert_eq!(monitor(port, "/livez").await.context("no answer")?.0, 200);
    assert!(stage.get("event").await?.status.is_none(), "nothing is done by halves");

    redis.restart()?;
    postgres.restart()?;
    eventually("only Kafka is missing", async || {
        let Some((status, body)) = monitor(port, "/readyz").await else { return Ok(false) };
        Ok(status == 503 && body.lines().all(|line| line.starts_with("kafka: ")))
    })
    .await?;
    kafka.restart()?;
    eventually("it is ready", async || Ok(monitor(port, "/readyz").await.is_some_and(|(status, _)| status == 200)))
        .await?;
    stage.wait_ready("event").await?;
    eventually("our own connection is back", async || Ok(stage.stock.ping().await.is_ok())).await?;
    stage.check_whole("event", &[("AMOUNT:1", 100)]).await?;
    let metrics = monitor(port, "/metrics").await.context("no answer")?.1;
    assert!(metrics.contains("couponry_operator_coupons_generated_total 100"), "{metrics}");
    operator.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_waits_for_the_definition() -> Result<()> {
    let kubernetes = Kubernetes::start()?;
    let stage = Stage::new().await?;
    let port = ports::free()?;
    let operator = stage.program_on(kubernetes.kubeconfig(), port).start()?;
    eventually("it says that the definition is missing", async || {
        let readiness = monitor(port, "/readyz").await;
        Ok(readiness.is_some_and(|(status, body)| {
            status == 503 && body == "kubernetes: the definition of CouponEvent is not installed: apply crds/couponevents.couponry.dev.yaml\n"
        }))
    })
    .await?;
    assert!(operator.log().contains("the CRD CouponEvent is not installed"), "{}", operator.log());
    kubernetes.kubectl_with(&["apply", "--server-side", "-f", "-"], &couponry_crds::crd_yaml())?;
    eventually("it is ready", async || Ok(monitor(port, "/readyz").await.is_some_and(|(status, _)| status == 200)))
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn migrate_only_migrates() -> Result<()> {
    let database = Database::create()?;
    let url = database.url();
    let migrate = || couponry_testbed::program("couponry-operator").args(["migrate", "--postgres-url", &url]).start();
    let both = [migrate()?, migrate()?];
    for one in both {
        assert!(one.process().wait()?.success(), "{}", one.log());
    }
    assert_eq!(database.sql("SELECT count(*) FROM coupon_event")?, "0");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_goes_and_comes_back_is_told_once() -> Result<()> {
    let redis = Redis::start()?;
    let database = Database::create()?;
    let postgres = database.url();
    let stage = Stage::on(database, &redis.url(), &postgres).await?;
    let port = ports::free()?;
    let _operator = stage.program(port).start()?;
    stage.apply("event", SPEC)?;
    stage.wait("event", "open", |status| holds(status, "Open")).await?;
    assert_eq!(stage.ask("event", 0..10).await?, 10);
    stage.record_all("event").await?;
    redis.kill9()?;
    let stalled = stage.wait("event", "stalled", |status| holds(status, "Stalled")).await?;
    assert_eq!((reason(&stalled, "Stalled"), holds(&stalled, "Ready")), ("BackendUnavailable", false));
    let before = failures(port).await?;
    // The first of them may be the one that was just reported.
    eventually("it has failed again", async || Ok(failures(port).await? >= before + 2)).await?;
    redis.restart()?;
    let back = stage.wait_ready("event").await?;
    assert_eq!((back.issued, holds(&back, "Open")), (Some(10), true));
    eventually("our own connection is back", async || Ok(stage.stock.ping().await.is_ok())).await?;
    stage.check_whole("event", &[("AMOUNT:1", 100)]).await?;
    let story = ["BackendUnavailable", "Opened", "PreloadCompleted", "PreloadStarted", "Recovered", "RedisUnverified"];
    stage.wait_story("event", &story).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_goes_while_an_event_is_open_stops_nothing_but_the_operator() -> Result<()> {
    let postgres = Postgres::start()?;
    let database = Database::create_on(&postgres.url())?;
    let url = database.url();
    let stage = Stage::on(database, &shared::redis(), &url).await?;
    let _operator = stage.operator()?;
    stage.apply("event", SPEC)?;
    stage.wait("event", "open", |status| holds(status, "Open")).await?;
    postgres.kill9()?;
    let stalled = stage.wait("event", "stalled", |status| holds(status, "Stalled")).await?;
    assert_eq!((reason(&stalled, "Stalled"), holds(&stalled, "Ready")), ("BackendUnavailable", false));
    assert_eq!(stage.ask("event", 0..10).await?, 10, "users go on getting coupons");
    postgres.restart()?;
    let back = stage.wait("event", "ready", |status| holds(status, "Ready") && status.issued == Some(10)).await?;
    assert!(holds(&back, "Open"));
    stage.check_whole("event", &[("AMOUNT:1", 100)]).await
}

/// How many looks at an event have failed.
async fn failures(port: u16) -> Result<u64> {
    let metrics = monitor(port, "/metrics").await.context("no answer")?.1;
    let failed = "couponry_operator_reconcile_total{result=\"error\"} ";
    let count = metrics.lines().find_map(|line| line.strip_prefix(failed));
    count.map_or(Ok(0), |count| count.parse().with_context(|| format!("{count} failures")))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coupon_that_has_vanished_is_reported_and_warned_of() -> Result<()> {
    let stage = Stage::new().await?;
    let _operator = stage.operator()?;
    stage.apply("event", SPEC)?;
    let open = stage.wait("event", "open", |status| holds(status, "Open")).await?;
    assert_eq!(message(&open, "Preloaded"), "All 100 coupons in Postgres are loaded into Redis.");
    stage.lose_coupon("event")?;
    let stalled = stage.wait("event", "stalled", |status| holds(status, "Stalled")).await?;
    assert_eq!([reason(&stalled, "Stalled"), reason(&stalled, "Ready")], ["DriftFound", "DriftFound"]);
    assert!(holds(&stalled, "Open") && !holds(&stalled, "Ready"));
    let drift = message(&stalled, "Stalled");
    assert!(drift.starts_with("Of 100 coupons in Postgres, 99 are available and 0 issued in Redis: 1 coupon is missing."), "{drift}");
    assert_eq!(stage.ask("event", 0..10).await?, 10, "users go on getting coupons");

    stage.wait_story("event", &["DriftFound", "Opened", "PreloadCompleted", "PreloadStarted"]).await?;
    let told = stage.told("event").await?;
    let with = |reason: &str| told.iter().find(|event| event.reason.as_deref() == Some(reason)).context("not told");
    assert_eq!(with("PreloadStarted")?.note.as_deref(), Some("0 of 100 coupons written to Postgres"));
    assert_eq!(with("PreloadCompleted")?.note.as_deref(), Some("100 coupons are in Postgres and Redis"));
    assert_eq!(with("DriftFound")?.note.as_deref(), Some(drift));
    let warnings: Vec<_> = told.iter().filter(|event| event.type_.as_deref() == Some("Warning")).collect();
    assert_eq!(warnings, [with("DriftFound")?]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_cluster_it_says_how_to_name_one() -> Result<()> {
    let stage = Stage::new().await?;
    let operator = stage.program_on("/nowhere/kubeconfig", ports::free()?).start()?;
    assert!(!operator.process().wait()?.success());
    let log = operator.log();
    assert!(log.contains("cannot find a Kubernetes configuration: set KUBECONFIG, or run in a pod"), "{log}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_forgot_an_event_that_was_open_is_filled_with_what_is_recorded() -> Result<()> {
    let stage = Stage::new().await?;
    let _operator = stage.operator()?;
    stage.apply("open", SPEC)?;
    stage.apply("scheduled", &SPEC.replacen('{', "{startTime: '2100-01-01T00:00:00Z', ", 1))?;
    stage.wait("open", "open", |status| holds(status, "Open")).await?;
    stage.wait_ready("scheduled").await?;
    assert_eq!(stage.ask("open", 0..10).await?, 10);
    stage.record_all("open").await?;
    stage.wait("open", "counted", |status| (status.issued, status.available) == (Some(10), Some(90))).await?;
    let held = stage.stock.scan_issued(&"open".parse()?).await?;
    for name in ["open", "scheduled"] {
        assert!(stage.stock.remove(&name.parse()?, stage.uid(name).await?).await?);
    }
    let lost = stage.wait("open", "stalled", |status| holds(status, "Stalled")).await?;
    assert_eq!([reason(&lost, "Stalled"), reason(&lost, "Open")], ["RedisUnverified"; 2]);
    assert_eq!((lost.issued, lost.available), (Some(10), Some(90)), "what an empty Redis says is not reported");
    stage.wait("open", "open", |status| holds(status, "Open")).await?;
    let story = ["Opened", "PreloadCompleted", "PreloadStarted", "Recovered", "RedisUnverified"];
    stage.wait_story("open", &story).await?;
    assert_eq!(stage.stock.scan_issued(&"open".parse()?).await?, held);
    stage.check_whole("open", &[("AMOUNT:1", 100)]).await?;
    eventually("the other is loaded again: nobody can have a coupon of it", async || {
        Ok(stage.stock.observe(&"scheduled".parse()?).await?.is_some_and(|redis| redis.loaded == 100))
    })
    .await?;
    stage.check_whole("scheduled", &[("AMOUNT:1", 100)]).await
}
