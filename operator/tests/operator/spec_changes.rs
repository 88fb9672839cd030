//! Changes of the spec before and after an event opens.

use anyhow::{Result, ensure};
use couponry_domain::{CouponTerms, EventName, Gate};
use couponry_testbed::{Redis, ports, redis::command};

use crate::redis_installation::spec;
use crate::support::{World, is_true, message, reason, wait_until};

const BY_SHARES: &str = "{policyName: p, totalCount: 100, discounts: [\
     {type: Percent, value: 10, allocationPercentage: 70}, {type: Amount, value: 5000, allocationPercentage: 30}]}";

fn with(spec: &str, fields: &str) -> String {
    spec.replacen('{', &format!("{{{fields}, "), 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn issuance_change_pauses_resumes_and_closes_event() -> Result<()> {
    let world = World::shared().await?;
    let _operator = world.start_operator()?;
    world.apply_open("event", BY_SHARES).await?;
    assert_eq!(world.issue("event", 0..10).await?, 10);

    world.apply("event", &with(BY_SHARES, "issuance: Paused"))?;
    world.wait("event", "paused", |status| reason(status, "Open") == "Paused" && is_true(status, "Ready")).await?;
    assert_eq!(world.issue("event", 10..20).await?, 0);

    world.apply("event", BY_SHARES)?;
    world.wait("event", "open again", |status| is_true(status, "Open")).await?;
    assert_eq!(world.issue("event", 10..20).await?, 10);

    world.apply("event", &with(BY_SHARES, "issuance: Closed"))?;
    world.wait("event", "closed", |status| reason(status, "Open") == "Closed").await?;
    assert_eq!(world.issue("event", 20..30).await?, 0);
    world.check_generated_stock("event", &[("PERCENT:10", 70), ("AMOUNT:5000", 30)]).await?;
    let expected = ["Ended", "Opened", "Paused", "PreloadCompleted", "PreloadStarted", "Resumed"];
    world.wait_kube_events("event", &expected).await
}

#[tokio::test(flavor = "multi_thread")]
async fn annotation_holds_event_without_a_change_of_its_spec() -> Result<()> {
    let world = World::shared().await?;
    let _operator = world.start_operator()?;
    world.apply_open("event", BY_SHARES).await?;
    assert_eq!(world.issue("event", 0..10).await?, 10);
    let uid = world.uid("event").await?;
    world.record_all("event").await?;
    // An idle event, too.
    world.wait("event", "recorded", |status| is_true(status, "Recorded")).await?;

    let generation = world.get("event").await?.metadata.generation;
    world.annotate("event", "couponry.dev/hold=wrong discount")?;
    let held = world.wait("event", "held", |status| reason(status, "Open") == "Held").await?;
    assert_eq!(
        message(&held, "Open"),
        "Issuing is held: wrong discount. Remove the annotation couponry.dev/hold to continue."
    );
    assert!(is_true(&held, "Ready") && !is_true(&held, "Stalled"));
    assert_eq!(world.redis_store.observe(&"event".parse()?).await?.map(|event| event.gate), Some(Gate::Paused));
    assert_eq!(world.issue("event", 10..20).await?, 0);

    // As a GitOps tool applies its manifest again.
    world.apply("event", BY_SHARES)?;
    world.apply("event", &with(BY_SHARES, "issuance: Auto"))?;
    world.annotate("event", "couponry.dev/hold=")?;
    let wait = "held without a reason";
    let held = world.wait("event", wait, |status| message(status, "Open").contains("no reason given")).await?;
    assert_eq!(reason(&held, "Open"), "Held");
    assert_eq!(world.issue("event", 10..20).await?, 0);

    world.annotate("event", "couponry.dev/hold-")?;
    world.wait("event", "open again", |status| is_true(status, "Open")).await?;
    assert_eq!(world.issue("event", 10..20).await?, 10);
    // The manifest with `issuance: Auto` differs from the one without; the hold alone changes no generation.
    let released = world.get("event").await?;
    assert!(released.metadata.generation <= generation.map(|generation| generation + 1));
    assert_eq!(world.uid("event").await?, uid);

    world.annotate("event", "couponry.dev/hold=until Monday")?;
    world.wait("event", "held again", |status| reason(status, "Open") == "Held").await?;
    world.apply("event", &with(BY_SHARES, "issuance: Closed"))?;
    world.wait("event", "closed", |status| reason(status, "Open") == "Closed").await?;
    let expected = ["Ended", "Held", "Held", "HoldReleased", "Opened", "PreloadCompleted", "PreloadStarted"];
    world.wait_kube_events("event", &expected).await
}

/// The operator ends itself when it opens the gate.
#[tokio::test(flavor = "multi_thread")]
async fn hold_during_a_preload_or_a_recovery_never_opens_the_gate() -> Result<()> {
    const TOTAL: u64 = 300_000;
    let redis = Redis::start()?;
    let world = World::with_redis(&redis.url()).await?;
    let event: EventName = "event".parse()?;
    let operator = world.operator_program(ports::free()?).args(["--redis-recovery-grace-seconds", "4"]).start()?;
    let hold_while_loading = async || {
        operator.restart_with(&[("FAILPOINTS".into(), "operator.after-opening=return".into())])?;
        wait_until("coupons are loaded", async || {
            Ok(world.redis_store.observe(&event).await?.is_some_and(|redis| redis.loaded >= TOTAL / 4))
        })
        .await?;
        operator.pause()?;
        let loaded = world.redis_store.observe(&event).await?.map(|redis| redis.loaded);
        ensure!(loaded.is_some_and(|loaded| loaded < TOTAL), "too late for the test: {loaded:?}");
        world.annotate("event", "couponry.dev/hold=wrong price")?;
        operator.resume()?;
        wait_until("all coupons are loaded, and the event is held", async || {
            ensure!(operator.process().exited()?.is_none(), "the gate was opened");
            let redis = world.redis_store.observe(&event).await?;
            Ok(redis.is_some_and(|redis| redis.is_verified && redis.loaded == TOTAL && redis.gate == Gate::Paused))
        })
        .await?;
        world.wait("event", "held", |status| reason(status, "Open") == "Held").await?;
        operator.kill9()?;
        operator.restart()?;
        world.annotate("event", "couponry.dev/hold-")?;
        world.wait("event", "open", |status| is_true(status, "Open")).await
    };
    operator.kill9()?;
    world.apply("event", &spec(u32::try_from(TOTAL)?, "Redis"))?;
    hold_while_loading().await?;
    assert_eq!(world.issue("event", 0..10).await?, 10);
    world.record_all("event").await?;

    operator.kill9()?;
    command(&redis.url(), &["FLUSHALL"])?;
    hold_while_loading().await?;
    assert_eq!(world.issue("event", 0..20).await?, 10);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn event_held_before_its_start_opens_only_after_the_release() -> Result<()> {
    let world = World::shared().await?;
    world.apply("event", BY_SHARES)?;
    world.annotate("event", "couponry.dev/hold=not approved")?;
    let _operator = world.start_operator()?;
    let loaded = world.wait("event", "loaded", |status| is_true(status, "Preloaded")).await?;
    assert_eq!((reason(&loaded, "Open"), &loaded.opened_at), ("Held", &None));
    world.wait("event", "ready", |status| is_true(status, "Ready") && reason(status, "Open") == "Held").await?;
    assert_eq!(world.issue("event", 0..10).await?, 0);

    world.annotate("event", "couponry.dev/hold-")?;
    world.wait("event", "open", |status| is_true(status, "Open")).await?;
    assert_eq!(world.issue("event", 0..10).await?, 10);
    world.check_generated_stock("event", &[("PERCENT:10", 70), ("AMOUNT:5000", 30)]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn top_up_of_sold_out_event_reopens_it() -> Result<()> {
    let world = World::shared().await?;
    let _operator = world.start_operator()?;
    world.apply_open("event", BY_SHARES).await?;
    assert_eq!(world.issue("event", 0..150).await?, 100);
    world.wait("event", "sold out", |status| reason(status, "Open") == "SoldOut").await?;

    world.apply("event", &BY_SHARES.replace("totalCount: 100", "totalCount: 111"))?;
    let open = world.wait("event", "open again", |status| is_true(status, "Open") && is_true(status, "Ready")).await?;
    assert_eq!((open.loaded, open.issued, open.available), (Some(111), Some(100), Some(11)));
    assert_eq!(open.sold_out_at, None);
    // The 11 added coupons are split 70 to 30 percent: 8 and 3.
    world.check_stores_agree("event", &[("PERCENT:10", 78), ("AMOUNT:5000", 33)]).await?;
    assert_eq!(world.issue("event", 0..200).await?, 11);
    world
        .wait_kube_events("event", &["Opened", "PreloadCompleted", "PreloadStarted", "SoldOut", "SoldOut", "ToppedUp"])
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn top_up_by_counts_adds_difference_of_counts() -> Result<()> {
    let counts = |percent: u32, amount: u32| {
        format!(
            "{{policyName: p, totalCount: {}, discounts: [{{type: Percent, value: 10, count: {percent}}}, \
             {{type: Amount, value: 10, count: {amount}}}]}}",
            percent + amount
        )
    };
    let world = World::shared().await?;
    let _operator = world.start_operator()?;
    world.apply_open("event", &counts(7, 3)).await?;
    world.apply("event", &counts(7, 13))?;
    world.wait_ready("event").await?;
    world.check_stores_agree("event", &[("PERCENT:10", 7), ("AMOUNT:10", 13)]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn scheduled_event_accepts_changes_of_stock_and_start() -> Result<()> {
    let world = World::shared().await?;
    let _operator = world.start_operator()?;
    let scheduled = with(BY_SHARES, "startTime: '2100-01-01T00:00:00Z'");
    world.apply("event", &scheduled)?;
    let first = world.wait_ready("event").await?;
    assert_eq!((reason(&first, "Open"), &first.opened_at), ("Scheduled", &None));

    world.apply("event", &scheduled.replace("totalCount: 100", "totalCount: 50"))?;
    world.wait("event", "smaller", |status| is_true(status, "Ready") && status.loaded == Some(50)).await?;
    world.check_generated_stock("event", &[("PERCENT:10", 35), ("AMOUNT:5000", 15)]).await?;

    let uid = world.uid("event").await?;
    for validity in ["validity: {duration: P30D}", "validity: {until: '2100-02-01T00:00:00Z', endOfDay: true}"] {
        let terms = with(BY_SHARES, &format!("startTime: '2100-01-01T00:00:00Z', currency: EUR, {validity}"))
            .replace("value: 10,", "value: 10, maxDiscount: 500,");
        world.apply("event", &terms)?;
        let manifest = world.get("event").await?.spec.terms()?;
        wait_until("the terms are stored, and the gate is set again", async || {
            let stored = world.database.event(uid).await?.unwrap();
            let in_redis = world.redis_store.observe(&"event".parse()?).await?;
            let is_validity_set =
                in_redis.is_some_and(|in_redis| in_redis.gate == Gate::Open && in_redis.validity == manifest.validity);
            Ok(stored.terms == manifest && stored.opens_at.is_some() && is_validity_set)
        })
        .await?;
    }

    let replaced = "{policyName: p, totalCount: 60, discounts: [{type: Percent, value: 99, count: 60}]}";
    world.apply("event", &with(replaced, "startTime: '2099-01-01T00:00:00Z'"))?;
    world.wait("event", "replaced", |status| is_true(status, "Ready") && status.loaded == Some(60)).await?;
    world.check_generated_stock("event", &[("PERCENT:99", 60)]).await?;
    assert_eq!(world.issue("event", 0..1).await?, 0);

    world.apply("event", replaced)?;
    world.wait("event", "open without a start", |status| is_true(status, "Open")).await?;
    assert_eq!(world.issue("event", 0..100).await?, 60);
    Ok(())
}

/// The operator refuses what the API server accepts before it knows that the event has opened. Afterwards, the API
/// server must accept the previous value.
#[tokio::test(flavor = "multi_thread")]
async fn refused_start_of_opened_event_can_be_restored() -> Result<()> {
    let world = World::shared().await?;
    let operator = world.start_operator()?;
    world.apply_open("event", BY_SHARES).await?;
    operator.kill9()?;
    remove_opened_at(&world).await?;
    world.apply("event", &with(BY_SHARES, "startTime: '2100-01-01T00:00:00Z'"))?;
    operator.restart()?;
    world.wait("event", "stalled", |status| reason(status, "Stalled") == "ChangeNotPossible").await?;
    world.apply("event", BY_SHARES)?;
    world.wait_ready("event").await?;
    Ok(())
}

/// The operator refuses what the API server accepts before it knows that the event has opened.
#[tokio::test(flavor = "multi_thread")]
async fn other_terms_of_opened_event_stall_it() -> Result<()> {
    let world = World::shared().await?;
    let operator = world.start_operator()?;
    world.apply_open("event", BY_SHARES).await?;
    operator.kill9()?;
    remove_opened_at(&world).await?;
    let other = with(BY_SHARES, "currency: EUR, validity: {duration: P30D}")
        .replace("value: 10,", "value: 10, maxDiscount: 500,");
    world.apply("event", &other)?;
    operator.restart()?;
    let stalled = world.wait("event", "stalled", |status| is_true(status, "Stalled")).await?;
    assert_eq!(
        message(&stalled, "Stalled"),
        "The event has opened, so its coupons keep their terms. Restore the previous validity, currency, \
         maxDiscount and minimumOrderAmount."
    );
    assert!(is_true(&stalled, "Open"), "the event stays open");
    let uid = world.uid("event").await?;
    let stored = world.database.event(uid).await?.unwrap();
    assert_eq!(stored.terms, CouponTerms::default());
    world.apply("event", BY_SHARES)?;
    world.wait_ready("event").await?;
    Ok(())
}

/// As if the operator was killed before it wrote openedAt. Otherwise the API server would reject the change.
async fn remove_opened_at(world: &World) -> Result<()> {
    let remove = serde_json::json!([{"op": "remove", "path": "/status/openedAt"}]);
    let remove = kube::api::Patch::Json::<()>(serde_json::from_value(remove)?);
    world.events.patch_status("event", &kube::api::PatchParams::default(), &remove).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn total_below_opened_stock_stalls_event() -> Result<()> {
    let world = World::shared().await?;
    let operator = world.start_operator()?;
    world.apply_open("event", BY_SHARES).await?;
    operator.kill9()?;
    remove_opened_at(&world).await?;
    world.apply("event", &BY_SHARES.replace("totalCount: 100", "totalCount: 99"))?;
    operator.restart()?;
    let stalled = world.wait("event", "stalled", |status| is_true(status, "Stalled")).await?;
    assert_eq!(reason(&stalled, "Stalled"), "ChangeNotPossible");
    assert_eq!(message(&stalled, "Stalled"), "The event already has 100 coupons. Raise totalCount to at least 100.");
    assert!(is_true(&stalled, "Open"), "the event stays open");
    assert_eq!(world.issue("event", 0..200).await?, 100);
    world.apply("event", BY_SHARES)?;
    world.wait_ready("event").await?;
    Ok(())
}
