//! A Redis that has restarted, changed, or lost something: nothing is given before somebody has looked.

use std::time::{Duration, Instant};

use couponry_domain::{EventName, Gate, UserId, Uuid, Window};
use couponry_redis::{Holding, Loaded, Observed, Outcome, Recovered, Recovery, Status, Stock};
use couponry_testbed::{Redis, redis::command};

use crate::support::{adopt, coupons, opening, record_all, users};

struct Event {
    redis: Redis,
    stock: Stock,
    id: EventName,
    uid: Uuid,
}

impl Event {
    /// On a Redis of its own, with 100 coupons, open.
    async fn open() -> Self {
        let redis = Redis::start().unwrap();
        let stock = Stock::connect(&redis.url(), "").unwrap();
        let event = Self { stock, id: "summer".parse().unwrap(), uid: Uuid::new_v4(), redis };
        let Self { stock, id, uid, .. } = &event;
        stock.prepare(id, *uid, 0).await.unwrap();
        let before = stock.issue(id, &users(0..1)).await.unwrap().unwrap();
        assert_eq!(before.outcomes, [Outcome::Unverified], "just prepared");
        assert_eq!(stock.load(id, *uid, 0, &coupons(0, 100)).await.unwrap(), Loaded::OtherEvent);
        adopt(stock, id).await;
        stock.load(id, *uid, 0, &coupons(0, 100)).await.unwrap();
        stock.set_gate(id, *uid, &opening(Gate::Open, Window::default(), 100)).await.unwrap();
        event
    }

    async fn seen(&self) -> Observed {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            match self.stock.observe(&self.id).await {
                Ok(seen) => return seen.unwrap(),
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn ask(&self, range: std::ops::Range<u64>) -> Vec<Outcome> {
        self.stock.issue(&self.id, &users(range)).await.unwrap().unwrap().outcomes
    }

    async fn begin(&self, seen: &Observed, from_nothing: bool) -> Recovery {
        match self.stock.recover(&self.id, seen, from_nothing).await.unwrap() {
            Loaded::Here(recovery) => recovery,
            Loaded::OtherEvent => panic!("nothing to recover: {seen:?}"),
        }
    }

    /// Ten coupons, of which the first five are with these users.
    async fn restore(&self, seen: &Observed, recovery: &Recovery, first: u64, users: &[UserId]) -> Loaded<u64> {
        let ten = coupons(first, 10);
        let held: Vec<_> = users.iter().cloned().zip(&ten).map(|(user, coupon)| (user, holding(coupon))).collect();
        let available = &ten[held.len()..];
        self.stock.restore(&self.id, seen, recovery, first..first + 10, available, &held).await.unwrap()
    }
}

fn holding(coupon: &couponry_domain::Coupon) -> Holding {
    let code = coupon.code.parse().unwrap();
    Holding { coupon: code, discount: coupon.discount, issued_at: 7, status: Status::Completed }
}

fn is_issued(outcomes: &[Outcome]) -> bool {
    outcomes.iter().all(|outcome| matches!(outcome, Outcome::Issued(_)))
}

#[tokio::test]
async fn after_a_restart_nothing_is_given_before_it_is_adopted() {
    let event = Event::open().await;
    assert!(is_issued(&event.ask(0..10).await));
    record_all(&event.stock, &event.id, event.uid).await;
    let before = event.seen().await;
    event.redis.kill9().unwrap();
    event.redis.restart().unwrap();
    let seen = event.seen().await;
    assert!(before.is_verified && !seen.is_verified && before.server != seen.server);
    assert_eq!(event.ask(0..20).await, vec![Outcome::Unverified; 20], "neither a new coupon nor an old one");
    assert!(!event.stock.lookup(&event.id, &users(0..1)[0]).await.unwrap().unwrap().is_verified);
    assert_eq!(event.stock.load(&event.id, event.uid, 0, &coupons(100, 5)).await.unwrap(), Loaded::OtherEvent);
    assert_eq!(event.stock.retire(&event.id, event.uid, 0, 1).await.unwrap(), Loaded::Here(false));
    let untouched = event.seen().await;
    assert_eq!((untouched.available, untouched.issued, untouched.outbox), (90, 10, 0), "nothing was written");

    assert_eq!(event.stock.adopt(&event.id, &before, None).await.unwrap(), Loaded::OtherEvent, "another Redis");
    let recovery = event.begin(&seen, false).await;
    let wrong = Recovered { recovery: recovery.clone(), since: 0, total: 99 };
    let error = event.stock.adopt(&event.id, &seen, Some(&wrong)).await.unwrap_err().to_string();
    assert!(error.contains("loaded 100, held 100, wanted 99"), "{error}");
    // As if the clock of this Redis went a day after that of the one before.
    let since = recovery.begun_at + 86_400_000;
    let found = Recovered { recovery, since, total: 100 };
    assert_eq!(event.stock.adopt(&event.id, &seen, Some(&found)).await.unwrap(), Loaded::Here(()));
    for (user, outcome) in event.ask(5..15).await.into_iter().enumerate() {
        match outcome {
            Outcome::Duplicate(held) if user < 5 => assert!(held.issued_at < since),
            Outcome::Issued(held) if user >= 5 => assert_eq!(held.issued_at, since, "the database takes it"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(event.stock.recover(&event.id, &seen, true).await.unwrap(), Loaded::OtherEvent, "it is whole");
}

#[tokio::test]
async fn of_two_recoveries_only_the_last_to_begin_has_an_effect() {
    let event = Event::open().await;
    event.ask(0..10).await;
    command(&event.redis.url(), &["FLUSHALL"]).unwrap();
    assert!(event.stock.issue(&event.id, &users(0..1)).await.unwrap().is_none());
    event.stock.prepare(&event.id, event.uid, 0).await.unwrap();
    let (seen, five) = (event.seen().await, users(0..5));

    let first = event.begin(&seen, true).await;
    assert_eq!(event.restore(&seen, &first, 0, &five).await, Loaded::Here(10));
    assert_eq!(event.restore(&seen, &first, 0, &five).await, Loaded::Here(10), "again");
    assert_eq!(event.restore(&seen, &first, 20, &[]).await, Loaded::Here(10), "too early");
    let second = event.begin(&seen, true).await;
    assert_eq!(event.restore(&seen, &first, 10, &[]).await, Loaded::OtherEvent);
    let found = |recovery: &Recovery, total| Recovered { recovery: recovery.clone(), since: 9, total };
    assert_eq!(event.stock.adopt(&event.id, &seen, Some(&found(&first, 10))).await.unwrap(), Loaded::OtherEvent);
    assert_eq!(event.stock.adopt(&event.id, &seen, None).await.unwrap(), Loaded::OtherEvent, "an old look");
    assert_eq!(event.restore(&seen, &second, 0, &five).await, Loaded::Here(10));
    assert_eq!(event.restore(&seen, &second, 10, &[]).await, Loaded::Here(20));
    let settled = event.stock.settle(&event.id, event.uid, &[]).await.unwrap();
    assert_eq!(settled, Loaded::Here(couponry_redis::Settled::default()));
    assert!(event.stock.adopt(&event.id, &seen, Some(&found(&second, 10))).await.is_err(), "not all of it");
    assert_eq!(event.stock.adopt(&event.id, &seen, Some(&found(&second, 20))).await.unwrap(), Loaded::Here(()));

    let whole = event.seen().await;
    assert_eq!((whole.loaded, whole.available, whole.issued, whole.completed), (20, 15, 5, 5));
    assert!(whole.is_verified);
    event.stock.set_gate(&event.id, event.uid, &opening(Gate::Open, Window::default(), 20)).await.unwrap();
    let told = event.ask(0..20).await;
    assert!(told[..5].iter().all(|told| matches!(told, Outcome::Duplicate(held) if held.issued_at == 7)), "{told:?}");
    assert!(is_issued(&told[5..]));
    assert_eq!(event.ask(30..31).await, [Outcome::SoldOut]);
}

#[tokio::test]
async fn a_promoted_replica_is_another_redis_though_nobody_is_disconnected() {
    let event = Event::open().await;
    event.ask(0..10).await;
    let replica = Redis::start().unwrap();
    let follow = |one: &Redis, port: &str| command(&one.url(), &["REPLICAOF", "127.0.0.1", port]).unwrap();
    let wait = async |one: &Redis| {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !command(&one.url(), &["INFO", "replication"]).unwrap().contains("master_link_status:up") {
            assert!(Instant::now() < deadline, "the replica does not follow");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    follow(&replica, &event.redis.port().to_string());
    wait(&replica).await;
    // The first replica that a master ever has makes it another one, as far as it says.
    let seen = event.seen().await;
    if !seen.is_verified {
        adopt(&event.stock, &event.id).await;
    }
    // It lags: the last coupons do not reach it. Then the master is replaced by what the replica has.
    follow(&replica, "1");
    assert!(is_issued(&event.ask(10..20).await));
    command(&replica.url(), &["REPLICAOF", "NO", "ONE"]).unwrap();
    follow(&event.redis, &replica.port().to_string());
    wait(&event.redis).await;
    command(&event.redis.url(), &["REPLICAOF", "NO", "ONE"]).unwrap();
    let seen = event.seen().await;
    assert_eq!((seen.issued, seen.is_verified), (10, false));
    assert_eq!(event.ask(10..20).await, vec![Outcome::Unverified; 10], "their coupons would go to others");
}

#[tokio::test]
async fn what_users_hold_is_put_into_the_outbox_again() {
    let event = Event::open().await;
    event.ask(0..3).await;
    let held: Vec<_> = event.stock.scan_issued(&event.id).await.unwrap().into_iter().collect();
    let first = event.stock.left_behind(&event.id, Duration::ZERO, None, 10).await.unwrap().entries;
    event.stock.confirm(&event.id, &[first[0].id.clone()]).await.unwrap();
    event.stock.resend(&event.id, event.uid, &held).await.unwrap();
    let again = event.stock.left_behind(&event.id, Duration::ZERO, None, 10).await.unwrap().entries;
    let users = |records: &[couponry_domain::IssuedRecord]| {
        let mut users: Vec<_> = records.iter().map(|r| (r.user_id.clone(), r.coupon.clone(), r.issued_at)).collect();
        users.sort();
        users
    };
    assert_eq!(users(&again[0].records), users(&first[0].records));
    event.stock.resend(&event.id, Uuid::new_v4(), &held).await.unwrap();
    assert_eq!(event.seen().await.outbox, 1, "of another event");
    event.redis.kill9().unwrap();
    event.redis.restart().unwrap();
    let seen = event.seen().await;
    assert_eq!(
        event.stock.recover(&event.id, &seen, false).await.unwrap(),
        Loaded::OtherEvent,
        "first they must arrive"
    );
}
