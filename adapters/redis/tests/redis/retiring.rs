//! Coupons that leave Redis when their event is over.

use couponry_domain::{Gate, Window};
use couponry_redis::{Loaded, Outcome};

use crate::support::{Event, coupons, record_all, users};

impl Event {
    async fn retire(&self) -> Loaded<bool> {
        self.stock.retire(&self.id, self.uid, 0, 1).await.unwrap()
    }
}

const PAST: Window = Window { start: None, end: Some(1) };

#[tokio::test]
async fn what_is_over_and_recorded_leaves_and_its_counts_stay() {
    let event = Event::open(5).await;
    event.stock.issue(&event.id, &users(0..3)).await.unwrap();
    assert_eq!(event.retire().await, Loaded::Here(false), "it is open");
    event.gate(Gate::Open, PAST, 5).await;
    assert_eq!(event.retire().await, Loaded::Here(false), "nothing is recorded");
    record_all(&event.stock, &event.id, event.uid).await;
    assert_eq!(event.stock.retire(&event.id, event.uid, 0, 0).await.unwrap(), Loaded::Here(false), "an old manifest");
    assert_eq!(event.stock.retire(&event.id, event.uid, 1, 1).await.unwrap(), Loaded::OtherEvent);
    let before = event.stock.observe(&event.id).await.unwrap().unwrap();

    assert_eq!(event.retire().await, Loaded::Here(true));
    assert_eq!(event.retire().await, Loaded::Here(true), "again");
    let after = event.stock.observe(&event.id).await.unwrap().unwrap();
    assert_eq!((after.gate, after.retired), (Gate::Closed, Some(Gate::Open)));
    let counts = |seen: &couponry_redis::Observed| (seen.loaded, seen.available, seen.issued, seen.completed, seen.voided);
    assert_eq!(counts(&after), counts(&before));
    assert_eq!(event.stock.scan_issued(&event.id).await.unwrap().len(), 0);
    assert_eq!(event.stock.scan_queue(&event.id).await.unwrap().len(), 0);

    let reply = event.stock.issue(&event.id, &users(2..5)).await.unwrap().unwrap();
    assert!(reply.outcomes.iter().all(|told| *told == Outcome::Ended), "{:?}", reply.outcomes);
    let lookup = event.stock.lookup(&event.id, &users(0..1)[0]).await.unwrap().unwrap();
    assert!(lookup.is_retired && lookup.holding.is_none());
    let late = event.stock.load(&event.id, event.uid, 0, &coupons(5, 2)).await.unwrap();
    assert_eq!(late, Loaded::OtherEvent, "no coupon comes in any more");
    assert_eq!(event.gate(Gate::Open, Window::default(), 5).await, Loaded::Here(Gate::Closed), "for good");
    assert!(event.stock.remove(&event.id, event.uid).await.unwrap());
}

#[tokio::test]
async fn an_event_without_an_end_is_over_when_it_is_sold_out_or_closed() {
    for (gate, end, asked, over) in [
        (Gate::Open, None, 3, true),
        (Gate::Open, None, 2, false),
        (Gate::Open, Some(i64::MAX / 1_000_000), 3, false),
        (Gate::Paused, None, 3, false),
        (Gate::Paused, Some(1), 2, true),
        (Gate::Closed, None, 2, true),
    ] {
        let event = Event::open(3).await;
        event.stock.issue(&event.id, &users(0..asked)).await.unwrap();
        record_all(&event.stock, &event.id, event.uid).await;
        event.gate(gate, Window { start: None, end }, 3).await;
        assert_eq!(event.retire().await, Loaded::Here(over), "{gate:?} {end:?} {asked}");
    }
}
