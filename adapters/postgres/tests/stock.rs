//! Making the stock on a real Postgres.

mod support;

use std::collections::HashSet;

use couponry_domain::{CodeFormat, Coupon, Uuid};
use couponry_postgres::{Database, DatabaseError, NewEvent};
use futures::future::join_all;
use support::{Books, FIVE_THOUSAND, TEN_PERCENT, lot, new_event};

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
async fn migrating_at_once_and_again_is_safe() {
    let database = couponry_testbed::Database::create().unwrap();
    let ledgers: Vec<_> = (0..4).map(|_| Database::connect(&database.url()).unwrap()).collect();
    assert!(!ledgers[0].is_migrated().await.unwrap());
    for migrated in join_all(ledgers.iter().map(Database::migrate)).await {
        migrated.unwrap();
    }
    ledgers[0].migrate().await.unwrap();
    assert!(ledgers[0].is_migrated().await.unwrap());
    assert_eq!(database.sql("SELECT count(*) FROM coupon_event").unwrap(), "0");
}

#[tokio::test]
async fn an_event_keeps_its_seed_and_once_stocked_its_format() {
    let books = Books::open().await;
    let first = books.event(1).await;
    assert_eq!((first.stock.as_slice(), first.opened_at), (&[][..], None));

    let other = CodeFormat { prefix: None, length: 10 };
    let renamed =
        books.database.register(&NewEvent { format: other.clone(), policy_name: "Autumn".into(), ..new_event(1) }).await;
    let renamed = renamed.unwrap();
    assert_eq!((renamed.seed, &renamed.format, renamed.policy_name.as_str()), (first.seed, &other, "Autumn"));

    books.database.preload(&first, &lot(0, 1, 1), |_| {}).await.unwrap();
    let stocked = books.database.register(&new_event(1)).await.unwrap();
    assert_eq!((stocked.seed, stocked.format), (first.seed, other));
    assert_eq!(stocked.stock, [(TEN_PERCENT, 1), (FIVE_THOUSAND, 1)]);
    assert_ne!(books.event(2).await.seed, first.seed);
    assert_eq!(books.database.event(Uuid::from_u128(9)).await.unwrap(), None);

    let bad = CodeFormat { prefix: Some("A\tB".into()), length: 12 };
    let refused = books.database.register(&NewEvent { format: bad, ..new_event(3) }).await.unwrap_err();
    assert!(matches!(refused, DatabaseError::InvalidCodeFormat(_)), "{refused}");
}

#[tokio::test]
async fn the_stock_is_exactly_what_the_lot_says() {
    let books = Books::open().await;
    let event = books.event(1).await;
    let lot = lot(0, 14_000, 6_000);
    let mut progress = Vec::new();
    books.database.preload(&event, &lot, |made| progress.push(made)).await.unwrap();

    let coupons: Vec<_> = lot.coupons(event.seed, event.format).collect();
    assert_eq!(all_coupons(&books.database, event.uid).await, coupons);
    assert!(progress.len() > 5 && progress.is_sorted() && progress.last() == Some(&20_000), "{progress:?}");
    let stored = books.database.event(event.uid).await.unwrap().unwrap();
    assert_eq!(stored.stock, [(TEN_PERCENT, 14_000), (FIVE_THOUSAND, 6_000)]);
    assert_eq!(stored.stock_len(), 20_000);
    assert_eq!(
        books.sql("SELECT type, value, count(*) FROM coupon GROUP BY 1, 2 ORDER BY 1"),
        "AMOUNT|5000|6000\nPERCENT|10|14000"
    );
    assert_eq!(books.sql("SELECT count(*) FROM pg_constraint WHERE conname = 'one_event'"), "0");
    let updated = books.database.sql("UPDATE coupon SET value = 1 WHERE ordinal = 0").unwrap_err();
    assert!(format!("{updated:#}").contains("never updated"), "{updated:#}");
}

#[tokio::test]
async fn events_do_not_see_each_other() {
    let books = Books::open().await;
    let (one, ones) = books.stocked(1, 10, 0).await;
    let (two, twos) = books.stocked(2, 0, 20).await;
    assert_eq!(all_coupons(&books.database, one.uid).await, ones);
    assert_eq!(all_coupons(&books.database, two.uid).await, twos);
}

#[tokio::test]
async fn a_top_up_adds_and_repeats_no_code() {
    let books = Books::open().await;
    let (event, mut coupons) = books.stocked(1, 700, 300).await;
    books.database.schedule_opening(&event, 1).await.unwrap();
    let more = lot(1000, 70, 30);
    books.database.preload(&event, &more, |_| {}).await.unwrap();
    coupons.extend(more.coupons(event.seed, event.format.clone()));
    assert_eq!(all_coupons(&books.database, event.uid).await, coupons);
    assert_eq!(coupons.iter().map(|c| &c.code).collect::<HashSet<_>>().len(), 1100);
    let stored = books.database.event(event.uid).await.unwrap().unwrap();
    assert_eq!(stored.stock, [(TEN_PERCENT, 770), (FIVE_THOUSAND, 330)]);

    // Again, and from the beginning: the stock is another one by now.
    for (lot, expected) in [(more, 1000), (lot(0, 700, 300), 0)] {
        match books.database.preload(&event, &lot, |_| {}).await.unwrap_err() {
            DatabaseError::StockChanged { expected: e, found: 1100 } => assert_eq!(e, expected),
            other => panic!("{other}"),
        }
    }
    assert_eq!(books.sql("SELECT count(*) FROM coupon"), "1100");
}

#[tokio::test]
async fn operators_at_once_make_one_stock() {
    let books = Books::open().await;
    let event = books.event(1).await;
    let lot = lot(0, 3_000, 2_000);
    let others: Vec<_> = (0..4).map(|_| Database::connect(&books.database.url()).unwrap()).collect();
    let results = join_all(others.iter().map(|database| database.preload(&event, &lot, |_| {}))).await;
    let won = results.iter().filter(|result| result.is_ok()).count();
    let late = |result: &&Result<(), _>| matches!(result, Err(DatabaseError::StockChanged { expected: 0, found: 5_000 }));
    assert_eq!((won, results.iter().filter(late).count()), (1, 3), "{results:?}");
    assert_eq!(all_coupons(&books.database, event.uid).await, lot.coupons(event.seed, event.format).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_preload_that_is_dropped_leaves_nothing_and_can_be_done_again() {
    let books = Books::open().await;
    let event = books.event(1).await;
    let lot = lot(0, 30_000, 20_000);
    for stop_at in [1, 20_000, 50_000] {
        let (reached, mut wait) = tokio::sync::mpsc::unbounded_channel();
        let preload = books.database.preload(&event, &lot, |made| {
            if made >= stop_at {
                let _ = reached.send(());
            }
        });
        tokio::select! {
            biased;
            Some(()) = wait.recv() => {}
            result = preload => panic!("it was to be dropped, not {result:?}"),
        }
        assert_eq!(books.database.event(event.uid).await.unwrap().unwrap().stock, []);
        assert_eq!(books.sql("SELECT count(*) FROM coupon"), "0");
    }
    books.database.preload(&event, &lot, |_| {}).await.unwrap();
    assert_eq!(all_coupons(&books.database, event.uid).await, lot.coupons(event.seed, event.format).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_preload_whose_backend_is_killed_leaves_nothing_and_can_be_done_again() {
    let books = Books::open().await;
    let event = books.event(1).await;
    let lot = lot(0, 60_000, 40_000);
    for stop_at in [1, 90_000] {
        let mut killed = false;
        let preload = books.database.preload(&event, &lot, |made| {
            if made >= stop_at && !killed {
                killed = true;
                books.sql(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                     WHERE datname = current_database() AND query LIKE 'COPY %'",
                );
            }
        });
        let error = preload.await.unwrap_err();
        assert!(error.is_transient(), "{error:?}");
        assert_eq!(books.sql("SELECT count(*) FROM coupon"), "0");
        assert_eq!(books.sql("SELECT count(*) FROM pg_class WHERE relname LIKE 'coupon\\_0%'"), "0");
    }
    books.database.preload(&event, &lot, |_| {}).await.unwrap();
    assert_eq!(books.sql("SELECT count(*), count(DISTINCT code) FROM coupon"), "100000|100000");
}

#[tokio::test]
async fn a_stock_can_be_made_anew_until_the_event_opens() {
    let books = Books::open().await;
    let (event, old) = books.stocked(1, 50, 50).await;
    books.database.discard_stock(&event).await.unwrap();
    books.database.discard_stock(&event).await.unwrap();
    assert_eq!(all_coupons(&books.database, event.uid).await, []);
    let format = CodeFormat { prefix: Some("FALL".into()), length: 10 };
    let event = books.database.register(&NewEvent { format, ..new_event(1) }).await.unwrap();
    assert_eq!(event.stock, []);
    books.database.preload(&event, &lot(0, 10, 0), |_| {}).await.unwrap();
    let new = all_coupons(&books.database, event.uid).await;
    assert!(new.len() == 10 && new.iter().all(|c| c.code.starts_with("FALL-")), "{new:?}");
    assert!(old.iter().all(|c| c.code.starts_with("SUMMER-")));

    books.database.schedule_opening(&event, 1).await.unwrap();
    let opened_at = books.database.event(event.uid).await.unwrap().unwrap().opened_at;
    assert!(opened_at.is_some());
    books.database.schedule_opening(&event, 2).await.unwrap();
    assert_eq!(books.database.event(event.uid).await.unwrap().unwrap().opened_at, opened_at);
    let refused = books.database.discard_stock(&event).await.unwrap_err();
    assert!(matches!(refused, DatabaseError::AlreadyOpened(_)), "{refused}");
    assert_eq!(all_coupons(&books.database, event.uid).await, new);
}

#[tokio::test]
async fn nothing_is_made_for_an_event_that_nobody_registered() {
    let books = Books::open().await;
    let event = books.event(7).await;
    let uid = event.uid;
    books.database.delete_event(uid).await.unwrap();
    let unknown = |error| matches!(error, DatabaseError::UnknownEvent { uid: u, .. } if u == uid);
    assert!(unknown(books.database.preload(&event, &lot(0, 1, 1), |_| {}).await.unwrap_err()));
    assert!(unknown(books.database.discard_stock(&event).await.unwrap_err()));
    let refused = books.database.schedule_opening(&event, 1).await.unwrap_err();
    assert!(matches!(refused, DatabaseError::StockEpochChanged(u) if u == uid), "{refused}");
    books.database.delete_event(uid).await.unwrap();
    assert_eq!(books.database.coupons(uid, 0, 10).await.unwrap(), []);
}

#[tokio::test]
async fn what_is_not_there_is_told_apart_from_what_is_wrong() {
    let nowhere = Database::connect("postgres://postgres@127.0.0.1:1/postgres").unwrap();
    let error = nowhere.ping().await.unwrap_err();
    assert!(error.is_transient() && !error.is_about_data(), "{error:?}");
    assert!(error.to_string().starts_with("reaching Postgres: "), "{error}");
    assert!(matches!(Database::connect("nonsense"), Err(DatabaseError::Url(_))));

    let database = couponry_testbed::Database::create().unwrap();
    let empty = Database::connect(&database.url()).unwrap();
    empty.ping().await.unwrap();
    let error = empty.event(Uuid::from_u128(1)).await.unwrap_err();
    assert!(!error.is_transient() && !error.is_about_data(), "{error:?}");
}

#[test]
fn calls_may_be_made_from_any_task() {
    fn sendable<T: Send>(_: T) {}
    fn all(database: &Database, event: &couponry_postgres::StoredEvent, user: &couponry_domain::UserId) {
        let uid = Uuid::from_u128(1);
        sendable(database.ping());
        sendable(database.migrate());
        sendable(database.is_migrated());
        sendable(database.register(&new_event(1)));
        sendable(database.event(uid));
        sendable(database.preload(event, &lot(0, 1, 1), |_| {}));
        sendable(database.discard_stock(event));
        sendable(database.schedule_opening(event, 1));
        sendable(database.coupons(uid, 0, 1));
        sendable(database.record(&[]));
        sendable(database.issued_count(uid));
        sendable(database.issuance_of(uid, user));
        sendable(database.issuances(uid));
        sendable(database.delete_event(uid));
    }
    let _ = all;
}
