//! Loading the stock, exactly once.

use crate::support::{Event, SOLD_OUT, chain, coupons, gate_settings, mark_verified, users};
use couponry_domain::{Gate, Uuid, Window};
use couponry_redis::{FencedWrite, GateSettings, RedisStore};
use futures::future;

#[tokio::test]
async fn repeated_chunk_is_loaded_once() {
    let event = Event::prepared().await;
    let chunks: Vec<_> = (0..10).map(|i| coupons(i * 100, 100)).collect();
    let load = |i: usize| event.redis_store.load(&event.id, event.uid, 0, &chunks[i]);
    assert_eq!(load(0).await.unwrap(), FencedWrite::Applied(100));
    assert_eq!(load(0).await.unwrap(), FencedWrite::Applied(100), "again");
    assert_eq!(load(5).await.unwrap(), FencedWrite::Applied(100), "not the next chunk");
    // Two operators load at the same time.
    let both = future::join_all((0..20).map(|i| load(i / 2))).await;
    assert!(both.into_iter().all(|loaded| matches!(loaded.unwrap(), FencedWrite::Applied(_))));
    for i in 0..10 {
        load(i).await.unwrap();
    }
    let queue = event.redis_store.scan_queue(&event.id).await.unwrap();
    let expected: Vec<_> = chunks.iter().flatten().map(|c| (c.code.clone(), c.discount)).collect();
    assert_eq!(queue, expected);
}

#[tokio::test]
async fn gate_with_incomplete_stock_stays_loading() {
    let event = Event::prepared().await;
    event.load(0, 99).await;
    let open = gate_settings(Gate::Open, Window::default(), 100);
    let error = event.redis_store.set_gate(&event.id, event.uid, &open).await.unwrap_err();
    let error = chain(&error);
    assert!(error.contains("loaded 99, counted 99, expected 100"), "{error}");
    event.load(99, 1).await;
    assert_eq!(
        event.redis_store.set_gate(&event.id, event.uid, &open).await.unwrap(),
        FencedWrite::Applied(Gate::Open)
    );

    let observed = event.redis_store.observe(&event.id).await.unwrap().unwrap();
    assert_eq!((observed.gate, observed.loaded, observed.available, observed.generation), (Gate::Open, 100, 100, 1));
}

#[tokio::test]
async fn gate_with_missing_coupon_stays_loading() {
    let event = Event::prepared().await;
    event.load(0, 10).await;
    let mut admin = redis::Client::open(couponry_testbed::shared::redis()).unwrap().get_connection().unwrap();
    redis::cmd("LPOP").arg(format!("test-{}-couponQueue:{{summer}}", event.uid)).exec(&mut admin).unwrap();
    let open = gate_settings(Gate::Open, Window::default(), 10);
    let error = event.redis_store.set_gate(&event.id, event.uid, &open).await.unwrap_err();
    let error = chain(&error);
    assert!(error.contains("loaded 10, counted 9, expected 10"), "{error}");
}

/// The opening of an event may be withdrawn only if this Redis confirms that no coupon can have been issued.
#[tokio::test]
async fn reset_gate_succeeds_only_before_the_start_and_without_issued_coupons() {
    const LATER: i64 = 32_503_680_000_000;
    let scheduled = Window { start: Some(LATER), end: None };
    let reset = async |event: &Event, generation| {
        let observed = event.redis_store.observe(&event.id).await.unwrap().unwrap();
        event.redis_store.reset_gate(&event.id, &observed, generation).await.unwrap()
    };
    for (window, gate, expected) in [
        (scheduled, Gate::Open, FencedWrite::Applied(true)),
        (scheduled, Gate::Paused, FencedWrite::Applied(true)),
        // It may have been open before.
        (Window::default(), Gate::Paused, FencedWrite::Applied(false)),
        (Window::default(), Gate::Open, FencedWrite::Applied(false)),
        (Window { start: Some(1), end: None }, Gate::Open, FencedWrite::Applied(false)),
        (scheduled, Gate::Closed, FencedWrite::Applied(false)),
    ] {
        let event = Event::prepared().await;
        event.load(0, 3).await;
        event.gate(gate, window, 3).await;
        assert_eq!(reset(&event, 0).await, FencedWrite::Stale, "an older generation");
        assert_eq!(reset(&event, 2).await, expected, "{gate:?} {window:?}");
        let observed = event.redis_store.observe(&event.id).await.unwrap().unwrap();
        if expected == FencedWrite::Applied(true) {
            assert_eq!((observed.gate, observed.window, observed.generation), (Gate::Loading, window, 2));
            event.gate(Gate::Open, window, 3).await;
            let delayed = event.redis_store.observe(&event.id).await.unwrap().unwrap();
            assert_eq!(delayed.gate, Gate::Loading, "a delayed call for the older manifest has no effect");
            assert_eq!(reset(&event, 2).await, expected, "again");
        } else {
            assert_eq!((observed.gate, observed.generation), (gate, 1));
        }
    }
    let event = Event::open(3).await;
    event.redis_store.issue(&event.id, &users(0..1)).await.unwrap();
    event.gate(Gate::Paused, scheduled, 3).await;
    assert_eq!(reset(&event, 2).await, FencedWrite::Applied(false), "a coupon is issued");
    let observed = event.redis_store.observe(&event.id).await.unwrap().unwrap();
    let other = couponry_redis::RedisEvent { uid: Uuid::new_v4(), ..observed };
    assert_eq!(event.redis_store.reset_gate(&event.id, &other, 2).await.unwrap(), FencedWrite::Stale);
}

#[tokio::test]
async fn top_up_of_open_event_appends_to_queue() {
    let event = Event::open(3).await;
    event.redis_store.issue(&event.id, &users(0..3)).await.unwrap();
    event.load(3, 2).await;
    let reply = event.redis_store.issue(&event.id, &users(3..6)).await.unwrap().unwrap();
    assert_eq!(reply.outbox.unwrap().records.len(), 2);
    assert_eq!(reply.outcomes[2], SOLD_OUT);
}

#[tokio::test]
async fn event_with_used_name_is_stale() {
    let event = Event::open(5).await;
    let Event { redis_store, id, uid } = &event;
    let other = Uuid::new_v4();
    assert_eq!(redis_store.prepare(id, *uid, 0).await.unwrap(), FencedWrite::Applied(()), "again");
    assert_eq!(redis_store.prepare(id, other, 0).await.unwrap(), FencedWrite::Stale);
    assert_eq!(redis_store.load(id, other, 0, &coupons(5, 1)).await.unwrap(), FencedWrite::Stale);
    let closed = gate_settings(Gate::Closed, Window::default(), 5);
    assert_eq!(redis_store.set_gate(id, other, &closed).await.unwrap(), FencedWrite::Stale);
    assert_eq!(
        redis_store.settle(id, other, &[]).await.unwrap(),
        FencedWrite::Applied(couponry_redis::Settled::default()),
        "no settlements"
    );
    assert!(!redis_store.remove(id, other).await.unwrap());
    assert_eq!(redis_store.events().await.unwrap(), std::slice::from_ref(id));

    assert!(redis_store.remove(id, *uid).await.unwrap());
    assert!(!redis_store.remove(id, *uid).await.unwrap(), "again");
    assert!(redis_store.observe(id).await.unwrap().is_none());
    assert!(redis_store.events().await.unwrap().is_empty());
    assert_eq!(redis_store.prepare(id, other, 0).await.unwrap(), FencedWrite::Applied(()));
}

/// Late calls of an operator, after another one has discarded the stock and generated it again.
#[tokio::test]
async fn write_with_old_stock_epoch_is_stale() {
    let event = Event::prepared().await;
    event.load(0, 5).await;
    let Event { redis_store, id, uid } = &event;
    assert!(redis_store.remove_stock_epoch(id, *uid, 0).await.unwrap());
    assert_eq!(redis_store.prepare(id, *uid, 1).await.unwrap(), FencedWrite::Applied(()));
    mark_verified(redis_store, id).await;

    assert_eq!(redis_store.prepare(id, *uid, 0).await.unwrap(), FencedWrite::Stale);
    assert_eq!(redis_store.load(id, *uid, 0, &coupons(0, 5)).await.unwrap(), FencedWrite::Stale);
    assert_eq!(redis_store.load(id, *uid, 1, &coupons(0, 3)).await.unwrap(), FencedWrite::Applied(3));
    let old = gate_settings(Gate::Open, Window::default(), 3);
    assert_eq!(redis_store.set_gate(id, *uid, &old).await.unwrap(), FencedWrite::Stale);
    assert!(!redis_store.remove_stock_epoch(id, *uid, 0).await.unwrap());
    let observed = redis_store.observe(id).await.unwrap().unwrap();
    assert_eq!((observed.stock_epoch, observed.gate, observed.available), (1, Gate::Loading, 3));
    let own = GateSettings { stock_epoch: 1, ..old };
    assert_eq!(redis_store.set_gate(id, *uid, &own).await.unwrap(), FencedWrite::Applied(Gate::Open));
}

#[tokio::test]
async fn gate_with_older_generation_has_no_effect_unless_it_closes() {
    let event = Event::open(5).await;
    let set = async |gate, generation| {
        let settings = GateSettings { generation, ..gate_settings(gate, Window::default(), 5) };
        event.redis_store.set_gate(&event.id, event.uid, &settings).await.unwrap()
    };
    assert_eq!(set(Gate::Paused, 3).await, FencedWrite::Applied(Gate::Paused));
    assert_eq!(set(Gate::Open, 2).await, FencedWrite::Applied(Gate::Paused), "an older generation");
    assert_eq!(event.redis_store.observe(&event.id).await.unwrap().unwrap().generation, 3);
    assert_eq!(set(Gate::Open, 3).await, FencedWrite::Applied(Gate::Open));
    assert_eq!(set(Gate::Closed, 1).await, FencedWrite::Applied(Gate::Closed));
}

/// Issuers sweep only the events of the set.
#[tokio::test]
async fn event_is_listed_before_gate_opens() {
    let event = Event::prepared().await;
    event.load(0, 1).await;
    let mut admin = redis::Client::open(couponry_testbed::shared::redis()).unwrap().get_connection().unwrap();
    // As after a crash, or a late removal by another operator.
    redis::cmd("DEL").arg(format!("test-{}-couponEvents", event.uid)).exec(&mut admin).unwrap();
    event.gate(Gate::Open, Window::default(), 1).await;
    assert_eq!(event.redis_store.events().await.unwrap(), std::slice::from_ref(&event.id));
}

#[tokio::test]
async fn prepare_with_leftover_keys_fails() {
    let event = Event::open(5).await;
    let mut admin = redis::Client::open(couponry_testbed::shared::redis()).unwrap().get_connection().unwrap();
    redis::cmd("DEL").arg(format!("test-{}-couponMeta:{{summer}}", event.uid)).exec(&mut admin).unwrap();
    let error = chain(&event.redis_store.prepare(&event.id, event.uid, 0).await.unwrap_err());
    assert!(error.contains("couponMeta is missing"), "{error}");
}

#[tokio::test]
async fn ping_fails_while_redis_is_down_and_recovers() {
    let server = couponry_testbed::Redis::start().unwrap();
    let redis_store = RedisStore::connect(&server.url(), "").unwrap();
    redis_store.ping().await.unwrap();
    server.kill9().unwrap();
    assert!(redis_store.ping().await.is_err());
    server.restart().unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while redis_store.ping().await.is_err() {
        assert!(std::time::Instant::now() < deadline, "the connection was not restored");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(RedisStore::connect("http://nowhere", "").is_err());
}
