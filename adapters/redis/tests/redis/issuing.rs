//! The atomic step, on a real Redis.

use std::collections::HashSet;

use crate::support::{Event, adopt, coupons, opening, users};
use couponry_domain::{Gate, UserId, Window};
use couponry_redis::{Holding, Outcome, Status, Stock};
use futures::future;
use redis::Commands;

fn issued(outcome: &Outcome) -> &Holding {
    match outcome {
        Outcome::Issued(holding) => holding,
        other => panic!("not issued: {other:?}"),
    }
}

#[tokio::test]
async fn coupons_are_given_in_the_shuffled_order_until_they_are_gone() {
    let event = Event::open(10).await;
    let reply = event.stock.issue(&event.id, &users(0..12)).await.unwrap().unwrap();
    assert_eq!(reply.event_uid, event.uid);
    let given: Vec<_> = reply.outcomes[..10].iter().map(|o| issued(o).coupon.to_string()).collect();
    let stocked: Vec<_> = coupons(0, 10).into_iter().map(|c| c.code).collect();
    assert_eq!(given, stocked);
    assert_eq!(reply.outcomes[10..], [Outcome::SoldOut, Outcome::SoldOut]);
    let records = reply.outbox.unwrap().records;
    assert_eq!(records.len(), 10);
    assert_eq!(records[3].user_id.as_str(), "user-3");
    assert_eq!(records[3].coupon.as_str(), stocked[3]);
}

#[tokio::test]
async fn asking_again_gives_the_same_coupon_also_when_the_event_is_over() {
    let event = Event::open(1).await;
    let first = event.stock.issue(&event.id, &users(0..1)).await.unwrap().unwrap();
    let coupon = issued(&first.outcomes[0]).clone();
    for gate in [Gate::Open, Gate::Paused, Gate::Closed] {
        event.gate(gate, Window::default(), 1).await;
        let again = event.stock.issue(&event.id, &users(0..1)).await.unwrap().unwrap();
        assert_eq!(again.outcomes, [Outcome::Duplicate(coupon.clone())]);
        assert!(again.outbox.is_none());
    }
    assert_eq!(event.stock.lookup(&event.id, &users(0..1)[0]).await.unwrap().unwrap().holding, Some(coupon));
}

#[tokio::test]
async fn a_user_twice_in_a_batch_gets_one_coupon() {
    let event = Event::open(10).await;
    let twice = [users(0..1), users(0..1), users(1..2)].concat();
    let reply = event.stock.issue(&event.id, &twice).await.unwrap().unwrap();
    let first = issued(&reply.outcomes[0]).clone();
    assert_eq!(reply.outcomes[1], Outcome::Duplicate(first));
    issued(&reply.outcomes[2]);
    assert_eq!(event.stock.observe(&event.id).await.unwrap().unwrap().available, 8);
}

#[tokio::test]
async fn the_window_is_decided_by_the_clock_of_redis() {
    let event = Event::open(10).await;
    let now = event.stock.observe(&event.id).await.unwrap().unwrap().now;
    let hour = 3_600_000;
    let mut next_user = 0;
    for (gate, start, end, expected) in [
        (Gate::Open, Some(now + hour), None, Outcome::NotStarted),
        (Gate::Open, None, Some(now), Outcome::Ended),
        (Gate::Open, Some(now - hour), Some(now - 1), Outcome::Ended),
        (Gate::Paused, None, None, Outcome::Paused),
        (Gate::Paused, Some(now + hour), None, Outcome::NotStarted),
        (Gate::Paused, None, Some(now), Outcome::Ended),
    ] {
        event.gate(gate, Window { start, end }, 10).await;
        let reply = event.stock.issue(&event.id, &users(next_user..next_user + 2)).await.unwrap().unwrap();
        assert_eq!(reply.outcomes, [expected.clone(), expected], "{gate:?} {start:?} {end:?}");
        next_user += 2;
    }
    event.gate(Gate::Open, Window { start: Some(now - hour), end: Some(now + hour) }, 10).await;
    issued(&event.stock.issue(&event.id, &users(50..51)).await.unwrap().unwrap().outcomes[0]);
    assert_eq!(event.gate(Gate::Closed, Window::default(), 10).await, couponry_redis::Loaded::Here(Gate::Closed));
    assert_eq!(
        event.gate(Gate::Open, Window::default(), 10).await,
        couponry_redis::Loaded::Here(Gate::Closed),
        "closed is final"
    );
    let reply = event.stock.issue(&event.id, &users(60..61)).await.unwrap().unwrap();
    assert_eq!(reply.outcomes, [Outcome::Ended]);
}

#[tokio::test]
async fn nothing_is_given_while_the_stock_is_loading() {
    let event = Event::prepared().await;
    event.load(0, 5).await;
    let reply = event.stock.issue(&event.id, &users(0..1)).await.unwrap().unwrap();
    assert_eq!(reply.outcomes, [Outcome::NotStarted]);
}

#[tokio::test]
async fn an_unknown_event_is_none() {
    let event = Event::prepared().await;
    let other = "winter".parse().unwrap();
    assert!(event.stock.issue(&other, &users(0..1)).await.unwrap().is_none());
    assert!(event.stock.lookup(&other, &users(0..1)[0]).await.unwrap().is_none());
    assert!(event.stock.observe(&other).await.unwrap().is_none());
}

#[tokio::test]
async fn a_crowd_gets_each_coupon_once() {
    let event = Event::open(1000).await;
    // 16 callers ask for the same 1,500 users in different batches: 24,000 wishes for 1,000 coupons.
    let callers = (0..16u64).map(|caller| {
        let (stock, id) = (event.stock.clone(), event.id.clone());
        tokio::spawn(async move {
            let mut holders = Vec::new();
            let mut all = users(0..1500);
            all.rotate_left(usize::try_from(caller).unwrap() * 90);
            for batch in all.chunks(1 + usize::try_from(caller).unwrap() * 13) {
                let reply = stock.issue(&id, batch).await.unwrap().unwrap();
                for (user, outcome) in batch.iter().zip(reply.outcomes) {
                    if let Outcome::Issued(holding) = outcome {
                        holders.push((user.clone(), holding.coupon));
                    }
                }
            }
            holders
        })
    });
    let holders: Vec<_> = future::join_all(callers).await.into_iter().flat_map(Result::unwrap).collect();
    assert_eq!(holders.len(), 1000);
    assert_eq!(holders.iter().map(|(user, _)| user).collect::<HashSet<_>>().len(), 1000);
    let given: HashSet<_> = holders.iter().map(|(_, coupon)| coupon.to_string()).collect();
    assert_eq!(given, coupons(0, 1000).into_iter().map(|c| c.code).collect::<HashSet<_>>());
}

#[tokio::test]
async fn the_largest_batch_fits() {
    let event = Event::open(3000).await;
    let reply = event.stock.issue(&event.id, &users(0..stock::MAX_BATCH as u64)).await.unwrap().unwrap();
    assert!(reply.outcomes.iter().all(|outcome| matches!(outcome, Outcome::Issued(_))));
}

#[tokio::test]
async fn users_may_be_called_anything() {
    let event = Event::open(10).await;
    let names = [
        ":CANCEL",
        "STOLEN:PERCENT:10:5:COMPLETED",
        r#""},{""#,
        "back\\slash/and/slash",
        "한국어 🎟",
        "{summer}:%s",
        "','x'); DROP TABLE coupon; --",
    ];
    let users: Vec<UserId> = names.iter().map(|name| name.parse().unwrap()).collect();
    let first = event.stock.issue(&event.id, &users).await.unwrap().unwrap();
    let again = event.stock.issue(&event.id, &users).await.unwrap().unwrap();
    for (one, two) in first.outcomes.iter().zip(&again.outcomes) {
        assert_eq!(two, &Outcome::Duplicate(issued(one).clone()));
    }
    let scanned = event.stock.scan_issued(&event.id).await.unwrap();
    assert_eq!(scanned.len(), names.len());
    let left = event.stock.left_behind(&event.id, std::time::Duration::ZERO, None, 10).await.unwrap().entries;
    assert_eq!(left, [first.outbox.unwrap()], "the outbox holds the same records");
    assert!(users.iter().all(|user| scanned[user].status == Status::Pending));
}

/// Redis refuses writes: the script must not have taken a coupon by then.
#[tokio::test]
async fn a_full_redis_loses_no_coupon() {
    let server = couponry_testbed::Redis::start().unwrap();
    let stock = Stock::connect(&server.url(), "").unwrap();
    let (id, uid) = ("summer".parse().unwrap(), couponry_domain::Uuid::new_v4());
    stock.prepare(&id, uid, 0).await.unwrap();
    adopt(&stock, &id).await;
    stock.load(&id, uid, 0, &coupons(0, 10)).await.unwrap();
    stock.set_gate(&id, uid, &opening(Gate::Open, Window::default(), 10)).await.unwrap();

    let mut admin = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
    let set = |admin: &mut redis::Connection, bytes: u32| {
        redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(bytes).exec(admin).unwrap();
    };
    set(&mut admin, 1);
    let error = stock.issue(&id, &users(0..3)).await.unwrap_err().to_string();
    assert!(error.contains("OOM"), "{error}");
    assert_eq!(admin.llen::<_, u64>("couponQueue:{summer}").unwrap(), 10);
    set(&mut admin, 0);
    let reply = stock.issue(&id, &users(0..3)).await.unwrap().unwrap();
    assert_eq!(reply.outcomes.iter().filter(|o| matches!(o, Outcome::Issued(_))).count(), 3);
}
