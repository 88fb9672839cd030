//! Reserving, redeeming and releasing coupons in a real Postgres.

mod support;

use std::{collections::HashSet, time::Duration};

use couponry_domain::{
    Coupon, DiscountConditions, IssuedCoupon, Uuid,
    redemption::{Change, CouponHistory, CouponState, CouponUse, Order, RedeemableCoupon, Refusal, UseKind},
};
use couponry_postgres::{
    CouponLookup, Database, FoundEvent, RecordOutcome, SendOutcome, StoredEvent, UseCounts, UseOutcome, UseRequest,
    VoidOutcome,
};
use futures::{TryStreamExt as _, future::join_all};
use sqlx::{Connection as _, PgConnection};
use support::{Fixture, new_event, record};

const MINUTE: Change = Change::Reserve { seconds: 60 };

/// A request of the user u1.
fn request(event: &StoredEvent, coupon: &Coupon, change: Change, order: &str, id: &str) -> UseRequest {
    UseRequest {
        event: event.name.clone(),
        coupon: coupon.code.clone(),
        user: "u1".parse().unwrap(),
        order: Order { id: order.parse().unwrap(), amount: None },
        change,
        id: id.parse().unwrap(),
        hash: std::array::from_fn(|i| order.as_bytes().get(i).copied().unwrap_or_default()),
        actor: Some("shop".to_owned()),
    }
}

/// An event whose first coupon is issued to u1.
async fn issued_event(fixture: &Fixture, number: u128) -> (StoredEvent, Vec<Coupon>) {
    let (event, coupons) = fixture.event_with_coupons(number, 10, 0).await;
    let issued = [record(&event, "u1", &coupons[0])];
    assert_eq!(fixture.database.record(&issued).await.unwrap(), [RecordOutcome::Recorded]);
    (event, coupons)
}

fn changed(outcome: &UseOutcome) -> Option<&CouponUse> {
    match outcome {
        UseOutcome::Changed { entry, .. } => Some(entry),
        _ => None,
    }
}

async fn history(database: &Database, event: &StoredEvent, coupon: &Coupon) -> Vec<CouponUse> {
    let history = database.coupon_history(event.uid, &coupon.code).await.unwrap();
    history.into_iter().map(|(entry, _)| entry).collect()
}

/// Each entry must be the one that its request appends to the history before it.
fn assert_valid(issued: IssuedCoupon, entries: &[CouponUse]) {
    let user = issued.user_id.clone();
    let conditions = DiscountConditions::default();
    let coupon = RedeemableCoupon { issued, valid_until: None, conditions, currency: None };
    let mut before = CouponHistory { coupon, last: None };
    for entry in entries {
        let change = match entry.kind {
            UseKind::Reserved => MINUTE,
            UseKind::Redeemed => Change::Redeem,
            UseKind::Released => Change::Release,
            UseKind::Voided => panic!("{entries:?}"),
        };
        let decided = before.decide(change, &user, &Order { id: entry.order.clone().unwrap(), amount: None }, entry.at);
        assert_eq!(decided.as_ref(), Ok(entry), "{entries:?}");
        before.last = Some(entry.clone());
    }
}

#[tokio::test]
async fn repeated_request_returns_the_same_entry_also_after_later_changes() {
    let fixture = Fixture::new().await;
    let (event, coupons) = issued_event(&fixture, 1).await;
    let coupon = &coupons[0];
    let database = &fixture.database;
    let send =
        async |change, order, id| database.use_coupon(&request(&event, coupon, change, order, id)).await.unwrap();

    let reserved = send(MINUTE, "A", "1").await;
    let UseOutcome::Changed { coupon: redeemable, entry } = &reserved else { panic!("{reserved:?}") };
    assert_eq!(redeemable.issued, record(&event, "u1", coupon).issued);
    assert_eq!((entry.seq, entry.kind, entry.until), (1, UseKind::Reserved, Some(entry.at + 60_000)));
    assert_eq!(send(MINUTE, "A", "1").await, reserved);
    // Another request with the same key, also for another coupon.
    assert_eq!(send(MINUTE, "another", "1").await, UseOutcome::RequestIdReused);
    let other_coupon = request(&event, &coupons[1], MINUTE, "another", "1");
    assert_eq!(database.use_coupon(&other_coupon).await.unwrap(), UseOutcome::RequestIdReused);

    let until = entry.until.unwrap();
    assert_eq!(send(Change::Redeem, "B", "2").await, UseOutcome::Refused(Refusal::Reserved { until }));
    let released = send(Change::Release, "A", "3").await;
    assert_eq!(changed(&released).unwrap().kind, UseKind::Released);
    let redeemed = send(Change::Redeem, "B", "4").await;
    assert_eq!(changed(&redeemed).unwrap().seq, 3);
    for (change, order, id, outcome) in
        [(MINUTE, "A", "1", &reserved), (Change::Release, "A", "3", &released), (Change::Redeem, "B", "4", &redeemed)]
    {
        assert_eq!(send(change, order, id).await, *outcome);
    }
    assert_eq!(send(Change::Redeem, "B", "5").await, UseOutcome::Refused(Refusal::Redeemed { by_order: true }));
    // A refused request was not stored.
    assert_eq!(send(Change::Redeem, "B", "2").await, UseOutcome::Refused(Refusal::Redeemed { by_order: true }));

    let entries = history(database, &event, coupon).await;
    assert_eq!(entries.len(), 3);
    assert_valid(record(&event, "u1", coupon).issued, &entries);
    assert_eq!(fixture.sql("SELECT DISTINCT actor FROM coupon_use"), "shop");
    assert!(fixture.server.sql("UPDATE coupon_use SET order_ref = 'B'").is_err());
}

#[tokio::test]
async fn coupon_that_cannot_be_used_is_refused_with_the_reason() {
    let fixture = Fixture::new().await;
    let (event, coupons) = issued_event(&fixture, 1).await;
    let database = &fixture.database;
    let wrong_user =
        UseRequest { user: "u2".parse().unwrap(), ..request(&event, &coupons[0], Change::Redeem, "A", "1") };
    let found = FoundEvent { uid: event.uid, is_deleted: false };
    let unknown = Coupon { code: "SUMMER-AAAAAAAAAAAA".parse().unwrap(), ..coupons[0].clone() };
    let unknown_event = StoredEvent { name: "winter".parse().unwrap(), ..event.clone() };
    for (request, outcome) in [
        (wrong_user, UseOutcome::Refused(Refusal::WrongUser)),
        (request(&event, &coupons[0], Change::Release, "A", "2"), UseOutcome::Refused(Refusal::NotReserved)),
        (request(&event, &coupons[1], Change::Redeem, "A", "3"), UseOutcome::NotRecorded(found)),
        (request(&event, &unknown, Change::Redeem, "A", "4"), UseOutcome::NotRecorded(found)),
        (request(&unknown_event, &coupons[0], Change::Redeem, "A", "5"), UseOutcome::UnknownEvent),
    ] {
        assert_eq!(database.use_coupon(&request).await.unwrap(), outcome, "{request:?}");
    }
    fixture.sql(&format!(
        "INSERT INTO coupon_use (event_uid, code, seq, kind, reason, at)
         VALUES ('{}', '{}', 1, 'VOIDED', 'test', now())",
        event.uid, coupons[0].code
    ));
    let voided = database.use_coupon(&request(&event, &coupons[0], Change::Redeem, "A", "6")).await.unwrap();
    assert_eq!(voided, UseOutcome::Refused(Refusal::Voided));
    let lookup = database.find_coupon(&event.name, &coupons[0].code).await.unwrap();
    assert!(matches!(lookup, CouponLookup::Recorded(coupon) if coupon.state() == CouponState::Voided));
}

#[tokio::test]
async fn reservation_that_has_expired_by_the_clock_of_postgres_frees_the_coupon() {
    let fixture = Fixture::new().await;
    let (event, coupons) = issued_event(&fixture, 1).await;
    let insert = |seq: u32, until: &str| {
        fixture.sql(&format!(
            "INSERT INTO coupon_use (event_uid, code, seq, kind, order_ref, until, at)
             VALUES ('{}', '{}', {seq}, 'RESERVED', 'A', now() + '{until}', now())",
            event.uid, coupons[0].code
        ))
    };
    let database = &fixture.database;
    let state = async || match database.find_coupon(&event.name, &coupons[0].code).await.unwrap() {
        CouponLookup::Recorded(coupon) => coupon.state(),
        other => panic!("{other:?}"),
    };
    assert_eq!(state().await, CouponState::Issued);
    insert(1, "1 hour");
    assert!(matches!(state().await, CouponState::Reserved { .. }));
    let refused = database.use_coupon(&request(&event, &coupons[0], Change::Redeem, "B", "1")).await.unwrap();
    assert!(matches!(refused, UseOutcome::Refused(Refusal::Reserved { .. })), "{refused:?}");
    insert(2, "-1 millisecond");
    assert_eq!(state().await, CouponState::Issued);
    let redeemed = database.use_coupon(&request(&event, &coupons[0], Change::Redeem, "B", "1")).await.unwrap();
    assert_eq!(changed(&redeemed).unwrap().seq, 3);
    assert_eq!(state().await, CouponState::Redeemed);
}

#[tokio::test]
async fn parallel_redemptions_of_one_coupon_have_one_winner() {
    let fixture = Fixture::new().await;
    let (event, coupons) = issued_event(&fixture, 1).await;
    // Several redeemers.
    let databases: Vec<_> = (0..4).map(|_| Database::connect(&fixture.server.url()).unwrap()).collect();
    let requests: Vec<_> = (0..64)
        .map(|i| request(&event, &coupons[0], Change::Redeem, &format!("order-{i}"), &format!("request-{i}")))
        .collect();
    let outcomes = join_all(databases.iter().cycle().zip(&requests).map(|(database, r)| database.use_coupon(r))).await;
    let outcomes: Vec<_> = outcomes.into_iter().map(Result::unwrap).collect();
    assert_eq!(outcomes.iter().filter_map(changed).count(), 1, "{outcomes:?}");
    let other_order = UseOutcome::Refused(Refusal::Redeemed { by_order: false });
    let refused = outcomes.iter().filter(|outcome| **outcome == other_order).count();
    assert_eq!(refused, 63, "{outcomes:?}");
    assert_eq!(fixture.sql("SELECT count(*), count(*) FILTER (WHERE kind = 'REDEEMED') FROM coupon_use"), "1|1");
}

#[tokio::test]
async fn parallel_attempts_of_one_request_have_one_effect_and_the_same_outcome() {
    let fixture = Fixture::new().await;
    let (event, coupons) = issued_event(&fixture, 1).await;
    for (change, id) in [(MINUTE, "1"), (MINUTE, "2"), (Change::Redeem, "3")] {
        let sent = request(&event, &coupons[0], change, "A", id);
        let outcomes = join_all((0..64).map(|_| fixture.database.use_coupon(&sent))).await;
        let entries: Vec<_> = outcomes.iter().map(|outcome| changed(outcome.as_ref().unwrap()).unwrap()).collect();
        assert!(entries.iter().all(|entry| *entry == entries[0]), "{entries:?}");
    }
    let entries = history(&fixture.database, &event, &coupons[0]).await;
    assert_eq!(entries.len(), 3);
    assert_valid(record(&event, "u1", &coupons[0]).issued, &entries);
}

#[tokio::test]
async fn parallel_changes_of_different_orders_leave_a_valid_history() {
    let fixture = Fixture::new().await;
    let (event, coupons) = fixture.event_with_coupons(1, 30, 0).await;
    let databases: Vec<_> = (0..3).map(|_| Database::connect(&fixture.server.url()).unwrap()).collect();
    let mut redeemed = HashSet::new();
    for (i, coupon) in coupons.iter().enumerate() {
        let issued = record(&event, &format!("u{i}"), coupon);
        let user = issued.issued.user_id.clone();
        fixture.database.record(&[issued]).await.unwrap();
        let send = async |database: &Database, change, order: &str, id: String| {
            let request = UseRequest { user: user.clone(), ..request(&event, coupon, change, order, &id) };
            database.use_coupon(&request).await.unwrap()
        };
        send(&databases[0], MINUTE, "A", format!("{i}-first")).await;
        // A pays or gives up, while B and C try to take the coupon.
        let changes = [
            (Change::Redeem, "A"),
            (Change::Release, "A"),
            (MINUTE, "B"),
            (Change::Redeem, "B"),
            (Change::Redeem, "C"),
            (MINUTE, "A"),
        ];
        let requests = (0..24).map(|n| {
            let (change, order) = changes[(n + i) % changes.len()];
            send(&databases[n % 3], change, order, format!("{i}-{n}"))
        });
        let outcomes = join_all(requests).await;
        let entries = history(&fixture.database, &event, coupon).await;
        let mut decided: Vec<_> = outcomes.iter().filter_map(changed).cloned().collect();
        decided.sort_by_key(|entry| entry.seq);
        assert_eq!(decided, entries[1..], "every reported change is in the history, and no other");
        assert_valid(record(&event, user.as_str(), coupon).issued, &entries);
        if let Some(last) = entries.last().filter(|last| last.kind == UseKind::Redeemed) {
            redeemed.insert(last.order.clone());
        }
    }
    println!("redeemed by {redeemed:?}");
    assert!(!redeemed.is_empty());
}

#[tokio::test]
async fn name_means_the_event_that_has_issued_the_coupon_otherwise_the_latest_one() {
    let fixture = Fixture::new().await;
    let (old, coupons) = issued_event(&fixture, 1).await;
    let database = &fixture.database;
    let uid = async |coupon: &Coupon| match database.find_coupon(&old.name, &coupon.code).await.unwrap() {
        CouponLookup::Recorded(coupon) => Some((coupon.uid, true)),
        CouponLookup::NotRecorded(event) => Some((event.uid, false)),
        CouponLookup::UnknownEvent => None,
    };
    database.mark_resource_deleted(old.uid, &old.name).await.unwrap();
    assert_eq!(uid(&coupons[0]).await, Some((old.uid, true)));
    let not_recorded = database.find_coupon(&old.name, &coupons[1].code).await.unwrap();
    assert_eq!(not_recorded, CouponLookup::NotRecorded(FoundEvent { uid: old.uid, is_deleted: true }));
    let new = couponry_postgres::NewEvent { uid: Uuid::from_u128(2), ..new_event(1) };
    database.register(&new).await.unwrap();
    // Retries and further changes of a coupon of the old event do not end with its re-creation.
    assert_eq!(uid(&coupons[0]).await, Some((old.uid, true)));
    assert_eq!(uid(&coupons[1]).await, Some((new.uid, false)));
    let redeemed = database.use_coupon(&request(&old, &coupons[0], Change::Redeem, "A", "1")).await.unwrap();
    assert!(changed(&redeemed).is_some(), "{redeemed:?}");
    database.delete_event(old.uid, &old.name).await.unwrap();
    database.delete_event(new.uid, &old.name).await.unwrap();
    assert_eq!(uid(&coupons[0]).await, None);
}

/// Changes and the deletion of their event run at the same time. A use must not remain without its issuance.
#[tokio::test]
async fn deletion_of_an_event_deletes_its_uses_also_those_of_concurrent_requests() {
    let fixture = Fixture::new().await;
    let (event, coupons) = fixture.event_with_coupons(1, 200, 0).await;
    let records: Vec<_> =
        coupons.iter().map(|coupon| record(&event, &format!("u{}", coupon.ordinal), coupon)).collect();
    fixture.database.record(&records).await.unwrap();
    let (other, of_other) = issued_event(&fixture, 2).await;
    let kept = request(&other, &of_other[0], Change::Redeem, "A", "1");
    assert!(changed(&fixture.database.use_coupon(&kept).await.unwrap()).is_some());
    assert!(fixture.server.sql(&format!("DELETE FROM issuance WHERE event_uid = '{}'", other.uid)).is_ok());
    assert!(fixture.server.sql(&format!("DELETE FROM coupon_event WHERE uid = '{}'", other.uid)).is_err());

    let requests: Vec<_> = coupons
        .iter()
        .flat_map(|coupon| ["A", "B"].map(|order| (coupon, order)))
        .map(|(coupon, order)| UseRequest {
            user: format!("u{}", coupon.ordinal).parse().unwrap(),
            ..request(&event, coupon, MINUTE, order, &format!("{}-{order}", coupon.ordinal))
        })
        .collect();
    let changes = join_all(requests.iter().map(|request| fixture.database.use_coupon(request)));
    let deletion = async {
        // Some of the changes are committed by then.
        while fixture.sql("SELECT count(*) > 20 FROM coupon_use") == "f" {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        fixture.database.delete_event(event.uid, &event.name).await
    };
    let (outcomes, deleted) = tokio::join!(changes, deletion);
    deleted.unwrap();
    for outcome in outcomes {
        let outcome = outcome.unwrap();
        assert!(!matches!(outcome, UseOutcome::RequestIdReused), "{outcome:?}");
    }
    assert_eq!(fixture.sql("SELECT count(*), count(DISTINCT event_uid) FROM coupon_use"), "1|1");
}

/// A request has found the issuance, and is inserting its row when the deletion begins.
#[tokio::test]
async fn deletion_waits_for_a_use_that_is_being_inserted() {
    let fixture = Fixture::new().await;
    let (event, coupons) = issued_event(&fixture, 1).await;
    let held = fixture.server.hold(&format!(
        "INSERT INTO coupon_use (event_uid, code, seq, kind, reason, at)
         VALUES ('{}', '{}', 1, 'VOIDED', 'test', now())",
        event.uid, coupons[0].code
    ));
    let held = held.unwrap();
    let database = fixture.database.clone();
    let sent = request(&event, &coupons[0], Change::Redeem, "A", "1");
    let change = tokio::spawn(async move { database.use_coupon(&sent).await });
    while !are_waiting(&fixture, "1").await {}
    let (database, deleted) = (fixture.database.clone(), event.clone());
    let deletion = tokio::spawn(async move { database.delete_event(deleted.uid, &deleted.name).await });
    while !are_waiting(&fixture, "2").await && !deletion.is_finished() {}
    drop(held);
    assert!(changed(&change.await.unwrap().unwrap()).is_some());
    deletion.await.unwrap().unwrap();
    assert_eq!(fixture.sql("SELECT count(*) FROM coupon_use"), "0");
    assert_eq!(fixture.sql("SELECT count(*) FROM coupon_event"), "0");
}

/// Whether this many sessions wait for locks of others.
async fn are_waiting(fixture: &Fixture, count: &str) -> bool {
    tokio::time::sleep(Duration::from_millis(10)).await;
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                   AND wait_event_type = 'Lock'";
    fixture.sql(waiting) == count
}

/// Otherwise the deletion of the event would remove it before it is sent.
#[tokio::test]
async fn purge_waits_for_a_use_that_is_being_inserted() {
    let fixture = Fixture::new().await;
    let (event, coupons) = issued_event(&fixture, 1).await;
    let held = fixture.server.hold(&format!(
        "INSERT INTO coupon_use (event_uid, code, seq, kind, reason, at)
         VALUES ('{}', '{}', 1, 'VOIDED', 'test', now())",
        event.uid, coupons[0].code
    ));
    let held = held.unwrap();
    let (database, sent) = (fixture.database.clone(), request(&event, &coupons[0], Change::Redeem, "A", "1"));
    let change = tokio::spawn(async move { database.use_coupon(&sent).await });
    while !are_waiting(&fixture, "1").await {}
    let (database, purged) = (fixture.database.clone(), event.clone());
    let purge = tokio::spawn(async move { database.start_purge(purged.uid, &purged.name).await });
    while !are_waiting(&fixture, "2").await {
        assert!(!purge.is_finished(), "the purge has not waited for the use");
    }
    // Others do not delay it further.
    let late = request(&event, &coupons[0], Change::Redeem, "B", "2");
    assert_eq!(fixture.database.use_coupon(&late).await.unwrap(), UseOutcome::UnknownEvent);
    let voided = fixture.database.void_coupon(event.uid, &coupons[0].code, "admin", "test").await.unwrap();
    assert_eq!(voided, VoidOutcome::NotRecorded);
    drop(held);
    assert!(changed(&change.await.unwrap().unwrap()).is_some());
    assert!(purge.await.unwrap().unwrap());
    assert_eq!(fixture.database.unsent_uses(event.uid).await.unwrap(), 1);
}

/// The request has read the event before its purge has started.
#[tokio::test]
async fn use_of_an_event_whose_purge_has_started_meanwhile_is_refused() {
    let fixture = Fixture::new().await;
    let (event, coupons) = issued_event(&fixture, 1).await;
    let mut other = PgConnection::connect(&fixture.server.url()).await.unwrap();
    let mut purge = other.begin().await.unwrap();
    for statement in ["SELECT FROM coupon_event FOR UPDATE", "UPDATE coupon_event SET is_purging = true"] {
        sqlx::query(statement).execute(&mut *purge).await.unwrap();
    }
    let (database, sent) = (fixture.database.clone(), request(&event, &coupons[0], Change::Redeem, "A", "1"));
    let change = tokio::spawn(async move { database.use_coupon(&sent).await });
    while !are_waiting(&fixture, "1").await {
        assert!(!change.is_finished(), "the use has not waited for the purge");
    }
    purge.commit().await.unwrap();
    assert_eq!(change.await.unwrap().unwrap(), UseOutcome::UnknownEvent);
    assert_eq!(fixture.database.unsent_uses(event.uid).await.unwrap(), 0);
}

#[tokio::test]
async fn retry_during_the_purge_of_the_event_has_the_outcome_of_the_first_attempt() {
    let fixture = Fixture::new().await;
    let (event, coupons) = issued_event(&fixture, 1).await;
    let sent = request(&event, &coupons[0], Change::Redeem, "A", "1");
    let first = fixture.database.use_coupon(&sent).await.unwrap();
    assert!(changed(&first).is_some());
    assert!(fixture.database.start_purge(event.uid, &event.name).await.unwrap());
    let retried = fixture.database.use_coupon(&sent).await.unwrap();
    assert_eq!(changed(&retried), changed(&first));
    let other = request(&event, &coupons[0], Change::Redeem, "A", "2");
    assert_eq!(fixture.database.use_coupon(&other).await.unwrap(), UseOutcome::UnknownEvent);
}

/// Sends at most `max` uses. Returns the events of those that were sent.
async fn send(fixture: &Fixture, max: u32) -> (SendOutcome, Vec<Uuid>) {
    let mut sent = Vec::new();
    let outcome = fixture.database.send_uses(max, async |pending| {
        sent.extend(pending.records.into_iter().map(|record| record.event_uid));
        true
    });
    (outcome.await.unwrap(), sent)
}

/// A restore or a mistake has removed issuances. They are recorded again later.
#[tokio::test]
async fn use_whose_issuance_is_missing_waits_and_does_not_hold_others_back() {
    let fixture = Fixture::new().await;
    let (lost, of_lost) = issued_event(&fixture, 1).await;
    let (other, of_other) = issued_event(&fixture, 2).await;
    for (event, coupons) in [(&lost, &of_lost), (&other, &of_other)] {
        let redeemed = fixture.database.use_coupon(&request(event, &coupons[0], Change::Redeem, "A", "1")).await;
        assert!(changed(&redeemed.unwrap()).is_some());
    }
    let sent = async || send(&fixture, 10).await;
    fixture.sql(&format!("DELETE FROM issuance WHERE event_uid = '{}'", lost.uid));
    assert_eq!(sent().await, (SendOutcome::Sent, vec![other.uid]));
    assert_eq!(sent().await, (SendOutcome::NotSent, vec![]));
    let recorded = [record(&lost, "u1", &of_lost[0])];
    assert_eq!(fixture.database.record(&recorded).await.unwrap(), [RecordOutcome::Recorded]);
    assert_eq!(sent().await, (SendOutcome::Sent, vec![lost.uid]));
    assert_eq!(sent().await, (SendOutcome::Empty, vec![]));
}

#[tokio::test]
async fn uses_behind_many_whose_issuances_are_missing_are_sent() {
    let fixture = Fixture::new().await;
    let (lost, of_lost) = issued_event(&fixture, 1).await;
    let (other, of_other) = issued_event(&fixture, 2).await;
    for id in ["1", "2", "3"] {
        let reserved = fixture.database.use_coupon(&request(&lost, &of_lost[0], MINUTE, "A", id)).await;
        assert!(changed(&reserved.unwrap()).is_some());
    }
    let redeemed = fixture.database.use_coupon(&request(&other, &of_other[0], Change::Redeem, "A", "1")).await;
    assert!(changed(&redeemed.unwrap()).is_some());
    fixture.sql(&format!("DELETE FROM issuance WHERE event_uid = '{}'", lost.uid));
    let sent = async || send(&fixture, 1).await;
    assert_eq!(sent().await, (SendOutcome::Sent, vec![other.uid]));
    assert_eq!(sent().await, (SendOutcome::NotSent, vec![]));
    // They will not be recorded again.
    fixture.sql(&format!("UPDATE coupon_event SET is_purging = true WHERE uid = '{}'", lost.uid));
    for _ in 0..3 {
        assert_eq!(sent().await, (SendOutcome::Sent, vec![]));
    }
    assert_eq!(sent().await, (SendOutcome::Empty, vec![]));
}

/// A plan that was made for small tables is used again when they have grown.
#[tokio::test]
async fn uses_of_coupons_are_looked_up_by_indexes_also_in_small_tables() {
    let fixture = Fixture::new().await;
    let (event, coupons) = issued_event(&fixture, 1).await;
    let send = async |id: &str| {
        let sent = request(&event, &coupons[0], MINUTE, "A", id);
        assert!(changed(&fixture.database.use_coupon(&sent).await.unwrap()).is_some());
    };
    send("1").await;
    fixture.sql("ANALYZE");
    let scans =
        |kind: &str| fixture.sql(&format!("SELECT {kind} FROM pg_stat_user_tables WHERE relname = 'coupon_use'"));
    let (before, by_index) = (scans("seq_scan"), scans("idx_scan"));
    for i in 2..20 {
        send(&i.to_string()).await;
    }
    while scans("idx_scan") == by_index {
        tokio::time::sleep(Duration::from_millis(100)).await;
        // A session reports its scans at most once a second.
        send("2").await;
    }
    assert_eq!(scans("seq_scan"), before);
}

/// A plan for almost empty tables must not read a complete index when they have grown.
#[tokio::test]
async fn lookups_read_few_pages_after_the_tables_have_grown() {
    let fixture = Fixture::new().await;
    for table in ["issuance", "coupon_use"] {
        fixture.sql(&format!("ALTER TABLE {table} SET (autovacuum_enabled = off)"));
    }
    let (event, coupons) = issued_event(&fixture, 1).await;
    let send = async |id: u32| {
        let sent = request(&event, &coupons[0], MINUTE, "A", &id.to_string());
        assert!(changed(&fixture.database.use_coupon(&sent).await.unwrap()).is_some());
    };
    send(1).await;
    let uid = event.uid;
    fixture.sql(&format!(
        "INSERT INTO issuance (event_uid, user_id, code, type, value, issued_at)
         SELECT '{uid}', 'user-' || i, 'CODE-' || i, 'PERCENT', 10, now() FROM generate_series(1, 20000) AS i;
         INSERT INTO coupon_use (event_uid, code, seq, kind, order_ref, request_id, request_hash, at)
         SELECT '{uid}', 'CODE-' || i, 1, 'REDEEMED', 'A', 'request-' || i, '', now() FROM generate_series(1, 20000) AS i"
    ));
    let number = |column: &str, view: &str| {
        let sql = format!("SELECT sum({column}) FROM {view} WHERE relname IN ('issuance', 'coupon_use')");
        fixture.sql(&sql).parse::<u64>().unwrap()
    };
    let scans = || number("idx_scan", "pg_stat_user_tables");
    let pages = || number("idx_blks_hit + idx_blks_read", "pg_statio_user_tables");
    let (scans_before, pages_before) = (scans(), pages());
    // A session reports them at most once a second.
    for id in 2.. {
        send(id).await;
        if scans() > scans_before + 50 {
            break;
        }
    }
    let (scanned, read) = (scans() - scans_before, pages() - pages_before);
    assert!(read < scanned * 20, "{scanned} index scans have read {read} pages");
}

#[tokio::test]
async fn counts_are_those_of_current_reservations_and_redemptions() {
    let fixture = Fixture::new().await;
    let (event, coupons) = fixture.event_with_coupons(1, 10, 0).await;
    let database = &fixture.database;
    for (i, coupon) in coupons[..5].iter().enumerate() {
        database.record(&[record(&event, &format!("u{i}"), coupon)]).await.unwrap();
    }
    let send = async |i: usize, change, order| {
        let id = format!("{i}-{order}-{change:?}").replace(' ', "");
        let request = request(&event, &coupons[i], change, order, &id);
        let request = UseRequest { user: format!("u{i}").parse().unwrap(), ..request };
        assert!(changed(&database.use_coupon(&request).await.unwrap()).is_some(), "{request:?}");
    };
    assert_eq!(database.use_counts(event.uid).await.unwrap(), UseCounts::default());
    send(0, MINUTE, "A").await;
    send(0, MINUTE, "A").await;
    send(1, MINUTE, "A").await;
    send(1, Change::Redeem, "A").await;
    send(2, MINUTE, "A").await;
    send(2, Change::Release, "A").await;
    send(3, Change::Redeem, "A").await;
    fixture.sql(&format!(
        "INSERT INTO coupon_use (event_uid, code, seq, kind, order_ref, until, at)
         VALUES ('{}', '{}', 1, 'RESERVED', 'A', now() - interval '1 s', now() - interval '1 min')",
        event.uid, coupons[4].code
    ));
    assert_eq!(database.use_counts(event.uid).await.unwrap(), UseCounts { reserved: 1, redeemed: 2, voided: 0 });
    assert_eq!(database.use_counts(Uuid::from_u128(9)).await.unwrap(), UseCounts::default());
    let uses: Vec<_> = database.stream_uses(event.uid).try_collect().await.unwrap();
    assert_eq!(uses.len(), 7);
    assert!(uses.iter().all(|one| one.entry.order == Some("A".parse().unwrap())));
}

#[tokio::test]
async fn invalid_histories_are_found() {
    let fixture = Fixture::new().await;
    let (event, coupons) = fixture.event_with_coupons(1, 10, 0).await;
    let database = &fixture.database;
    for (i, coupon) in coupons[..5].iter().enumerate() {
        database.record(&[record(&event, &format!("u{i}"), coupon)]).await.unwrap();
    }
    let insert = |coupon: &Coupon, seq: u32, kind: &str, order: &str, second: u32| {
        let reason = if kind == "VOIDED" { "'fraud'" } else { "NULL" };
        let until = if kind == "RESERVED" { format!("to_timestamp({})", second + 60) } else { "NULL".to_owned() };
        fixture.sql(&format!(
            "INSERT INTO coupon_use (event_uid, code, seq, kind, order_ref, until, reason, at)
             VALUES ('{}', '{}', {seq}, '{kind}', '{order}', {until}, {reason}, to_timestamp({second}))",
            event.uid, coupon.code
        ));
    };
    // Valid: renewed, expired, taken by another order, released, voided while it is reserved.
    for (seq, (kind, order, second)) in [
        ("RESERVED", "A", 0),
        ("RESERVED", "A", 30),
        ("RESERVED", "B", 90),
        ("RELEASED", "B", 91),
        ("REDEEMED", "C", 92),
    ]
    .into_iter()
    .enumerate()
    {
        insert(&coupons[0], u32::try_from(seq).unwrap() + 1, kind, order, second);
    }
    insert(&coupons[1], 1, "RESERVED", "A", 0);
    insert(&coupons[1], 2, "VOIDED", "", 1);
    assert_eq!(database.invalid_uses(event.uid).await.unwrap(), []);
    // Redeemed by another order than the one that has reserved it; used after it was voided; the first entry is
    // missing; never issued.
    insert(&coupons[2], 1, "RESERVED", "A", 0);
    insert(&coupons[2], 2, "REDEEMED", "B", 59);
    insert(&coupons[1], 3, "REDEEMED", "A", 2);
    insert(&coupons[3], 2, "REDEEMED", "A", 0);
    insert(&coupons[5], 1, "REDEEMED", "A", 0);
    let mut expected =
        [(2, 2), (1, 3), (3, 2), (5, 1)].map(|(coupon, seq): (usize, u32)| (coupons[coupon].code.clone(), seq));
    expected.sort();
    assert_eq!(database.invalid_uses(event.uid).await.unwrap(), expected);
}

/// Otherwise a crash of Postgres would lose a redemption that was confirmed.
#[tokio::test]
async fn changes_are_durable_whatever_the_role_has_configured() {
    let fixture = Fixture::new().await;
    let (event, coupons) = issued_event(&fixture, 1).await;
    let url = fixture.server.url();
    let name = url.rsplit('/').next().unwrap();
    for (configured, expected) in [("off", "on"), ("local", "on"), ("remote_write", "remote_write")] {
        fixture.sql(&format!("ALTER DATABASE {name} SET synchronous_commit = {configured}"));
        fixture.sql(
            "CREATE OR REPLACE FUNCTION note_setting() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN NEW.actor = current_setting(''synchronous_commit''); RETURN NEW; END';
             CREATE OR REPLACE TRIGGER note_setting BEFORE INSERT ON coupon_use
             FOR EACH ROW EXECUTE FUNCTION note_setting()",
        );
        let database = Database::connect(&url).unwrap();
        let request = request(&event, &coupons[0], MINUTE, "A", configured);
        assert!(changed(&database.use_coupon(&request).await.unwrap()).is_some());
        let (_, actor) = database.coupon_history(event.uid, &coupons[0].code).await.unwrap().pop().unwrap();
        assert_eq!(actor.as_deref(), Some(expected), "{configured}");
    }
}
