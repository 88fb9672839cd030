//! Shops that use issued coupons at real redeemers: the checker finds no violation.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use couponry_domain::EventName;
use couponry_loadgen::checker::{self, RedemptionInput, Report};
use couponry_loadgen::checkout::history::{UseAttempt, UseCompletion, UseEntry, UseInvocation};
use couponry_loadgen::checkout::{Checkout, HeldCoupon, drive, stored};
use couponry_loadgen::connection::Connection;
use couponry_loadgen::history::Attempt;
use couponry_loadgen::outcome::Outcome;
use couponry_settings::{KafkaSettings, PostgresSettings};
use couponry_testbed::shared;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use crate::installation::{Installation, Redeemer, until};
use crate::load::{self, BackgroundLoad, Plan};

const TIMEOUT: Duration = Duration::from_mins(3);
const USED: &str = "SELECT count(*) FROM coupon_use";

/// Uses these coupons as shops do, and returns all attempts.
fn use_coupons(runtime: &Runtime, checkout: Checkout, coupons: Vec<HeldCoupon>) -> Vec<UseAttempt> {
    let (sender, receiver) = mpsc::unbounded_channel();
    coupons.into_iter().try_for_each(|held| sender.send(held)).unwrap();
    drop(sender);
    let attempts = Rc::<RefCell<(HashMap<_, _>, Vec<_>)>>::default();
    let log = {
        let attempts = attempts.clone();
        move |entry: &UseEntry| {
            let (open, attempts) = &mut *attempts.borrow_mut();
            match entry.clone() {
                UseEntry::Invoked(invocation) => {
                    open.insert(invocation.id, invocation);
                }
                UseEntry::Completed(UseCompletion { id, finished, outcome }) => {
                    let UseInvocation { invoked, target, call, .. } = open.remove(&id).unwrap();
                    attempts.push(UseAttempt { invoked, finished, target, call, outcome });
                }
            }
            Ok(())
        }
    };
    let statistics = runtime.block_on(drive(checkout, receiver, log)).unwrap();
    println!("{statistics}");
    let (_, attempts) = attempts.take();
    attempts
}

fn check(
    runtime: &Runtime,
    installation: &Installation,
    redeemer: &Redeemer,
    event: &EventName,
    attempts: Vec<UseAttempt>,
) -> Report {
    let input = runtime.block_on(async {
        let uid = installation.stores.uid(event).await.unwrap();
        let postgres = PostgresSettings::at(&installation.postgres());
        let rows = stored::rows(&postgres, uid).await.unwrap();
        let coupons: BTreeSet<_> = attempts.iter().map(|attempt| &*attempt.call.coupon).collect();
        let views = stored::views(&redeemer.target, event, coupons).await.unwrap();
        stored::wait_sent(&postgres, uid, TIMEOUT).await.unwrap();
        let messages =
            stored::messages(&KafkaSettings::at(shared::kafka(), installation.used_topic()), uid).await.unwrap();
        RedemptionInput { attempts, rows, views, messages, ..RedemptionInput::default() }
    });
    let report = checker::check_redemptions(&input);
    println!("{report}");
    report
}

#[test]
fn killed_and_frozen_redeemers_violate_no_guarantee() {
    const TOTAL: u64 = 1000;
    let runtime = Runtime::new().unwrap();
    let _entered = runtime.enter();
    let installation = Installation::start("redemptions");
    let event: EventName = "summer".parse().unwrap();
    installation.apply(&event, TOTAL);
    let redeemers = [installation.redeemer(), installation.redeemer()];
    let history = BackgroundLoad::start(&runtime, &installation, &event, 1200).finish(&runtime);
    let coupons = history.iter().filter(|attempt| attempt.response().is_some_and(|response| response.success));
    let coupons = (0..).zip(coupons).map(|(number, attempt)| {
        let coupon = attempt.coupon().unwrap().0.to_string();
        HeldCoupon { number, user: attempt.user.clone(), coupon, valid_until: None }
    });
    let coupons: Vec<_> = coupons.collect();

    let checkout = Checkout {
        shops: 32,
        timeout: Duration::from_secs(1),
        ..Checkout::new(redeemers.iter().map(|redeemer| redeemer.target.clone()).collect(), event.clone())
    };
    let attempts = thread::scope(|scope| {
        scope.spawn(|| {
            for (number, redeemer) in redeemers.iter().enumerate() {
                let used = || installation.query(USED).parse::<usize>().unwrap();
                let (killed, frozen) = (300 * (2 * number + 1), 300 * (2 * number + 2));
                until("coupons are used", || (used() >= killed).then_some(()));
                redeemer.program.process.kill9().unwrap();
                until("the other redeemer uses coupons", || (used() >= killed + 100).then_some(()));
                redeemer.program.process.restart().unwrap();
                redeemer.program.wait_ready();
                until("coupons are used", || (used() >= frozen).then_some(()));
                redeemer.program.process.pause().unwrap();
                until("the other redeemer uses coupons", || (used() >= frozen + 100).then_some(()));
                redeemer.program.process.resume().unwrap();
            }
        });
        use_coupons(&runtime, checkout, coupons)
    });
    let unknown = attempts.iter().filter(|attempt| attempt.decided().is_none()).count();
    assert!(unknown > 0, "no attempt failed when a redeemer was killed");
    let report = check(&runtime, &installation, &redeemers[0], &event, attempts);
    assert!(report.is_ok(), "{report}");
}

/// Status and body of a response.
async fn post(connection: &mut Connection, path: &str, headers: &str, body: &Value) -> (u16, Value) {
    let request = connection.target().request("POST", path, headers, &body.to_string());
    let response = connection.exchange(&request).await.unwrap();
    (response.status, serde_json::from_slice(response.body).unwrap())
}

/// Each user goes to the checkout with the coupon of the response, before anything is recorded.
#[test]
fn coupons_redeemed_right_after_issuing_with_frozen_consumer_violate_no_guarantee() {
    const TOTAL: u64 = 50;
    let runtime = Runtime::new().unwrap();
    let _entered = runtime.enter();
    let installation = Installation::start("redeemed-at-once");
    let event: EventName = "summer".parse().unwrap();
    installation.apply(&event, TOTAL);
    let redeemer = installation.redeemer();
    installation.consumer.process.pause().unwrap();
    let history = runtime.block_on(async {
        let mut issuing = Connection::new(installation.targets[0].clone());
        let mut shop = Connection::new(redeemer.target.clone());
        let (mut history, mut longest) = (Vec::new(), Duration::ZERO);
        for number in 0..TOTAL {
            let user = format!("user-{number}");
            let body = json!({"eventId": "summer", "userId": user});
            let (status, issued) = post(&mut issuing, "/coupons/issue", "", &body).await;
            let received = Instant::now();
            assert_eq!((status, &issued["success"]), (200, &json!(true)), "{issued}");
            let body =
                json!({"eventId": "summer", "couponKey": issued["couponKey"], "userId": user, "orderId": "order-1"});
            let header = format!("idempotency-key: {user}\r\n");
            let (status, response) = post(&mut shop, "/redemptions/redeem", &header, &body).await;
            longest = longest.max(received.elapsed());
            assert_eq!((status, &response["state"]), (200, &json!("REDEEMED")), "{response}");
            history.push(Attempt {
                invoked: 0,
                finished: 0,
                user: user.parse().unwrap(),
                request: 1,
                attempt: 1,
                target: installation.targets[0].to_string(),
                outcome: Outcome::Answered(serde_json::from_value(issued).unwrap()),
            });
        }
        println!("redeemed at most {longest:?} after the coupon was received");
        history
    });
    // Each of them by the redeemer. The consumer finds them recorded.
    assert_eq!(installation.query("SELECT count(*) FROM issuance"), TOTAL.to_string());
    installation.consumer.process.resume().unwrap();
    let plan = Plan { total: TOTAL, ..Plan::default() };
    let report = load::check(&runtime, &installation, &event, plan, Duration::from_mins(3), history);
    assert!(report.is_ok(), "{report}");
}
