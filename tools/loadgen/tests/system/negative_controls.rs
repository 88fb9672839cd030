//! A checker that finds nothing may be blind. So here the system is broken on purpose, each time in one way that it is built
//! to prevent, and the checker must say so, and in the right class.

use std::sync::Arc;
use std::time::Duration;

use couponry_domain::EventName;
use couponry_loadgen::checker::{self, Class, Evidence, Report};
use couponry_loadgen::crowd::Crowd;
use couponry_loadgen::drive::{Load, gather_counted};
use couponry_loadgen::history::Attempt;
use couponry_loadgen::progress::{Kind, Tally};
use couponry_testbed::{Redis, redis};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::installation::{Flaws, Installation, counts, until};

const TOTAL: u64 = 4000;
/// How long what is lost for ever is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// Starts a load, and gives back what it counts and its history to come.
fn ask(runtime: &Runtime, installation: &Installation, event: &EventName) -> (Arc<Tally>, JoinHandle<Vec<Attempt>>) {
    let crowd = Crowd { users: 3000, ..Crowd::default() };
    let load = Load { connections: 32, ..Load::new(installation.targets.clone(), event.clone(), crowd) };
    let tally: Arc<Tally> = Arc::default();
    let history = runtime.spawn({
        let tally = tally.clone();
        async move { gather_counted(&load, &tally, &CancellationToken::new()).await }
    });
    (tally, history)
}

/// What the checker says when all that still arrives has arrived.
fn check(runtime: &Runtime, installation: &Installation, event: &EventName, history: Vec<Attempt>) -> Report {
    let stores = &installation.stores;
    let evidence = runtime.block_on(async {
        println!("at the end: {}", counts(stores.caught_up(event, PATIENCE, |_| ()).await.unwrap()));
        let uid = stores.uid(event).await.unwrap();
        Evidence {
            total: TOTAL,
            history,
            redis: stores.redis(event).await.unwrap(),
            kafka: stores.kafka(uid).await.unwrap(),
            postgres: stores.postgres(uid).await.unwrap(),
            ..Evidence::default()
        }
    });
    let report = checker::check(&evidence);
    println!("{report}");
    report
}

/// Each of the first classes is broken, and none of the others; the stores disagree in any case.
fn assert_broken(report: &Report, classes: &[Class]) {
    for class in [Class::Lost, Class::Duplicated, Class::Unexpected, Class::Stock, Class::Window] {
        let is_broken = report.broken().any(|finding| finding.class == class);
        assert_eq!(is_broken, classes.contains(&class), "{class:?}\n{report}");
    }
}

#[test]
fn without_the_outbox_what_a_dead_issuer_had_in_its_hands_is_lost() {
    let runtime = Runtime::new().unwrap();
    let _entered = runtime.enter();
    let dying = "issuer.no-sweep=return;issuer.after-lua=20*off->return";
    let flaws = Flaws { issuers: [dying, "issuer.no-sweep=return"], ..Flaws::default() };
    let installation = Installation::start_with("no-outbox", &flaws);
    let event: EventName = "summer".parse().unwrap();
    installation.apply(&event, TOTAL);

    let (_, history) = ask(&runtime, &installation, &event);
    let history = runtime.block_on(history).unwrap();
    assert!(installation.issuers[0].process.process().exited().unwrap().is_some(), "the issuer lives");
    assert_broken(&check(&runtime, &installation, &event, history), &[Class::Lost]);
}

#[test]
fn offsets_that_are_committed_before_the_transaction_lose_the_batch_of_a_dead_consumer() {
    let runtime = Runtime::new().unwrap();
    let _entered = runtime.enter();
    let dying = "consumer.offsets-first=return;consumer.after-offsets-first=5*off->return";
    let installation = Installation::start_with("offsets-first", &Flaws { consumer: dying, ..Flaws::default() });
    let event: EventName = "summer".parse().unwrap();
    installation.apply(&event, TOTAL);

    let (_, history) = ask(&runtime, &installation, &event);
    let consumer = &installation.consumer;
    until("the consumer is dead", || consumer.process.process().exited().unwrap());
    consumer.process.restart_with(&[("FAILPOINTS".into(), String::new())]).unwrap();
    let history = runtime.block_on(history).unwrap();
    assert_broken(&check(&runtime, &installation, &event, history), &[Class::Lost]);
}

#[test]
fn a_redis_that_forgot_its_last_writes_and_is_believed_gives_coupons_twice() {
    let runtime = Runtime::new().unwrap();
    let _entered = runtime.enter();
    let server = Redis::start_with(&["--appendfsync", "everysec"]).unwrap();
    let installation = Installation::start_with("rolled-back", &Flaws { redis: server.url(), ..Flaws::default() });
    let event: EventName = "summer".parse().unwrap();
    installation.apply(&event, TOTAL);

    let (tally, history) = ask(&runtime, &installation, &event);
    let issued = |count| until("users get coupons", || (tally.attempts(Kind::Issued) >= count).then_some(()));
    let backup = server.dir().join("backup");
    issued(500);
    server.back_up(&backup).unwrap();
    issued(1000);
    // The operator would see that this is not the Redis that it knows: it is gone, and another has said that all is well.
    installation.operator.process.kill9().unwrap();
    server.roll_back(&backup).unwrap();
    believe(&server, &installation.meta(&event));

    let history = runtime.block_on(history).unwrap();
    let report = check(&runtime, &installation, &event, history);
    assert!(report.broken().any(|finding| finding.class == Class::Duplicated), "{report}");
    assert!(report.broken().any(|finding| finding.class == Class::Lost), "{report}");
}

/// Says what only an operator may say who has looked: that the keys of this Redis are whole.
fn believe(server: &Redis, meta: &str) {
    let info = redis::command(&server.url(), &["INFO", "replication"]).unwrap();
    let identity = info.lines().find_map(|line| line.strip_prefix("master_replid:")).unwrap();
    redis::command(&server.url(), &["HSET", meta, "server", identity.trim()]).unwrap();
}
