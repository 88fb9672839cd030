//! What was issued and is not in Kafka yet.

use std::time::Duration;

use crate::support::{Event, users};
use domain::Uuid;

#[tokio::test]
async fn entries_stay_until_they_are_confirmed() {
    let event = Event::open(30).await;
    let mut entries = Vec::new();
    for i in 0..3 {
        let reply = event.stock.issue(&event.id, &users(i * 10..i * 10 + 10)).await.unwrap().unwrap();
        entries.push(reply.outbox.unwrap());
    }
    let left = async |after: Option<&str>, count| {
        event.stock.left_behind(&event.id, Duration::ZERO, after, count).await.unwrap()
    };
    assert_eq!(left(None, 10).await, entries);
    assert_eq!(left(None, 2).await, entries[..2]);
    assert_eq!(left(Some(&entries[1].id), 10).await, entries[2..]);
    let young = event.stock.left_behind(&event.id, Duration::from_mins(1), None, 10).await.unwrap();
    assert!(young.is_empty(), "not left behind yet");

    event.stock.confirm(&event.id, &[entries[1].id.clone(), entries[1].id.clone()]).await.unwrap();
    event.stock.confirm(&event.id, &[]).await.unwrap();
    assert_eq!(left(None, 10).await, [entries[0].clone(), entries[2].clone()]);
    assert_eq!(event.stock.observe(&event.id).await.unwrap().unwrap().outbox, 2);
}

#[tokio::test]
async fn one_issuer_at_a_time_sweeps_an_event() {
    let event = Event::open(1).await;
    let (one, two) = (Uuid::new_v4(), Uuid::new_v4());
    let lease = Duration::from_mins(1);
    assert!(event.stock.sweep_as(&event.id, one, lease).await.unwrap());
    assert!(event.stock.sweep_as(&event.id, one, lease).await.unwrap(), "keeps it");
    assert!(!event.stock.sweep_as(&event.id, two, lease).await.unwrap());
    assert!(event.stock.sweep_as(&event.id, one, Duration::from_millis(1)).await.unwrap());
    while !event.stock.sweep_as(&event.id, two, lease).await.unwrap() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
