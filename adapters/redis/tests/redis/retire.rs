//! Retiring events that have ended.

use couponry_domain::{Gate, Window};
use couponry_redis::{FencedWrite, IssueOutcome};

use crate::support::{Event, coupons, record_all, users};

impl Event {
    async fn retire(&self) -> FencedWrite<bool> {
        self.redis_store.retire(&self.id, self.uid, 0, 1).await.unwrap()
    }
}

const PAST: Window = Window { start: None, end: Some(1) };

#[tokio::test]
async fn retire_of_recorded_event_removes_coupons_and_keeps_counts() {
    let event = Event::open(5).await;
    event.redis_store.issue(&event.id, &users(0..3)).await.unwrap();
    assert_eq!(event.retire().await, FencedWrite::Applied(false), "the event is open");
    event.gate(Gate::Open, PAST, 5).await;
    assert_eq!(event.retire().await, FencedWrite::Applied(false), "the issued coupons are not recorded");
    record_all(&event.redis_store, &event.id, event.uid).await;
    assert_eq!(
        event.redis_store.retire(&event.id, event.uid, 0, 0).await.unwrap(),
        FencedWrite::Applied(false),
        "an older generation"
    );
    assert_eq!(event.redis_store.retire(&event.id, event.uid, 1, 1).await.unwrap(), FencedWrite::Stale);
    let before = event.redis_store.observe(&event.id).await.unwrap().unwrap();

    assert_eq!(event.retire().await, FencedWrite::Applied(true));
    assert_eq!(event.retire().await, FencedWrite::Applied(true), "again");
    let after = event.redis_store.observe(&event.id).await.unwrap().unwrap();
    assert_eq!((after.gate, after.retired), (Gate::Closed, Some(Gate::Open)));
    let counts = |observed: &couponry_redis::RedisEvent| {
        (observed.loaded, observed.available, observed.issued, observed.marked_recorded, observed.withheld)
    };
    assert_eq!(counts(&after), counts(&before));
    assert_eq!(event.redis_store.scan_issued(&event.id).await.unwrap().len(), 0);
    assert_eq!(event.redis_store.scan_queue(&event.id).await.unwrap().len(), 0);

    let reply = event.redis_store.issue(&event.id, &users(2..5)).await.unwrap().unwrap();
    assert!(reply.outcomes.iter().all(|outcome| *outcome == IssueOutcome::Ended), "{:?}", reply.outcomes);
    let lookup = event.redis_store.lookup(&event.id, &users(0..1)[0]).await.unwrap().unwrap();
    assert!(lookup.is_retired && lookup.entry.is_none());
    let late = event.redis_store.load(&event.id, event.uid, 0, &coupons(5, 2)).await.unwrap();
    assert_eq!(late, FencedWrite::Stale, "nothing can be loaded");
    assert_eq!(
        event.gate(Gate::Open, Window::default(), 5).await,
        FencedWrite::Applied(Gate::Closed),
        "the gate stays closed"
    );
    assert!(event.redis_store.remove(&event.id, event.uid).await.unwrap());
}

#[tokio::test]
async fn event_without_end_can_be_retired_when_sold_out_or_closed() {
    for (gate, end, users_asking, has_ended) in [
        (Gate::Open, None, 3, true),
        (Gate::Open, None, 2, false),
        (Gate::Open, Some(i64::MAX / 1_000_000), 3, false),
        (Gate::Paused, None, 3, false),
        (Gate::Paused, Some(1), 2, true),
        (Gate::Closed, None, 2, true),
    ] {
        let event = Event::open(3).await;
        event.redis_store.issue(&event.id, &users(0..users_asking)).await.unwrap();
        record_all(&event.redis_store, &event.id, event.uid).await;
        event.gate(gate, Window { start: None, end }, 3).await;
        assert_eq!(event.retire().await, FencedWrite::Applied(has_ended), "{gate:?} {end:?} {users_asking}");
    }
}
