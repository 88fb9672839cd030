//! Generating coupons in a real Postgres.

mod support;

use std::collections::HashSet;

use couponry_domain::{CodeFormat, Coupon, Uuid};
use couponry_postgres::{Database, DatabaseError, NewEvent};
use futures::future::join_all;
use support::{FIVE_THOUSAND, Fixture, TEN_PERCENT, batch, new_event};

async fn all_coupons(database: &Database, uid: Uuid) -> Vec<Coupon> {
    let mut all = Vec::new();
    loop {
        let page = database.coupons(uid, all.len() as u64, 7000).await.unwrap();
        if page.is_empty() {
            return all;
        }
        all.extend(page);
    }
}

#[tokio::test]
async fn migrate_called_concurrently_and_again_succeeds() {
    let server = couponry_testbed::Database::create().unwrap();
    let clients: Vec<_> = (0..4).map(|_| Database::connect(&server.url()).unwrap()).collect();
    assert!(!clients[0].is_migrated().await.unwrap());
    for migrated in join_all(clients.iter().map(Database::migrate)).await {
        migrated.unwrap();
    }
    clients[0].migrate().await.unwrap();
    assert!(clients[0].is_migrated().await.unwrap());
    assert_eq!(server.sql("SELECT count(*) FROM coupon_event").unwrap(), "0");
}

#[tokio::test]
async fn register_again_keeps_seed_and_keeps_format_once_coupons_exist() {
    let fixture = Fixture::new().await;
    let first = fixture.event(1).await;
    assert_eq!((first.discount_counts.as_slice(), first.opens_at), (&[][..], None));

    let other = CodeFormat { prefix: None, length: 10 };
    let renamed = fixture
        .database
        .register(&NewEvent { format: other.clone(), policy_name: "Autumn".into(), ..new_event(1) })
        .await;
    let renamed = renamed.unwrap();
    assert_eq!((renamed.seed, &renamed.format, renamed.policy_name.as_str()), (first.seed, &other, "Autumn"));

    fixture.database.generate_coupons(&first, &batch(0, 1, 1), |_| {}).await.unwrap();
    let generated = fixture.database.register(&new_event(1)).await.unwrap();
    assert_eq!((generated.seed, generated.format), (first.seed, other));
    assert_eq!(generated.discount_counts, [(TEN_PERCENT, 1), (FIVE_THOUSAND, 1)]);
    assert_ne!(fixture.event(2).await.seed, first.seed);
    assert_eq!(fixture.database.event(Uuid::from_u128(9)).await.unwrap(), None);

    let bad = CodeFormat { prefix: Some("A\tB".into()), length: 12 };
    let error = fixture.database.register(&NewEvent { format: bad, ..new_event(3) }).await.unwrap_err();
    assert!(matches!(error, DatabaseError::InvalidCodeFormat(_)), "{error}");
}

#[tokio::test]
async fn generated_coupons_equal_the_batch() {
    let fixture = Fixture::new().await;
    let event = fixture.event(1).await;
    let coupon_batch = batch(0, 14_000, 6_000);
    let mut progress = Vec::new();
    fixture.database.generate_coupons(&event, &coupon_batch, |sent| progress.push(sent)).await.unwrap();

    let coupons: Vec<_> = coupon_batch.coupons(event.seed, event.format).collect();
    assert_eq!(all_coupons(&fixture.database, event.uid).await, coupons);
    assert!(progress.len() > 5 && progress.is_sorted() && progress.last() == Some(&20_000), "{progress:?}");
    let stored = fixture.database.event(event.uid).await.unwrap().unwrap();
    assert_eq!(stored.discount_counts, [(TEN_PERCENT, 14_000), (FIVE_THOUSAND, 6_000)]);
    assert_eq!(stored.generated(), 20_000);
    assert_eq!(
        fixture.sql("SELECT type, value, count(*) FROM coupon GROUP BY 1, 2 ORDER BY 1"),
        "AMOUNT|5000|6000\nPERCENT|10|14000"
    );
    let update = format!("UPDATE coupon_{} SET value = 1 WHERE ordinal = 0", event.uid.simple());
    let updated = fixture.server.sql(&update).unwrap_err();
    assert!(format!("{updated:#}").contains("never updated"), "{updated:#}");
}

#[tokio::test]
async fn coupons_of_two_events_are_separate() {
    let fixture = Fixture::new().await;
    let (one, ones) = fixture.event_with_coupons(1, 10, 0).await;
    let (two, twos) = fixture.event_with_coupons(2, 0, 20).await;
    assert_eq!(all_coupons(&fixture.database, one.uid).await, ones);
    assert_eq!(all_coupons(&fixture.database, two.uid).await, twos);
}

#[tokio::test]
async fn top_up_adds_coupons_with_new_codes() {
    let fixture = Fixture::new().await;
    let (event, mut coupons) = fixture.event_with_coupons(1, 700, 300).await;
    fixture.database.schedule_opening(&event, 1, None, true).await.unwrap();
    let more = batch(1000, 70, 30);
    fixture.database.generate_coupons(&event, &more, |_| {}).await.unwrap();
    coupons.extend(more.coupons(event.seed, event.format.clone()));
    assert_eq!(all_coupons(&fixture.database, event.uid).await, coupons);
    assert_eq!(coupons.iter().map(|c| &c.code).collect::<HashSet<_>>().len(), 1100);
    let stored = fixture.database.event(event.uid).await.unwrap().unwrap();
    assert_eq!(stored.discount_counts, [(TEN_PERCENT, 770), (FIVE_THOUSAND, 330)]);

    // The stock has changed since, so neither batch continues it.
    for (coupon_batch, expected) in [(more, 1000), (batch(0, 700, 300), 0)] {
        match fixture.database.generate_coupons(&event, &coupon_batch, |_| {}).await.unwrap_err() {
            DatabaseError::StockChanged { expected: e, found: 1100 } => assert_eq!(e, expected),
            other => panic!("{other}"),
        }
    }
    assert_eq!(fixture.sql("SELECT count(*) FROM coupon"), "1100");
}

#[tokio::test]
async fn generate_called_concurrently_succeeds_once() {
    let fixture = Fixture::new().await;
    let event = fixture.event(1).await;
    let coupon_batch = batch(0, 3_000, 2_000);
    let others: Vec<_> = (0..4).map(|_| Database::connect(&fixture.server.url()).unwrap()).collect();
    let results =
        join_all(others.iter().map(|database| database.generate_coupons(&event, &coupon_batch, |_| {}))).await;
    let succeeded = results.iter().filter(|result| result.is_ok()).count();
    let is_late =
        |result: &&Result<(), _>| matches!(result, Err(DatabaseError::StockChanged { expected: 0, found: 5_000 }));
    assert_eq!((succeeded, results.iter().filter(is_late).count()), (1, 3), "{results:?}");
    assert_eq!(
        all_coupons(&fixture.database, event.uid).await,
        coupon_batch.coupons(event.seed, event.format).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn generate_dropped_leaves_no_coupons_and_can_be_repeated() {
    let fixture = Fixture::new().await;
    let event = fixture.event(1).await;
    let coupon_batch = batch(0, 30_000, 20_000);
    for stop_at in [1, 20_000, 50_000] {
        let (reached, mut wait) = tokio::sync::mpsc::unbounded_channel();
        let preload = fixture.database.generate_coupons(&event, &coupon_batch, |sent| {
            if sent >= stop_at {
                let _ = reached.send(());
            }
        });
        tokio::select! {
            biased;
            Some(()) = wait.recv() => {}
            result = preload => panic!("completed before it was dropped: {result:?}"),
        }
        assert_eq!(fixture.database.event(event.uid).await.unwrap().unwrap().discount_counts, []);
        assert_eq!(fixture.sql("SELECT count(*) FROM coupon"), "0");
    }
    fixture.database.generate_coupons(&event, &coupon_batch, |_| {}).await.unwrap();
    assert_eq!(
        all_coupons(&fixture.database, event.uid).await,
        coupon_batch.coupons(event.seed, event.format).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn generate_with_killed_backend_leaves_no_coupons_and_can_be_repeated() {
    let fixture = Fixture::new().await;
    let event = fixture.event(1).await;
    let coupon_batch = batch(0, 60_000, 40_000);
    for stop_at in [1, 90_000] {
        let mut killed = false;
        let preload = fixture.database.generate_coupons(&event, &coupon_batch, |sent| {
            if sent >= stop_at && !killed {
                killed = true;
                fixture.sql(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                     WHERE datname = current_database() AND query LIKE 'COPY %'",
                );
            }
        });
        let error = preload.await.unwrap_err();
        assert!(error.is_transient(), "{error:?}");
        assert_eq!(fixture.sql("SELECT count(*) FROM coupon"), "0");
        assert_eq!(fixture.sql("SELECT count(*) FROM pg_class WHERE relname LIKE 'coupon\\_0%'"), "0");
    }
    fixture.database.generate_coupons(&event, &coupon_batch, |_| {}).await.unwrap();
    assert_eq!(fixture.sql("SELECT count(*), count(DISTINCT code) FROM coupon"), "100000|100000");
}

#[tokio::test]
async fn discard_stock_before_opening_succeeds_and_after_it_returns_error() {
    let fixture = Fixture::new().await;
    let (event, old) = fixture.event_with_coupons(1, 50, 50).await;
    fixture.database.discard_stock(&event).await.unwrap();
    fixture.database.discard_stock(&event).await.unwrap();
    assert_eq!(all_coupons(&fixture.database, event.uid).await, []);
    let format = CodeFormat { prefix: Some("FALL".into()), length: 10 };
    let event = fixture.database.register(&NewEvent { format, ..new_event(1) }).await.unwrap();
    assert_eq!(event.discount_counts, []);
    fixture.database.generate_coupons(&event, &batch(0, 10, 0), |_| {}).await.unwrap();
    let new = all_coupons(&fixture.database, event.uid).await;
    assert!(new.len() == 10 && new.iter().all(|c| c.code.as_str().starts_with("FALL-")), "{new:?}");
    assert!(old.iter().all(|c| c.code.as_str().starts_with("SUMMER-")));

    fixture.database.schedule_opening(&event, 1, None, true).await.unwrap();
    let opens_at = fixture.database.event(event.uid).await.unwrap().unwrap().opens_at;
    assert!(opens_at.is_some());
    fixture.database.schedule_opening(&event, 2, None, true).await.unwrap();
    assert_eq!(fixture.database.event(event.uid).await.unwrap().unwrap().opens_at, opens_at);
    let error = fixture.database.discard_stock(&event).await.unwrap_err();
    assert!(matches!(error, DatabaseError::HasOpening(_)), "{error}");
    assert_eq!(all_coupons(&fixture.database, event.uid).await, new);
}

#[tokio::test]
async fn operations_for_unregistered_event_return_errors() {
    let fixture = Fixture::new().await;
    let event = fixture.event(7).await;
    let uid = event.uid;
    fixture.database.delete_event(uid, &event.name).await.unwrap();
    let unknown = |error| matches!(error, DatabaseError::UnknownEvent { uid: u, .. } if u == uid);
    assert!(unknown(fixture.database.generate_coupons(&event, &batch(0, 1, 1), |_| {}).await.unwrap_err()));
    assert!(unknown(fixture.database.discard_stock(&event).await.unwrap_err()));
    let error = fixture.database.schedule_opening(&event, 1, None, true).await.unwrap_err();
    assert!(matches!(error, DatabaseError::EventChanged(u) if u == uid), "{error}");
    fixture.database.delete_event(uid, &event.name).await.unwrap();
    assert_eq!(fixture.database.coupons(uid, 0, 10).await.unwrap(), []);
}

#[tokio::test]
async fn unreachable_postgres_is_transient_and_missing_table_is_not() {
    let unreachable = Database::connect("postgres://postgres@127.0.0.1:1/postgres").unwrap();
    let error = unreachable.ping().await.unwrap_err();
    assert!(error.is_transient() && !error.is_invalid_data(), "{error:?}");
    assert_eq!(error.to_string(), "cannot reach Postgres");
    assert!(matches!(Database::connect("nonsense"), Err(DatabaseError::Url(_))));

    let server = couponry_testbed::Database::create().unwrap();
    let empty = Database::connect(&server.url()).unwrap();
    empty.ping().await.unwrap();
    let error = empty.event(Uuid::from_u128(1)).await.unwrap_err();
    assert!(!error.is_transient() && !error.is_invalid_data(), "{error:?}");
}

#[test]
fn futures_are_send() {
    fn assert_send<T: Send>(_: T) {}
    fn all(database: &Database, event: &couponry_postgres::StoredEvent, user: &couponry_domain::UserId) {
        let uid = Uuid::from_u128(1);
        assert_send(database.ping());
        assert_send(database.migrate());
        assert_send(database.is_migrated());
        assert_send(database.register(&new_event(1)));
        assert_send(database.event(uid));
        assert_send(database.generate_coupons(event, &batch(0, 1, 1), |_| {}));
        assert_send(database.discard_stock(event));
        assert_send(database.schedule_opening(event, 1, None, true));
        assert_send(database.coupons(uid, 0, 1));
        assert_send(database.record(&[]));
        assert_send(database.recorded_count(uid));
        assert_send(database.issuance_of(uid, user));
        assert_send(database.stream_issuances(uid));
        assert_send(database.delete_event(uid, &event.name));
    }
    let _ = all;
}
