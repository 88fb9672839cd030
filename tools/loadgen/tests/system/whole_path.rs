//! The whole way of a coupon on real parts: operator, two issuers, a consumer, Redis, Kafka, Postgres, a Kubernetes API
//! server. A crowd asks, and the checker finds every promise kept, also when programs are killed with -9 meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use couponry_domain::DiscountType::{Amount, Percent};
use couponry_domain::{Discount, EventName};
use couponry_loadgen::checker::{self, Evidence};
use couponry_loadgen::crowd::Crowd;
use couponry_loadgen::drive::{Load, gather_counted};
use couponry_loadgen::history::{Attempt, Outcome};
use couponry_loadgen::progress::{Kind, Tally};
use couponry_loadgen::readers::Backlog;
use couponry_loadgen::summary::Summary;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::installation::{Installation, counts, until};

const ARRIVAL: Duration = Duration::from_mins(3);

/// A load that runs in the background.
struct Crowded {
    tally: Arc<Tally>,
    history: JoinHandle<Vec<Attempt>>,
}

impl Crowded {
    fn start(runtime: &Runtime, load: Load) -> Self {
        let tally: Arc<Tally> = Arc::default();
        let history = runtime.spawn({
            let tally = tally.clone();
            async move { gather_counted(&load, &tally, &CancellationToken::new()).await }
        });
        Self { tally, history }
    }

    fn wait_issued(&self, count: u64) {
        until("users get coupons", || (self.tally.attempts(Kind::Issued) >= count).then_some(()));
    }
}

/// Waits until everything has arrived, then checks everything.
fn check(runtime: &Runtime, installation: &Installation, event: &EventName, total: u64, history: Vec<Attempt>) {
    let stores = &installation.stores;
    let evidence = runtime.block_on(async {
        let backlog = stores.caught_up(event, ARRIVAL, |_| ()).await.unwrap();
        println!("at the end: {}", counts(backlog));
        let uid = stores.uid(event).await.unwrap();
        let seventy = Discount { kind: Percent, value: 10 };
        let thirty = Discount { kind: Amount, value: 10 };
        Evidence {
            total,
            expected: BTreeMap::from([(seventy, total * 7 / 10), (thirty, total * 3 / 10)]),
            history,
            redis: stores.redis(event).await.unwrap(),
            kafka: stores.kafka(uid).await.unwrap(),
            postgres: stores.postgres(uid).await.unwrap(),
        }
    });
    let mut summary = Summary::default();
    evidence.history.iter().for_each(|attempt| summary.add(attempt));
    let report = checker::check(&evidence);
    println!("{summary}\n{report}");
    assert!(report.is_good(), "{report}");
    assert_eq!(evidence.postgres.issuances.len() as u64, total, "everything was given away");
}

#[test]
fn everybody_gets_what_they_were_told() {
    const TOTAL: u64 = 3000;
    let runtime = Runtime::new().unwrap();
    let _entered = runtime.enter();
    let installation = Installation::start("whole-path");
    let event: EventName = "summer".parse().unwrap();
    installation.apply(&event, TOTAL);

    let crowd = Crowd { users: 4000, ..Crowd::default() };
    let load = Load { connections: 32, ..Load::new(installation.targets.clone(), event.clone(), crowd) };
    let asks = load.crowd.asks().len();
    let crowded = Crowded::start(&runtime, load);
    let history = runtime.block_on(crowded.history).unwrap();

    assert_eq!(history.iter().filter(|attempt| matches!(attempt.outcome, Outcome::Ok(_))).count(), asks);
    check(&runtime, &installation, &event, TOTAL, history);
}

#[test]
fn killed_programs_lose_nothing_and_give_nothing_twice() {
    const TOTAL: u64 = 6000;
    let runtime = Runtime::new().unwrap();
    let _entered = runtime.enter();
    let installation = Installation::start("whole-path-kills");
    let event: EventName = "summer".parse().unwrap();
    installation.apply(&event, TOTAL);
    let backlog = || -> Backlog { runtime.block_on(installation.stores.backlog(&event)).unwrap() };
    let say = |what: &str| println!("{what}: {}", counts(backlog()));

    let crowd = Crowd { users: 7000, seed: 1, ..Crowd::default() };
    let load = Load { connections: 32, ..Load::new(installation.targets.clone(), event.clone(), crowd) };
    let asks = load.crowd.asks().len();
    let crowded = Crowded::start(&runtime, load);

    // The consumer: surely in a batch, for its transaction has to wait.
    crowded.wait_issued(500);
    let hold = installation.hold_issuances();
    until("the consumer is in a transaction", || {
        let waiting = "select count(*) from pg_locks where not granted and relation = 'issuance'::regclass";
        (installation.query(waiting) != "0").then_some(())
    });
    say("before the consumer is killed");
    installation.consumer.process.kill9().unwrap();
    drop(hold);
    say("after the consumer was killed");

    // The issuer: under load, with what it has in its hands.
    crowded.wait_issued(1500);
    say("before an issuer is killed");
    installation.issuers[0].process.kill9().unwrap();
    say("after the issuer was killed");
    crowded.wait_issued(3000);
    installation.consumer.process.restart().unwrap();
    installation.issuers[0].process.restart().unwrap();
    installation.issuers[0].wait_ready();
    installation.consumer.wait_ready();
    say("after both were started again");

    let history = runtime.block_on(crowded.history).unwrap();
    let answered = history.iter().filter(|attempt| matches!(attempt.outcome, Outcome::Ok(_))).count();
    let unanswered = history.len() - answered;
    println!("{answered} attempts were answered, {unanswered} were repeated");
    assert_eq!(answered, asks, "every ask got its answer in the end");
    assert!(unanswered > 0, "the kill hit nobody");
    check(&runtime, &installation, &event, TOTAL, history);
}
