//! The outbox.

use std::time::Duration;

use crate::support::{Event, mark_verified, users};
use couponry_domain::Uuid;
use couponry_redis::{FencedWrite, OutboxEntry, RedisStore, UnconfirmedEntries, UndecodableValue};
use couponry_testbed::Redis;

#[tokio::test]
async fn entries_stay_in_outbox_until_confirmed() {
    let event = Event::open(30).await;
    let mut entries = Vec::new();
    for i in 0..3 {
        let reply = event.redis_store.issue(&event.id, &users(i * 10..i * 10 + 10)).await.unwrap().unwrap();
        entries.push(reply.outbox.unwrap());
    }
    let left = async |after: Option<&str>, count| {
        event.redis_store.list_unconfirmed(&event.id, Duration::ZERO, after, count).await.unwrap().entries
    };
    assert_eq!(left(None, 10).await, entries);
    assert_eq!(left(None, 2).await, entries[..2]);
    assert_eq!(left(Some(&entries[1].id.id), 10).await, entries[2..]);
    let young = event.redis_store.list_unconfirmed(&event.id, Duration::from_mins(1), None, 10).await.unwrap();
    assert_eq!(young, UnconfirmedEntries::default(), "no entry is a minute old");

    event.redis_store.delete_confirmed(&event.id, &[entries[1].id.clone(), entries[1].id.clone()]).await.unwrap();
    event.redis_store.delete_confirmed(&event.id, &[]).await.unwrap();
    assert_eq!(left(None, 10).await, [entries[0].clone(), entries[2].clone()]);
    assert_eq!(event.redis_store.observe(&event.id).await.unwrap().unwrap().outbox, 2);
}

#[tokio::test]
async fn sweeper_lease_has_one_holder() {
    let event = Event::open(1).await;
    let (one, two) = (Uuid::new_v4(), Uuid::new_v4());
    let lease = Duration::from_mins(1);
    assert!(event.redis_store.acquire_sweeper_lease(&event.id, one, lease).await.unwrap());
    assert!(event.redis_store.acquire_sweeper_lease(&event.id, one, lease).await.unwrap(), "renewed");
    assert!(!event.redis_store.acquire_sweeper_lease(&event.id, two, lease).await.unwrap());
    assert!(event.redis_store.acquire_sweeper_lease(&event.id, one, Duration::from_millis(1)).await.unwrap());
    while !event.redis_store.acquire_sweeper_lease(&event.id, two, lease).await.unwrap() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The holder may be dead, and the key expires an hour later than it should.
#[tokio::test]
async fn sweeper_lease_ends_when_the_clock_of_redis_is_set_back() {
    let (server, clock) = Redis::start_with_clock().unwrap();
    let redis_store = RedisStore::connect(&server.url(), "").unwrap();
    let event = "summer".parse().unwrap();
    let acquire =
        async |issuer| redis_store.acquire_sweeper_lease(&event, issuer, Duration::from_mins(1)).await.unwrap();
    let (one, two) = (Uuid::new_v4(), Uuid::new_v4());
    assert!(acquire(one).await);
    assert!(!acquire(two).await);
    clock.set(-3_600_000).unwrap();
    assert!(acquire(two).await);
    assert!(!acquire(one).await);
}

/// Writes an entry to the outbox that no issuer would write.
fn write(event: &Event, id: &str, field: &str, value: &str) -> String {
    let mut admin = redis::Client::open(couponry_testbed::shared::redis()).unwrap().get_connection().unwrap();
    redis::cmd("XADD").arg(outbox(event)).arg(id).arg(field).arg(value).query(&mut admin).unwrap()
}

fn outbox(event: &Event) -> String {
    format!("test-{}-couponOutbox:{{{}}}", event.uid, event.id)
}

async fn issue(event: &Event, numbers: std::ops::Range<u64>) -> OutboxEntry {
    event.redis_store.issue(&event.id, &users(numbers)).await.unwrap().unwrap().outbox.unwrap()
}

#[tokio::test]
async fn undecodable_entries_do_not_hide_later_ones() {
    let event = Event::open(20).await;
    let first = issue(&event, 0..10).await;
    let undecodable = [
        write(&event, "*", "who", "knows"),
        write(&event, "*", "records", "[]"),
        write(&event, "*", "uid", &event.uid.to_string()),
    ];
    let last = issue(&event, 10..20).await;
    let left = async |after: Option<&str>, count| {
        event.redis_store.list_unconfirmed(&event.id, Duration::ZERO, after, count).await.unwrap()
    };
    let all = left(None, 10).await;
    assert_eq!((all.entries, &all.undecodable[..]), (vec![first.clone(), last.clone()], &undecodable[..]));
    assert_eq!(all.last.as_deref(), Some(&*last.id.id));

    // A page of only undecodable entries is not the last page.
    let bad = left(Some(&first.id.id), 2).await;
    assert_eq!((bad.entries, &bad.undecodable[..]), (vec![], &undecodable[..2]));
    let rest = left(bad.last.as_deref(), 2).await;
    assert_eq!((rest.entries, &rest.undecodable[..]), (vec![last.clone()], &undecodable[2..]));
    assert_eq!(left(rest.last.as_deref(), 2).await, UnconfirmedEntries::default());
    assert_eq!(event.redis_store.observe(&event.id).await.unwrap().unwrap().outbox, 5, "undecodable entries stay");
}

#[tokio::test]
async fn entries_with_future_ids_are_listed() {
    let event = Event::open(40).await;
    let old = issue(&event, 0..10).await;
    let year_2100 = write(&event, "4102444800000-0", "who", "knows");
    let mut admin = redis::Client::open(couponry_testbed::shared::redis()).unwrap().get_connection().unwrap();
    redis::cmd("XDEL").arg(outbox(&event)).arg(year_2100).exec(&mut admin).unwrap();
    let entries = [issue(&event, 10..20).await, issue(&event, 20..30).await, issue(&event, 30..40).await];
    assert!(entries[0].id.id.starts_with("4102444800000-"), "{:?}", entries[0].id);

    let left = async |age, after: Option<&str>, count| {
        event.redis_store.list_unconfirmed(&event.id, age, after, count).await.unwrap().entries
    };
    let (now, minute, century) = (Duration::ZERO, Duration::from_mins(1), Duration::from_hours(24 * 36525));
    assert_eq!(left(minute, None, 10).await, entries);
    assert_eq!(left(minute, None, 2).await, entries[..2]);
    assert_eq!(left(minute, Some(&entries[1].id.id), 2).await, entries[2..]);
    assert_eq!(left(century, None, 10).await, [], "not further in the future than this");
    assert_eq!(left(now, None, 2).await, [old.clone(), entries[0].clone()], "the oldest first");
    assert_eq!(left(now, Some(&old.id.id), 10).await, entries);
}

/// A Redis that has lost its data may assign the same ids again.
#[tokio::test]
async fn confirmation_of_earlier_incarnation_deletes_nothing() {
    let event = Event::open(20).await;
    let first = issue(&event, 0..10).await;
    let mut admin = redis::Client::open(couponry_testbed::shared::redis()).unwrap().get_connection().unwrap();
    let keys = ["Meta", "Queue", "Issued", "Outbox"].map(|kind| outbox(&event).replace("Outbox", kind));
    redis::cmd("DEL").arg(&keys).exec(&mut admin).unwrap();
    assert_eq!(event.redis_store.prepare(&event.id, event.uid, 0).await.unwrap(), FencedWrite::Applied(()));
    mark_verified(&event.redis_store, &event.id).await;
    write(&event, &first.id.id, "uid", "another entry");

    event.redis_store.delete_confirmed(&event.id, &[first.id]).await.unwrap();
    assert_eq!(event.redis_store.observe(&event.id).await.unwrap().unwrap().outbox, 1);
}

/// It issues nothing, and its recovery waits for an empty outbox.
#[tokio::test]
async fn outbox_of_unverified_redis_is_listed_at_any_age() {
    let event = Event::open(20).await;
    let entry = issue(&event, 0..10).await;
    let hour = Duration::from_hours(1);
    assert_eq!(event.redis_store.list_unconfirmed(&event.id, hour, None, 10).await.unwrap().entries, []);
    let mut admin = redis::Client::open(couponry_testbed::shared::redis()).unwrap().get_connection().unwrap();
    let meta = outbox(&event).replace("Outbox", "Meta");
    redis::cmd("HSET").arg(meta).arg("replicationId").arg("as before a restart").exec(&mut admin).unwrap();
    let left = event.redis_store.list_unconfirmed(&event.id, hour, None, 10).await.unwrap().entries;
    assert_eq!(left, [entry]);
    event.redis_store.delete_confirmed(&event.id, &[left[0].id.clone()]).await.unwrap();
    assert_eq!(event.redis_store.observe(&event.id).await.unwrap().unwrap().outbox, 0);
}

#[tokio::test]
async fn event_missing_in_set_of_events_is_listed_again() {
    let event = Event::open(1).await;
    let mut admin = redis::Client::open(couponry_testbed::shared::redis()).unwrap().get_connection().unwrap();
    redis::cmd("DEL").arg(format!("test-{}-couponEvents", event.uid)).exec(&mut admin).unwrap();
    assert_eq!(event.redis_store.events().await.unwrap(), []);
    assert!(event.redis_store.ensure_listed(&event.id).await.unwrap());
    assert!(!event.redis_store.ensure_listed(&event.id).await.unwrap());
    assert_eq!(event.redis_store.events().await.unwrap(), std::slice::from_ref(&event.id));
    assert!(event.redis_store.remove(&event.id, event.uid).await.unwrap());
    assert!(!event.redis_store.ensure_listed(&event.id).await.unwrap(), "the event does not exist");
    assert_eq!(event.redis_store.events().await.unwrap(), []);
}

#[tokio::test]
async fn undecodable_values_do_not_hide_others() {
    let event = Event::open(20).await;
    let key = |kind: &str| outbox(&event).replace("couponOutbox", kind);
    let mut admin = redis::Client::open(couponry_testbed::shared::redis()).unwrap().get_connection().unwrap();
    redis::cmd("LSET").arg(key("couponQueue")).arg(3).arg("what").exec(&mut admin).unwrap();
    redis::cmd("LSET").arg(key("couponQueue")).arg(15).arg("who").exec(&mut admin).unwrap();
    let issued = issue(&event, 0..10).await;
    assert_eq!((issued.records.len(), issued.undecodable), (9, 1));
    let listed = event.redis_store.list_unconfirmed(&event.id, Duration::ZERO, None, 10).await.unwrap();
    assert_eq!((listed.entries, listed.undecodable.len()), (vec![issued], 0));

    let page = event.redis_store.issued_page(&event.id, 0).await.unwrap();
    let user = users(3..4).remove(0);
    assert_eq!((page.entries.len(), page.undecodable.len(), page.next), (9, 1, None));
    assert_eq!(page.undecodable[0].user.as_deref(), Some(user.as_str()));
    assert!(page.undecodable[0].value.starts_with("what:"), "{:?}", page.undecodable);
    let entries = event.redis_store.issued_to(&event.id, &users(2..4)).await.unwrap();
    assert!(matches!(&entries[..], [Some(Ok(_)), Some(Err(_))]), "{entries:?}");
    let (mut available, mut undecodable) = (0, Vec::new());
    let visit = |item| match item {
        Ok(_) => available += 1,
        Err(UndecodableValue { user, value }) => undecodable.push((user, value)),
    };
    event.redis_store.each_available(&event.id, visit).await.unwrap();
    assert_eq!((available, undecodable), (9, vec![(None, "who".to_owned())]));
    for error in [
        event.redis_store.scan_issued(&event.id).await.unwrap_err(),
        event.redis_store.scan_queue(&event.id).await.unwrap_err(),
    ] {
        assert!(error.to_string().contains("Redis contains the invalid value"), "{error}");
    }
}
