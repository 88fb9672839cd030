//! Real installations under load, also with programs killed by SIGKILL: the checker finds no violation.

use std::collections::BTreeMap;
use std::time::Duration;

use couponry_domain::DiscountType::{Amount, Percent};
use couponry_domain::{Discount, EventName};
use couponry_loadgen::history::Attempt;
use couponry_loadgen::outcome::Outcome;
use couponry_loadgen::readers::EventCounts;
use tokio::runtime::Runtime;

use crate::installation::{Installation, counts, until};
use crate::load::{self, BackgroundLoad, Plan};

const RECORD_TIMEOUT: Duration = Duration::from_mins(3);

/// Checks that all coupons were issued and no guarantee was violated.
fn check(runtime: &Runtime, installation: &Installation, event: &EventName, total: u64, history: Vec<Attempt>) {
    let by_discount = BTreeMap::from([
        (Discount { kind: Percent, value: 10 }, total * 7 / 10),
        (Discount { kind: Amount, value: 10 }, total * 3 / 10),
    ]);
    let plan = Plan { total, by_discount };
    let report = load::check(runtime, installation, event, plan, RECORD_TIMEOUT, history);
    assert!(report.is_ok(), "{report}");
    let backlog = runtime.block_on(installation.stores.counts(event)).unwrap();
    assert_eq!(backlog.recorded, total, "not all coupons were issued");
}

fn answered(history: &[Attempt]) -> usize {
    history.iter().filter(|attempt| matches!(attempt.outcome, Outcome::Answered(_))).count()
}

#[test]
fn load_without_faults_violates_no_guarantee() {
    const TOTAL: u64 = 3000;
    let runtime = Runtime::new().unwrap();
    let _entered = runtime.enter();
    let installation = Installation::start("guarantees");
    let event: EventName = "summer".parse().unwrap();
    installation.apply(&event, TOTAL);

    let load = BackgroundLoad::start(&runtime, &installation, &event, 4000);
    let requests = load.requests;
    let history = load.finish(&runtime);
    assert_eq!(answered(&history), requests);
    check(&runtime, &installation, &event, TOTAL, history);
}

#[test]
fn killed_consumer_and_issuer_violate_no_guarantee() {
    const TOTAL: u64 = 6000;
    let runtime = Runtime::new().unwrap();
    let _entered = runtime.enter();
    let installation = Installation::start("guarantees-kills");
    let event: EventName = "summer".parse().unwrap();
    installation.apply(&event, TOTAL);
    let backlog = || -> EventCounts { runtime.block_on(installation.stores.counts(&event)).unwrap() };
    let print = |when: &str| println!("{when}: {}", counts(backlog()));

    let load = BackgroundLoad::start(&runtime, &installation, &event, 7000);
    let requests = load.requests;

    // Kills the consumer within a transaction, which waits for a lock.
    load.wait_issued(500);
    let lock = installation.lock_issuances();
    until("the consumer waits in a transaction", || {
        let waiting = "select count(*) from pg_locks where not granted and relation = 'issuance'::regclass";
        (installation.query(waiting) != "0").then_some(())
    });
    print("before the consumer is killed");
    installation.consumer.process.kill9().unwrap();
    drop(lock);
    print("after the consumer was killed");

    // Kills an issuer with requests in progress.
    load.wait_issued(1500);
    print("before an issuer is killed");
    installation.issuers[0].process.kill9().unwrap();
    print("after the issuer was killed");
    load.wait_issued(3000);
    installation.consumer.process.restart().unwrap();
    installation.issuers[0].process.restart().unwrap();
    installation.issuers[0].wait_ready();
    installation.consumer.wait_ready();
    print("after both were restarted");

    let history = load.finish(&runtime);
    let unanswered = history.len() - answered(&history);
    println!("{} attempts were answered, {unanswered} were retried", answered(&history));
    assert_eq!(answered(&history), requests, "not every request was answered");
    assert!(unanswered > 0, "no attempt failed when the issuer was killed");
    check(&runtime, &installation, &event, TOTAL, history);
}
