//! Unavailable servers at the start and during an event, and servers without their data.

use std::time::Duration;

use anyhow::{Context as _, Result};
use couponry_kafka::{KafkaSettings, Producer, test_support::delete_topic};
use couponry_testbed::{Database, Kafka, Kubernetes, Postgres, Redis, http, ports, shared};

use crate::support::{World, is_true, message, reason, wait_operator_ready, wait_until};

/// Timeout of a request to Kafka.
const TIMEOUT: Duration = Duration::from_secs(10);

const SPEC: &str = "{policyName: p, totalCount: 100, discounts: [{type: Amount, value: 1, count: 100}]}";

#[tokio::test(flavor = "multi_thread")]
async fn operator_without_servers_reports_them_and_waits() -> Result<()> {
    let (redis, postgres, kafka) = (Redis::start()?, Postgres::start()?, Kafka::start()?);
    let mut world = World::on(Database::create_on(&postgres.url())?, &redis.url()).await?;
    world.brokers = kafka.brokers();
    redis.stop()?;
    postgres.stop()?;
    kafka.stop()?;

    let port = ports::free()?;
    let operator = world.operator_program(port).start()?;
    world.apply("event", SPEC)?;
    wait_until("the readiness check reports the three servers", async || {
        let Some((status, body)) = http::get(port, "/readyz") else { return Ok(false) };
        let missing: Vec<_> = body.lines().filter_map(|line| line.split_once(':')).map(|(server, _)| server).collect();
        Ok(status == 503 && missing == ["installation", "kafka", "postgres", "redis"])
    })
    .await?;
    assert_eq!(http::get(port, "/livez").context("no response")?.0, 200);
    assert!(world.get("event").await?.status.is_none(), "the operator waits for all servers");

    redis.restart()?;
    postgres.restart()?;
    wait_until("the readiness check reports only Kafka", async || {
        let Some((status, body)) = http::get(port, "/readyz") else { return Ok(false) };
        let waits = |line: &str| line.starts_with("kafka: ") || line.starts_with("installation: ");
        Ok(status == 503 && body.lines().all(waits))
    })
    .await?;
    kafka.restart()?;
    wait_operator_ready(port).await?;
    world.wait_ready("event").await?;
    wait_until("the test has reconnected to Redis", async || Ok(world.redis_store.ping().await.is_ok())).await?;
    world.check_generated_stock("event", &[("AMOUNT:1", 100)]).await?;
    let metrics = http::get(port, "/metrics").context("no response")?.1;
    assert!(metrics.contains("couponry_operator_coupons_generated_total 100"), "{metrics}");
    operator.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_topic_is_created_again() -> Result<()> {
    let world = World::shared().await?;
    let port = ports::free()?;
    let operator = world.operator_program(port).start()?;
    wait_operator_ready(port).await?;
    // The namespace is the name of the topic.
    let settings = KafkaSettings::at(&world.brokers, world.namespace());
    let producer = Producer::new(&settings)?;
    producer.ping(TIMEOUT).await?;
    delete_topic(&settings).await?;
    wait_until("the topic is deleted", async || Ok(producer.ping(TIMEOUT).await.is_err())).await?;
    wait_until("the topic is created again", async || Ok(producer.ping(TIMEOUT).await.is_ok())).await?;
    operator.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn operator_without_crd_reports_it_and_waits() -> Result<()> {
    let kubernetes = Kubernetes::start()?;
    let world = World::shared().await?;
    kubernetes.kubectl(&["create", "namespace", world.namespace()])?;
    let port = ports::free()?;
    let operator = world.operator_program_at(kubernetes.kubeconfig(), port).start()?;
    wait_until("the readiness check reports the missing CRD", async || {
        let readiness = http::get(port, "/readyz");
        Ok(readiness.is_some_and(|(status, body)| {
            status == 503
                && body
                    == "installation: not reached yet\n\
                        kubernetes: the CRD CouponEvent is not installed: apply crds/couponevents.couponry.dev.yaml\n"
        }))
    })
    .await?;
    assert!(operator.log().contains("the CRD CouponEvent is not installed"), "{}", operator.log());
    kubernetes.kubectl_with(&["apply", "--server-side", "-f", "-"], &couponry_crds::crd_yaml())?;
    wait_operator_ready(port).await
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_migrate_commands_succeed() -> Result<()> {
    let database = Database::create()?;
    let url = database.url();
    let migrate = || couponry_testbed::program("couponry-operator").args(["migrate", "--postgres-url", &url]).start();
    for command in [migrate()?, migrate()?] {
        assert!(command.process().wait()?.success(), "{}", command.log());
    }
    assert_eq!(database.sql("SELECT count(*) FROM coupon_event")?, "0");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn migrate_and_check_refuse_a_database_that_is_not_utf8() -> Result<()> {
    let latin = "ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'";
    let database = Database::create_with(&shared::postgres(), latin)?;
    let migrate =
        couponry_testbed::program("couponry-operator").args(["migrate", "--postgres-url", &database.url()]).start()?;
    assert_eq!(migrate.process().wait()?.code(), Some(1), "{}", migrate.log());
    let expected = "the database has the encoding LATIN1, but UTF8 is required";
    assert!(migrate.log().contains(expected), "{}", migrate.log());
    assert_eq!(database.sql("SELECT to_regclass('coupon_event')")?, "");

    let world = World::shared().await?;
    let check = world.run_command(&["check"], &[("POSTGRES_URL", &database.url())])?;
    let checked = String::from_utf8(check.stdout)?;
    assert!(checked.contains("FAIL  database") && checked.contains("encoding LATIN1"), "{checked}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_outage_is_reported_once() -> Result<()> {
    let redis = Redis::start()?;
    let world = World::with_redis(&redis.url()).await?;
    let port = ports::free()?;
    let _operator = world.operator_program(port).start()?;
    world.apply_open("event", SPEC).await?;
    assert_eq!(world.issue("event", 0..10).await?, 10);
    world.record_all("event").await?;
    redis.kill9()?;
    let stalled = world.wait("event", "stalled", |status| is_true(status, "Stalled")).await?;
    assert_eq!((reason(&stalled, "Stalled"), is_true(&stalled, "Ready")), ("BackendUnavailable", false));
    let open = stalled.condition("Open").context("no condition")?;
    assert_eq!((open.status.as_str(), open.reason.as_str()), ("Unknown", "BackendUnavailable"));
    let before = failures(port)?;
    // The first of these two failures may be the one that set the condition.
    wait_until("another reconciliation has failed", async || Ok(failures(port)? >= before + 2)).await?;
    redis.restart()?;
    let back = world.wait_ready("event").await?;
    assert_eq!((back.issued, is_true(&back, "Open")), (Some(10), true));
    wait_until("the test has reconnected to Redis", async || Ok(world.redis_store.ping().await.is_ok())).await?;
    world.check_generated_stock("event", &[("AMOUNT:1", 100)]).await?;
    let expected =
        ["BackendUnavailable", "Opened", "PreloadCompleted", "PreloadStarted", "Recovered", "RedisUnverified"];
    world.wait_kube_events("event", &expected).await
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_outage_does_not_stop_issuing() -> Result<()> {
    let postgres = Postgres::start()?;
    let world = World::on(Database::create_on(&postgres.url())?, &shared::redis()).await?;
    let _operator = world.start_operator()?;
    world.apply_open("event", SPEC).await?;
    postgres.kill9()?;
    let stalled = world.wait("event", "stalled", |status| is_true(status, "Stalled")).await?;
    assert_eq!((reason(&stalled, "Stalled"), is_true(&stalled, "Ready")), ("BackendUnavailable", false));
    assert!(is_true(&stalled, "Open"));
    assert_eq!(world.issue("event", 0..10).await?, 10, "issuing continues");
    postgres.restart()?;
    let back = world.wait("event", "ready", |status| is_true(status, "Ready") && status.issued == Some(10)).await?;
    assert!(is_true(&back, "Open"));
    world.check_generated_stock("event", &[("AMOUNT:1", 100)]).await
}

/// The number of failed reconciliations.
fn failures(port: u16) -> Result<u64> {
    let metrics = http::get(port, "/metrics").context("no response")?.1;
    let failed = "couponry_operator_reconcile_total{result=\"error\"} ";
    let count = metrics.lines().find_map(|line| line.strip_prefix(failed));
    count.map_or(Ok(0), |count| count.parse().with_context(|| format!("{count} failures")))
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_coupon_sets_drift_found_and_warns() -> Result<()> {
    let world = World::shared().await?;
    let _operator = world.start_operator()?;
    world.apply("event", SPEC)?;
    let open = world.wait("event", "open", |status| is_true(status, "Open")).await?;
    assert_eq!(message(&open, "Preloaded"), "All 100 coupons in Postgres are loaded into Redis.");
    world.remove_available_coupon("event")?;
    let stalled = world.wait("event", "stalled", |status| is_true(status, "Stalled")).await?;
    assert_eq!([reason(&stalled, "Stalled"), reason(&stalled, "Ready")], ["DriftFound", "DriftFound"]);
    assert!(is_true(&stalled, "Open") && !is_true(&stalled, "Ready"));
    let mismatch = message(&stalled, "Stalled");
    assert!(
        mismatch
            .starts_with("Of 100 coupons in Postgres, 99 are available and 0 issued in Redis: 1 coupon is missing."),
        "{mismatch}"
    );
    assert_eq!(world.issue("event", 0..10).await?, 10, "issuing continues");

    world.wait_kube_events("event", &["DriftFound", "Opened", "PreloadCompleted", "PreloadStarted"]).await?;
    let events = world.kube_events("event").await?;
    let with =
        |reason: &str| events.iter().find(|event| event.reason.as_deref() == Some(reason)).context("not published");
    assert_eq!(with("PreloadStarted")?.note.as_deref(), Some("0 of 100 coupons are generated in Postgres."));
    assert_eq!(
        with("PreloadCompleted")?.note.as_deref(),
        Some("100 coupons are generated in Postgres and loaded into Redis.")
    );
    assert_eq!(with("DriftFound")?.note.as_deref(), Some(mismatch));
    let warnings: Vec<_> = events.iter().filter(|event| event.type_.as_deref() == Some("Warning")).collect();
    assert_eq!(warnings, [with("DriftFound")?]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn operator_without_cluster_exits_with_advice() -> Result<()> {
    let world = World::shared().await?;
    let operator = world.operator_program_at("/nonexistent/kubeconfig", ports::free()?).start()?;
    assert!(!operator.process().wait()?.success());
    let log = operator.log();
    assert!(log.contains("cannot find a Kubernetes configuration: set KUBECONFIG, or run in a pod"), "{log}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_without_event_keys_is_restored_from_postgres() -> Result<()> {
    let world = World::shared().await?;
    let _operator = world.start_operator()?;
    world.apply("open", SPEC)?;
    world.apply("scheduled", &SPEC.replacen('{', "{startTime: '2100-01-01T00:00:00Z', ", 1))?;
    world.wait("open", "open", |status| is_true(status, "Open")).await?;
    world.wait_ready("scheduled").await?;
    assert_eq!(world.issue("open", 0..10).await?, 10);
    world.record_all("open").await?;
    world.wait("open", "counted", |status| (status.issued, status.available) == (Some(10), Some(90))).await?;
    let issued = world.redis_store.scan_issued(&"open".parse()?).await?;
    for name in ["open", "scheduled"] {
        assert!(world.redis_store.remove(&name.parse()?, world.uid(name).await?).await?);
    }
    let lost = world.wait("open", "stalled", |status| is_true(status, "Stalled")).await?;
    assert_eq!([reason(&lost, "Stalled"), reason(&lost, "Open")], ["RedisUnverified"; 2]);
    assert_eq!((lost.issued, lost.available), (Some(10), Some(90)), "the counts of an empty Redis are not reported");
    world.wait("open", "open", |status| is_true(status, "Open")).await?;
    let expected = ["Opened", "PreloadCompleted", "PreloadStarted", "Recovered", "RedisUnverified"];
    world.wait_kube_events("open", &expected).await?;
    assert_eq!(world.redis_store.scan_issued(&"open".parse()?).await?, issued);
    world.check_generated_stock("open", &[("AMOUNT:1", 100)]).await?;
    wait_until("the event which has not opened is loaded again", async || {
        Ok(world.redis_store.observe(&"scheduled".parse()?).await?.is_some_and(|redis| redis.loaded == 100))
    })
    .await?;
    world.check_generated_stock("scheduled", &[("AMOUNT:1", 100)]).await
}
