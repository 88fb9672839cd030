//! Each test breaks one mechanism on purpose. The checker must detect the violation, in the right category.

use std::time::Duration;

use couponry_domain::EventName;
use couponry_loadgen::checker::{Category, Report};
use couponry_loadgen::history::Attempt;
use couponry_loadgen::outcome::OutcomeKind;
use couponry_testbed::{Redis, redis, shared};
use tokio::runtime::Runtime;

use crate::installation::{Installation, Overrides, until};
use crate::load::{self, BackgroundLoad, Plan};

const TOTAL: u64 = 4000;
const USERS: u32 = 3000;
/// Lost coupons are never recorded, so the timeout is short.
const RECORD_TIMEOUT: Duration = Duration::from_secs(20);

fn check(runtime: &Runtime, installation: &Installation, event: &EventName, history: Vec<Attempt>) -> Report {
    let plan = Plan { total: TOTAL, ..Plan::default() };
    load::check(runtime, installation, event, plan, RECORD_TIMEOUT, history)
}

/// Checks of these categories fail, and of no others except consistency.
fn assert_violated(report: &Report, expected: &[Category]) {
    use Category::{Cancelled, Duplicated, Lost, Stock, Unexpected, Window};
    for category in [Lost, Cancelled, Duplicated, Unexpected, Stock, Window] {
        assert_eq!(is_violated(report, category), expected.contains(&category), "{category:?}\n{report}");
    }
}

fn is_violated(report: &Report, category: Category) -> bool {
    report.failed().any(|result| result.category == category)
}

#[test]
fn issuer_crash_without_outbox_sweep_loses_coupons() {
    let runtime = Runtime::new().unwrap();
    let _entered = runtime.enter();
    let crash = "issuer.no-sweep=return;issuer.after-lua=20*off->return";
    let overrides = Overrides { issuers: [crash, "issuer.no-sweep=return"], ..Overrides::default() };
    let installation = Installation::start_with("no-outbox", &overrides);
    let event: EventName = "summer".parse().unwrap();
    installation.apply(&event, TOTAL);

    let history = BackgroundLoad::start(&runtime, &installation, &event, USERS).finish(&runtime);
    assert!(installation.issuers[0].process.process().exited().unwrap().is_some(), "the issuer did not crash");
    assert_violated(&check(&runtime, &installation, &event, history), &[Category::Lost]);
}

#[test]
fn consumer_crash_with_offsets_committed_first_loses_coupons() {
    let runtime = Runtime::new().unwrap();
    let _entered = runtime.enter();
    let crash = "consumer.offsets-first=return;consumer.after-offsets-first=5*off->return";
    let overrides = Overrides { consumer: crash, ..Overrides::default() };
    let installation = Installation::start_with("offsets-first", &overrides);
    let event: EventName = "summer".parse().unwrap();
    installation.apply(&event, TOTAL);

    let load = BackgroundLoad::start(&runtime, &installation, &event, USERS);
    let consumer = &installation.consumer;
    until("the consumer crashes", || consumer.process.process().exited().unwrap());
    consumer.process.restart_with(&[("FAILPOINTS".into(), String::new())]).unwrap();
    let history = load.finish(&runtime);
    assert_violated(&check(&runtime, &installation, &event, history), &[Category::Lost]);
}

/// Without the permission for its last write, a call has written the holders and the outbox, but the coupons stay in
/// the queue: the next call issues them again.
#[test]
fn script_that_writes_before_it_checks_duplicates_coupons() {
    let runtime = Runtime::new().unwrap();
    let _entered = runtime.enter();
    let server = Redis::start().unwrap();
    let unchecked = "redis.no-permission-checks=return";
    let overrides = Overrides { redis: server.url(), issuers: [unchecked, unchecked], ..Overrides::default() };
    let installation = Installation::start_with("unchecked-script", &overrides);
    let event: EventName = "summer".parse().unwrap();
    installation.apply(&event, TOTAL);

    let load = BackgroundLoad::start(&runtime, &installation, &event, USERS);
    let set_permission = |rule| redis::command(&server.url(), &["ACL", "SETUSER", "default", rule]).unwrap();
    load.wait_issued(500);
    set_permission("-ltrim");
    load.wait_attempts(OutcomeKind::Unknown, 200);
    set_permission("+ltrim");
    let report = check(&runtime, &installation, &event, load.finish(&runtime));
    for category in [Category::Duplicated, Category::Cancelled] {
        assert!(is_violated(&report, category), "{category:?}\n{report}");
    }
}

#[test]
fn dropped_offset_commits_leave_restarted_redis_unverified() {
    let runtime = Runtime::new().unwrap();
    let _entered = runtime.enter();
    let server = Redis::start().unwrap();
    let consumer = "consumer.drop-commits=return";
    let overrides = Overrides { redis: server.url(), consumer, ..Overrides::default() };
    let installation = Installation::start_with("dropped-commits", &overrides);
    let event: EventName = "summer".parse().unwrap();
    installation.apply(&event, TOTAL);

    let history = BackgroundLoad::start(&runtime, &installation, &event, USERS).finish(&runtime);
    let recorded = installation.stores.wait_recorded(&event, RECORD_TIMEOUT, |_| ());
    assert!(runtime.block_on(recorded).unwrap().is_recorded(), "not everything is recorded");
    server.kill9().unwrap();
    server.restart().unwrap();
    let report = check(&runtime, &installation, &event, history);
    let failed: Vec<_> = report.failed().map(|result| result.property).collect();
    assert_eq!(failed, ["Redis is verified"], "{report}");
}

#[test]
fn rejection_after_one_negative_lookup_cancels_coupons() {
    let runtime = Runtime::new().unwrap();
    let _entered = runtime.enter();
    let overrides = Overrides { consumer: "database.reject-unproven=return", ..Overrides::default() };
    let installation = Installation::start_with("one-lookup", &overrides);
    let event: EventName = "summer".parse().unwrap();
    installation.apply(&event, TOTAL);

    // The operator would report the missing table.
    installation.operator.process.kill9().unwrap();
    let table = installation.query("SELECT 'coupon_' || replace(uid::text, '-', '') FROM coupon_event");
    installation.query(&format!("ALTER TABLE {table} RENAME TO hidden"));
    let history = BackgroundLoad::start(&runtime, &installation, &event, USERS).finish(&runtime);
    let count = || redis::command(&shared::redis(), &["HGET", &installation.meta_key(&event), "cancelled"]).unwrap();
    until("the consumer rejects records", || count().lines().nth(1).filter(|count| *count != "0").map(drop));
    installation.query(&format!("ALTER TABLE hidden RENAME TO {table}"));
    let report = check(&runtime, &installation, &event, history);
    assert!(is_violated(&report, Category::Cancelled), "{report}");
    assert!(!is_violated(&report, Category::Lost), "{report}");
}

#[test]
fn rolled_back_redis_marked_as_verified_duplicates_coupons() {
    let runtime = Runtime::new().unwrap();
    let _entered = runtime.enter();
    let server = Redis::start_with(&["--appendfsync", "everysec"]).unwrap();
    let overrides = Overrides { redis: server.url(), ..Overrides::default() };
    let installation = Installation::start_with("rolled-back", &overrides);
    let event: EventName = "summer".parse().unwrap();
    installation.apply(&event, TOTAL);

    let load = BackgroundLoad::start(&runtime, &installation, &event, USERS);
    let backup = server.dir().join("backup");
    load.wait_issued(500);
    server.back_up(&backup).unwrap();
    load.wait_issued(1000);
    // The operator would start a recovery.
    installation.operator.process.kill9().unwrap();
    server.roll_back(&backup).unwrap();
    mark_verified(&server, &installation.meta_key(&event));

    let report = check(&runtime, &installation, &event, load.finish(&runtime));
    // The first record of a coupon or a user wins, and the other users had received their coupons as well.
    for category in [Category::Duplicated, Category::Cancelled] {
        assert!(is_violated(&report, category), "{category:?}\n{report}");
    }
}

/// Marks Redis as verified, without a recovery.
fn mark_verified(server: &Redis, meta_key: &str) {
    let info = redis::command(&server.url(), &["INFO", "replication"]).unwrap();
    let replication_id = info.lines().find_map(|line| line.strip_prefix("master_replid:")).unwrap();
    redis::command(&server.url(), &["HSET", meta_key, "replicationId", replication_id.trim()]).unwrap();
}
