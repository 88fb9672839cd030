//! Filling the stock, exactly once.

use crate::support::{Event, adopt, coupons, opening, users};
use couponry_domain::{Gate, Uuid, Window};
use couponry_redis::{Loaded, Opening, Stock};
use futures::future;

#[tokio::test]
async fn a_chunk_counts_once_however_often_it_is_sent() {
    let event = Event::prepared().await;
    let chunks: Vec<_> = (0..10).map(|i| coupons(i * 100, 100)).collect();
    let load = |i: usize| event.stock.load(&event.id, event.uid, 0, &chunks[i]);
    assert_eq!(load(0).await.unwrap(), Loaded::Here(100));
    assert_eq!(load(0).await.unwrap(), Loaded::Here(100), "again");
    assert_eq!(load(5).await.unwrap(), Loaded::Here(100), "too early");
    // Two operators at once, each from where it believes to be.
    let both = future::join_all((0..20).map(|i| load(i / 2))).await;
    assert!(both.into_iter().all(|loaded| matches!(loaded.unwrap(), Loaded::Here(_))));
    for i in 0..10 {
        load(i).await.unwrap();
    }
    let queue = event.stock.scan_queue(&event.id).await.unwrap();
    let expected: Vec<_> = chunks.iter().flatten().map(|c| (c.code.parse().unwrap(), c.discount)).collect();
    assert_eq!(queue, expected);
}

#[tokio::test]
async fn the_gate_opens_only_for_the_whole_stock() {
    let event = Event::prepared().await;
    event.load(0, 99).await;
    let open = opening(Gate::Open, Window::default(), 100);
    let error = event.stock.set_gate(&event.id, event.uid, &open).await.unwrap_err().to_string();
    assert!(error.contains("loaded 99, held 99, wanted 100"), "{error}");
    event.load(99, 1).await;
    assert_eq!(event.stock.set_gate(&event.id, event.uid, &open).await.unwrap(), Loaded::Here(Gate::Open));

    let observed = event.stock.observe(&event.id).await.unwrap().unwrap();
    assert_eq!((observed.gate, observed.loaded, observed.available, observed.generation), (Gate::Open, 100, 100, 1));
}

#[tokio::test]
async fn a_stock_with_a_hole_does_not_open() {
    let event = Event::prepared().await;
    event.load(0, 10).await;
    let mut admin = redis::Client::open(couponry_testbed::shared::redis()).unwrap().get_connection().unwrap();
    redis::cmd("LPOP").arg(format!("test-{}-couponQueue:{{summer}}", event.uid)).exec(&mut admin).unwrap();
    let open = opening(Gate::Open, Window::default(), 10);
    let error = event.stock.set_gate(&event.id, event.uid, &open).await.unwrap_err().to_string();
    assert!(error.contains("loaded 10, held 9, wanted 10"), "{error}");
}

#[tokio::test]
async fn a_top_up_joins_the_end_of_the_queue_while_coupons_are_given() {
    let event = Event::open(3).await;
    event.stock.issue(&event.id, &users(0..3)).await.unwrap();
    event.load(3, 2).await;
    let reply = event.stock.issue(&event.id, &users(3..6)).await.unwrap().unwrap();
    assert_eq!(reply.outbox.unwrap().records.len(), 2);
    assert_eq!(reply.outcomes[2], couponry_redis::Outcome::SoldOut);
}

#[tokio::test]
async fn a_name_belongs_to_one_event_at_a_time() {
    let event = Event::open(5).await;
    let Event { stock, id, uid } = &event;
    let other = Uuid::new_v4();
    assert_eq!(stock.prepare(id, *uid, 0).await.unwrap(), Loaded::Here(()), "again");
    assert_eq!(stock.prepare(id, other, 0).await.unwrap(), Loaded::OtherEvent);
    assert_eq!(stock.load(id, other, 0, &coupons(5, 1)).await.unwrap(), Loaded::OtherEvent);
    let closed = opening(Gate::Closed, Window::default(), 5);
    assert_eq!(stock.set_gate(id, other, &closed).await.unwrap(), Loaded::OtherEvent);
    assert_eq!(
        stock.settle(id, other, &[]).await.unwrap(),
        Loaded::Here(couponry_redis::Settled::default()),
        "nothing to do"
    );
    assert!(!stock.remove(id, other).await.unwrap());
    assert_eq!(stock.events().await.unwrap(), std::slice::from_ref(id));

    assert!(stock.remove(id, *uid).await.unwrap());
    assert!(!stock.remove(id, *uid).await.unwrap(), "again");
    assert!(stock.observe(id).await.unwrap().is_none());
    assert!(stock.events().await.unwrap().is_empty());
    assert_eq!(stock.prepare(id, other, 0).await.unwrap(), Loaded::Here(()));
}

/// The last packets of an operator that was slower than another one, which made the stock anew meanwhile.
#[tokio::test]
async fn what_is_meant_for_another_edition_changes_nothing() {
    let event = Event::prepared().await;
    event.load(0, 5).await;
    let Event { stock, id, uid } = &event;
    assert!(stock.remove_stock_epoch(id, *uid, 0).await.unwrap());
    assert_eq!(stock.prepare(id, *uid, 1).await.unwrap(), Loaded::Here(()));
    adopt(stock, id).await;

    assert_eq!(stock.prepare(id, *uid, 0).await.unwrap(), Loaded::OtherEvent);
    assert_eq!(stock.load(id, *uid, 0, &coupons(0, 5)).await.unwrap(), Loaded::OtherEvent);
    assert_eq!(stock.load(id, *uid, 1, &coupons(0, 3)).await.unwrap(), Loaded::Here(3));
    let old = opening(Gate::Open, Window::default(), 3);
    assert_eq!(stock.set_gate(id, *uid, &old).await.unwrap(), Loaded::OtherEvent);
    assert!(!stock.remove_stock_epoch(id, *uid, 0).await.unwrap());
    let observed = stock.observe(id).await.unwrap().unwrap();
    assert_eq!((observed.stock_epoch, observed.gate, observed.available), (1, Gate::Loading, 3));
    let own = Opening { stock_epoch: 1, ..old };
    assert_eq!(stock.set_gate(id, *uid, &own).await.unwrap(), Loaded::Here(Gate::Open));
}

#[tokio::test]
async fn an_older_manifest_changes_nothing_but_closing_always_works() {
    let event = Event::open(5).await;
    let set = async |gate, generation| {
        let opening = Opening { generation, ..opening(gate, Window::default(), 5) };
        event.stock.set_gate(&event.id, event.uid, &opening).await.unwrap()
    };
    assert_eq!(set(Gate::Paused, 3).await, Loaded::Here(Gate::Paused));
    assert_eq!(set(Gate::Open, 2).await, Loaded::Here(Gate::Paused), "came late");
    assert_eq!(event.stock.observe(&event.id).await.unwrap().unwrap().generation, 3);
    assert_eq!(set(Gate::Open, 3).await, Loaded::Here(Gate::Open));
    assert_eq!(set(Gate::Closed, 1).await, Loaded::Here(Gate::Closed));
}

/// An event that no issuer knows of is never swept.
#[tokio::test]
async fn an_event_is_listed_before_a_coupon_can_be_given() {
    let event = Event::prepared().await;
    event.load(0, 1).await;
    let mut admin = redis::Client::open(couponry_testbed::shared::redis()).unwrap().get_connection().unwrap();
    // As if a crash, or somebody else's late removal, had come in between.
    redis::cmd("DEL").arg(format!("test-{}-couponEvents", event.uid)).exec(&mut admin).unwrap();
    event.gate(Gate::Open, Window::default(), 1).await;
    assert_eq!(event.stock.events().await.unwrap(), std::slice::from_ref(&event.id));
}

#[tokio::test]
async fn coupons_of_nobody_knows_which_event_are_not_built_upon() {
    let event = Event::open(5).await;
    let mut admin = redis::Client::open(couponry_testbed::shared::redis()).unwrap().get_connection().unwrap();
    redis::cmd("DEL").arg(format!("test-{}-couponMeta:{{summer}}", event.uid)).exec(&mut admin).unwrap();
    let error = event.stock.prepare(&event.id, event.uid, 0).await.unwrap_err().to_string();
    assert!(error.contains("couponMeta is missing"), "{error}");
}

#[tokio::test]
async fn a_redis_that_is_not_there_is_an_error_and_comes_back() {
    let server = couponry_testbed::Redis::start().unwrap();
    let stock = Stock::connect(&server.url(), "").unwrap();
    stock.ping().await.unwrap();
    server.kill9().unwrap();
    assert!(stock.ping().await.is_err());
    server.restart().unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while stock.ping().await.is_err() {
        assert!(std::time::Instant::now() < deadline, "the connection did not come back");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(Stock::connect("http://nowhere", "").is_err());
}
