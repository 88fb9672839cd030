//! Making the stock on a real Postgres.

mod support;

use std::collections::HashSet;

use domain::{CodeFormat, Coupon, Uuid};
use futures::future::join_all;
use ledger::{Ledger, LedgerError, NewEvent};
use support::{Books, FIVE_THOUSAND, TEN_PERCENT, lot, new_event};

async fn all_coupons(ledger: &Ledger, uid: Uuid) -> Vec<Coupon> {
    let mut all = Vec::new();
    loop {
        let page = ledger.coupons(uid, all.len() as u64, 7000).await.unwrap();
        if page.is_empty() {
            return all;
        }
        all.extend(page);
    }
}

#[tokio::test]
async fn migrating_at_once_and_again_is_safe() {
    let database = testbed::Database::create().unwrap();
    let ledgers: Vec<_> = (0..4).map(|_| Ledger::connect(&database.url()).unwrap()).collect();
    assert!(!ledgers[0].is_migrated().await.unwrap());
    for migrated in join_all(ledgers.iter().map(Ledger::migrate)).await {
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
        books.ledger.register(&NewEvent { format: other.clone(), policy_name: "Autumn".into(), ..new_event(1) }).await;
    let renamed = renamed.unwrap();
    assert_eq!((renamed.seed, &renamed.format, renamed.policy_name.as_str()), (first.seed, &other, "Autumn"));

    books.ledger.preload(&first, &lot(0, 1, 1), |_| {}).await.unwrap();
    let stocked = books.ledger.register(&new_event(1)).await.unwrap();
    assert_eq!((stocked.seed, stocked.format), (first.seed, other));
    assert_eq!(stocked.stock, [(TEN_PERCENT, 1), (FIVE_THOUSAND, 1)]);
    assert_ne!(books.event(2).await.seed, first.seed);
    assert_eq!(books.ledger.event(Uuid::from_u128(9)).await.unwrap(), None);

    let bad = CodeFormat { prefix: Some("A\tB".into()), length: 12 };
    let refused = books.ledger.register(&NewEvent { format: bad, ..new_event(3) }).await.unwrap_err();
    assert!(matches!(refused, LedgerError::InvalidCodeFormat(_)), "{refused}");
}

#[tokio::test]
async fn the_stock_is_exactly_what_the_lot_says() {
    let books = Books::open().await;
    let event = books.event(1).await;
    let lot = lot(0, 14_000, 6_000);
    let mut progress = Vec::new();
    books.ledger.preload(&event, &lot, |made| progress.push(made)).await.unwrap();

    let coupons: Vec<_> = lot.coupons(event.seed, event.format).collect();
    assert_eq!(all_coupons(&books.ledger, event.uid).await, coupons);
    assert!(progress.len() > 5 && progress.is_sorted() && progress.last() == Some(&20_000), "{progress:?}");
    let stored = books.ledger.event(event.uid).await.unwrap().unwrap();
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
    assert_eq!(all_coupons(&books.ledger, one.uid).await, ones);
    assert_eq!(all_coupons(&books.ledger, two.uid).await, twos);
}

#[tokio::test]
async fn a_top_up_adds_and_repeats_no_code() {
    let books = Books::open().await;
    let (event, mut coupons) = books.stocked(1, 700, 300).await;
    books.ledger.schedule_opening(&event, 1).await.unwrap();
    let more = lot(1000, 70, 30);
    books.ledger.preload(&event, &more, |_| {}).await.unwrap();
    coupons.extend(more.coupons(event.seed, event.format.clone()));
    assert_eq!(all_coupons(&books.ledger, event.uid).await, coupons);
    assert_eq!(coupons.iter().map(|c| &c.code).collect::<HashSet<_>>().len(), 1100);
    let stored = books.ledger.event(event.uid).await.unwrap().unwrap();
    assert_eq!(stored.stock, [(TEN_PERCENT, 770), (FIVE_THOUSAND, 330)]);

    // Again, and from the beginning: the stock is another one by now.
    for (lot, expected) in [(more, 1000), (lot(0, 700, 300), 0)] {
        match books.ledger.preload(&event, &lot, |_| {}).await.unwrap_err() {
            LedgerError::StockChanged { expected: e, found: 1100 } => assert_eq!(e, expected),
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
    let others: Vec<_> = (0..4).map(|_| Ledger::connect(&books.database.url()).unwrap()).collect();
    let results = join_all(others.iter().map(|ledger| ledger.preload(&event, &lot, |_| {}))).await;
    let won = results.iter().filter(|result| result.is_ok()).count();
    let late = |result: &&Result<(), _>| matches!(result, Err(LedgerError::StockChanged { expected: 0, found: 5_000 }));
    assert_eq!((won, results.iter().filter(late).count()), (1, 3), "{results:?}");
    assert_eq!(all_coupons(&books.ledger, event.uid).await, lot.coupons(event.seed, event.format).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_preload_that_is_dropped_leaves_nothing_and_can_be_done_again() {
    let books = Books::open().await;
    let event = books.event(1).await;
    let lot = lot(0, 30_000, 20_000);
    for stop_at in [1, 20_000, 50_000] {
        let (reached, mut wait) = tokio::sync::mpsc::unbounded_channel();
        let preload = books.ledger.preload(&event, &lot, |made| {
            if made >= stop_at {
                let _ = reached.send(());
            }
        });
        tokio::select! {
            biased;
            Some(()) = wait.recv() => {}
            result = preload => panic!("it was to be dropped, not {result:?}"),
        }
        assert_eq!(books.ledger.event(event.uid).await.unwrap().unwrap().stock, []);
        assert_eq!(books.sql("SELECT count(*) FROM coupon"), "0");
    }
    books.ledger.preload(&event, &lot, |_| {}).await.unwrap();
    assert_eq!(all_coupons(&books.ledger, event.uid).await, lot.coupons(event.seed, event.format).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_preload_whose_backend_is_killed_leaves_nothing_and_can_be_done_again() {
    let books = Books::open().await;
    let event = books.event(1).await;
    let lot = lot(0, 60_000, 40_000);
    for stop_at in [1, 90_000] {
        let mut killed = false;
        let preload = books.ledger.preload(&event, &lot, |made| {
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
    books.ledger.preload(&event, &lot, |_| {}).await.unwrap();
    assert_eq!(books.sql("SELECT count(*), count(DISTINCT code) FROM coupon"), "100000|100000");
}

#[tokio::test]
async fn a_stock_can_be_made_anew_until_the_event_opens() {
    let books = Books::open().await;
    let (event, old) = books.stocked(1, 50, 50).await;
    books.ledger.discard_stock(&event).await.unwrap();
    books.ledger.discard_stock(&event).await.unwrap();
    assert_eq!(all_coupons(&books.ledger, event.uid).await, []);
    let format = CodeFormat { prefix: Some("FALL".into()), length: 10 };
    let event = books.ledger.register(&NewEvent { format, ..new_event(1) }).await.unwrap();
    assert_eq!(event.stock, []);
    books.ledger.preload(&event, &lot(0, 10, 0), |_| {}).await.unwrap();
    let new = all_coupons(&books.ledger, event.uid).await;
    assert!(new.len() == 10 && new.iter().all(|c| c.code.starts_with("FALL-")), "{new:?}");
    assert!(old.iter().all(|c| c.code.starts_with("SUMMER-")));

    books.ledger.schedule_opening(&event, 1).await.unwrap();
    let opened_at = books.ledger.event(event.uid).await.unwrap().unwrap().opened_at;
    assert!(opened_at.is_some());
    books.ledger.schedule_opening(&event, 2).await.unwrap();
    assert_eq!(books.ledger.event(event.uid).await.unwrap().unwrap().opened_at, opened_at);
    let refused = books.ledger.discard_stock(&event).await.unwrap_err();
    assert!(matches!(refused, LedgerError::AlreadyOpened(_)), "{refused}");
    assert_eq!(all_coupons(&books.ledger, event.uid).await, new);
}

#[tokio::test]
async fn nothing_is_made_for_an_event_that_nobody_registered() {
    let books = Books::open().await;
    let event = books.event(7).await;
    let uid = event.uid;
    books.ledger.delete_event(uid).await.unwrap();
    let unknown = |error| matches!(error, LedgerError::UnknownEvent { uid: u, .. } if u == uid);
    assert!(unknown(books.ledger.preload(&event, &lot(0, 1, 1), |_| {}).await.unwrap_err()));
    assert!(unknown(books.ledger.discard_stock(&event).await.unwrap_err()));
    let refused = books.ledger.schedule_opening(&event, 1).await.unwrap_err();
    assert!(matches!(refused, LedgerError::EditionChanged(u) if u == uid), "{refused}");
    books.ledger.delete_event(uid).await.unwrap();
    assert_eq!(books.ledger.coupons(uid, 0, 10).await.unwrap(), []);
}

#[tokio::test]
async fn what_is_not_there_is_told_apart_from_what_is_wrong() {
    let nowhere = Ledger::connect("postgres://postgres@127.0.0.1:1/postgres").unwrap();
    let error = nowhere.ping().await.unwrap_err();
    assert!(error.is_transient() && !error.is_about_data(), "{error:?}");
    assert!(error.to_string().starts_with("reaching Postgres: "), "{error}");
    assert!(matches!(Ledger::connect("nonsense"), Err(LedgerError::Url(_))));

    let database = testbed::Database::create().unwrap();
    let empty = Ledger::connect(&database.url()).unwrap();
    empty.ping().await.unwrap();
    let error = empty.event(Uuid::from_u128(1)).await.unwrap_err();
    assert!(!error.is_transient() && !error.is_about_data(), "{error:?}");
}

#[test]
fn calls_may_be_made_from_any_task() {
    fn sendable<T: Send>(_: T) {}
    fn all(ledger: &Ledger, event: &ledger::StoredEvent, user: &domain::UserId) {
        let uid = Uuid::from_u128(1);
        sendable(ledger.ping());
        sendable(ledger.migrate());
        sendable(ledger.is_migrated());
        sendable(ledger.register(&new_event(1)));
        sendable(ledger.event(uid));
        sendable(ledger.preload(event, &lot(0, 1, 1), |_| {}));
        sendable(ledger.discard_stock(event));
        sendable(ledger.schedule_opening(event, 1));
        sendable(ledger.coupons(uid, 0, 1));
        sendable(ledger.record(&[]));
        sendable(ledger.issued_count(uid));
        sendable(ledger.issuance_of(uid, user));
        sendable(ledger.issuances(uid));
        sendable(ledger.delete_event(uid));
    }
    let _ = all;
}
