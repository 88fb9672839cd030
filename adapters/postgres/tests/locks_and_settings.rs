//! Locks of other sessions, and settings of the role or the database.

mod support;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use couponry_domain::{EventName, IssuedRecord, Uuid};
use couponry_postgres::{Database, DatabaseError, Deferral, RecordOutcome};
use couponry_testbed::{Database as TestDatabase, shared};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use support::{Fixture, batch, record};

/// Polls until a query returns `t`.
async fn until(fixture: &Fixture, query: &str) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while fixture.sql(query) != "t" {
        assert!(Instant::now() < deadline, "timed out: {query}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Fails instead of waiting for ever for a lock that this test holds.
async fn within_a_minute<F: Future>(call: F) -> F::Output {
    tokio::time::timeout(Duration::from_mins(1), call).await.expect("the call waits for a lock without a limit")
}

async fn connect(fixture: &Fixture) -> PgConnection {
    PgConnection::connect(&fixture.server.url()).await.unwrap()
}

#[tokio::test]
async fn database_that_is_not_utf8_is_refused() {
    let latin = TestDatabase::create_with(&shared::postgres(), "ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'");
    let latin = latin.unwrap();
    let database = Database::connect(&latin.url()).unwrap();
    for error in [database.migrate().await.unwrap_err(), database.is_migrated().await.unwrap_err()] {
        assert!(matches!(&error, DatabaseError::Encoding(encoding) if encoding == "LATIN1"), "{error}");
        assert!(error.to_string().contains("ENCODING 'UTF8' TEMPLATE template0"), "{error}");
    }
    assert_eq!(database.server_settings().await.unwrap().encoding, "LATIN1");

    // Restored by hand: what the encoding cannot store is not invalid data.
    latin.sql(include_str!("../../../migrations/0001_coupons.sql")).unwrap();
    latin.sql(include_str!("../../../migrations/0003_coupon_terms.sql")).unwrap();
    latin.sql(include_str!("../../../migrations/0008_release.sql")).unwrap();
    latin.sql(include_str!("../../../migrations/0009_opening_start.sql")).unwrap();
    let event = database.register(&support::new_event(1)).await.unwrap();
    database.generate_coupons(&event, &batch(0, 5, 0), |_| {}).await.unwrap();
    let coupons: Vec<_> = batch(0, 5, 0).coupons(event.seed, event.format.clone()).collect();
    let error = database.record(&[record(&event, "한국어", &coupons[0])]).await.unwrap_err();
    assert!(!error.is_invalid_data(), "{error:?}");
}

#[tokio::test]
async fn settings_of_the_database_do_not_affect_sessions() {
    let fixture = Fixture::new().await;
    for setting in [
        "statement_timeout = '20ms'",
        "lock_timeout = '1ms'",
        "idle_in_transaction_session_timeout = '1ms'",
        "default_transaction_isolation = 'serializable'",
        "plan_cache_mode = 'force_generic_plan'",
    ] {
        fixture.sql(&format!("ALTER DATABASE {} SET {setting}", fixture.sql("SELECT current_database()")));
    }
    let database = Database::connect(&fixture.server.url()).unwrap();
    database.migrate().await.unwrap();
    let event = database.register(&support::new_event(1)).await.unwrap();
    database.generate_coupons(&event, &batch(0, 100_000, 0), |_| {}).await.unwrap();
    assert_eq!(
        fixture.sql(&format!("SET statement_timeout = 0; SELECT count(*) FROM coupon_{}", event.uid.simple())),
        "100000"
    );
    let records: Vec<_> = batch(0, 100_000, 0)
        .coupons(event.seed, event.format.clone())
        .take(5000)
        .map(|coupon| record(&event, &format!("u{}", coupon.ordinal), &coupon))
        .collect();
    let outcomes = database.record(&records).await.unwrap();
    assert!(outcomes.iter().all(|outcome| *outcome == RecordOutcome::Recorded));
    database.delete_event(event.uid, &event.name).await.unwrap();
}

/// Discarding the stock of an event waits for readers of its coupons. Nothing of another event waits behind it.
#[tokio::test(flavor = "multi_thread")]
async fn discard_behind_a_long_reader_does_not_block_other_events() {
    let fixture = Fixture::new().await;
    let (scheduled, _) = fixture.event_with_coupons(1, 10, 0).await;
    let (open, coupons) = fixture.event_with_coupons(2, 10, 0).await;
    let mut reader = connect(&fixture).await;
    let mut reading = reader.begin().await.unwrap();
    sqlx::query("SELECT count(*) FROM coupon_status").execute(&mut *reading).await.unwrap();

    let database = fixture.database.clone();
    let discard = tokio::spawn(async move { database.discard_stock(&scheduled).await });
    let is_waiting = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
                                     AND wait_event_type = 'Lock' AND query LIKE 'DROP TABLE%')";
    until(&fixture, is_waiting).await;
    assert_eq!(fixture.database.record(&[record(&open, "u1", &coupons[1])]).await.unwrap(), [RecordOutcome::Recorded]);
    assert_eq!(fixture.database.coupons(open.uid, 0, 100).await.unwrap().len(), 10);
    fixture.event_with_coupons(3, 10, 0).await;
    assert!(!discard.is_finished(), "the other events waited for it");

    let error = within_a_minute(discard).await.unwrap().unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    drop(reading);
    drop(reader);
    let scheduled = fixture.event(1).await;
    assert_eq!((scheduled.stock_epoch, scheduled.generated()), (0, 10));
    fixture.database.discard_stock(&scheduled).await.unwrap();
    assert_eq!(fixture.event(1).await.generated(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn record_defers_only_the_events_that_another_session_locks() {
    let fixture = Fixture::new().await;
    let mut events = Vec::new();
    for number in 1..=4 {
        events.push(fixture.event_with_coupons(number, 10, 0).await);
    }
    let batch = |user: &str, nth: usize| -> Vec<_> {
        events.iter().map(|(event, coupons)| record(event, user, &coupons[nth])).collect()
    };
    let [table, row, user, _] = [0, 1, 2, 3].map(|n: usize| events[n].0.uid);
    let mut sessions = Vec::new();
    for lock in [
        format!("LOCK TABLE coupon_{}", table.simple()),
        format!("SELECT FROM coupon_event WHERE uid = '{row}' FOR UPDATE"),
        format!(
            "INSERT INTO issuance (event_uid, user_id, code, type, value, issued_at)
             SELECT '{user}', 'u1', code, type, value, now() FROM coupon_{} WHERE ordinal = 9",
            user.simple()
        ),
    ] {
        sessions.push(fixture.server.hold(&lock).unwrap());
    }
    let locked = RecordOutcome::Deferred(Deferral::Locked);
    let expected = [locked.clone(), locked.clone(), locked, RecordOutcome::Recorded];
    assert_eq!(within_a_minute(fixture.database.record(&batch("u1", 0))).await.unwrap(), expected);

    drop(sessions);
    let expected = [const { RecordOutcome::Recorded }; 3].into_iter().chain([RecordOutcome::AlreadyRecorded]);
    let expected: Vec<_> = expected.collect();
    assert_eq!(fixture.database.record(&batch("u1", 0)).await.unwrap(), expected);
    // Deferred without an attempt.
    let outcomes = fixture.database.record_except(&batch("u2", 1), [table].into()).await.unwrap();
    assert_eq!(outcomes[0], RecordOutcome::Deferred(Deferral::Locked));
    assert_eq!(outcomes[1..], [RecordOutcome::Recorded, RecordOutcome::Recorded, RecordOutcome::Recorded]);

    // A lock on all events is an error, which is retried.
    let _all = fixture.server.hold("LOCK TABLE issuance").unwrap();
    assert!(within_a_minute(fixture.database.record(&batch("u3", 2))).await.unwrap_err().is_transient());
}

async fn recorded(fixture: &Fixture, number: u128, count: u64) -> (Uuid, EventName, Vec<IssuedRecord>) {
    let (event, coupons) = fixture.event_with_coupons(number, count, 0).await;
    let records: Vec<_> = coupons.iter().map(|c| record(&event, &format!("u{:06}", c.ordinal), c)).collect();
    for batch in records.chunks(5000) {
        fixture.database.record(batch).await.unwrap();
    }
    (event.uid, event.name, records)
}

/// The deletion fails because of the lock, keeps what it has done, and continues when it is repeated.
#[tokio::test(flavor = "multi_thread")]
async fn delete_behind_a_row_lock_fails_and_continues_after_it() {
    let fixture = Fixture::new().await;
    let (uid, name, records) = recorded(&fixture, 1, 25_000).await;
    let (open, coupons) = fixture.event_with_coupons(2, 10, 0).await;
    let mut other = connect(&fixture).await;
    let mut lock = other.begin().await.unwrap();
    sqlx::query("SELECT FROM issuance WHERE event_uid = $1 AND user_id = 'u024999' FOR UPDATE")
        .bind(uid)
        .execute(&mut *lock)
        .await
        .unwrap();

    let (database, deleted) = (fixture.database.clone(), name.clone());
    let deletion = tokio::spawn(async move { database.delete_event(uid, &deleted).await });
    until(
        &fixture,
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
                                    AND wait_event_type = 'Lock' AND query LIKE '%DELETE FROM issuance%')",
    )
    .await;
    assert_eq!(fixture.database.record(&[record(&open, "u1", &coupons[1])]).await.unwrap(), [RecordOutcome::Recorded]);
    assert!(!deletion.is_finished(), "the other event waited for it");
    let error = within_a_minute(deletion).await.unwrap().unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    assert_eq!(fixture.database.recorded_count(uid).await.unwrap(), 5_000);
    let late = fixture.database.record(&records[..1]).await.unwrap();
    assert_eq!(late, [RecordOutcome::Rejected(couponry_postgres::Rejection::UnknownEvent)], "the deletion has started");

    drop(lock);
    drop(other);
    fixture.database.delete_event(uid, &name).await.unwrap();
    assert_eq!(fixture.sql("SELECT (SELECT count(*) FROM issuance), (SELECT count(*) FROM coupon_event)"), "1|1");
}

/// Otherwise the statement would keep its locks and deadlock with the retry.
#[tokio::test(flavor = "multi_thread")]
async fn dropped_future_cancels_its_statement() {
    let fixture = Fixture::new().await;
    let (uid, name, _) = recorded(&fixture, 1, 10).await;
    fixture.sql(
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(3600); RETURN OLD; END $$;
         CREATE TRIGGER wait BEFORE DELETE ON issuance FOR EACH ROW EXECUTE FUNCTION wait()",
    );
    let (database, deleted) = (Arc::new(fixture.database.clone()), name.clone());
    let deletion = tokio::spawn(async move { database.delete_event(uid, &deleted).await });
    let is_running = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
                                     AND wait_event = 'PgSleep')";
    until(&fixture, is_running).await;
    deletion.abort();
    until(&fixture, &format!("SELECT NOT ({})", is_running.trim_start_matches("SELECT "))).await;
    fixture.sql("DROP TRIGGER wait ON issuance");
    fixture.database.delete_event(uid, &name).await.unwrap();
    assert_eq!(fixture.sql("SELECT count(*) FROM issuance"), "0");
}

/// As a foreign key would reject them.
#[tokio::test]
async fn issuances_of_unknown_events_and_deletions_of_events_with_issuances_are_rejected() {
    let fixture = Fixture::new().await;
    let (event, coupons) = fixture.event_with_coupons(1, 2, 0).await;
    let insert = |uid: Uuid, user: &str| {
        format!(
            "INSERT INTO issuance (event_uid, user_id, code, type, value, issued_at)
             VALUES ('{uid}', '{user}', '{}', 'PERCENT', 10, now())",
            coupons[0].code
        )
    };
    let rejected = |sql: &str| format!("{:#}", fixture.server.sql(sql).unwrap_err());
    let unknown = Uuid::from_u128(404);
    let error = rejected(&insert(unknown, "u1"));
    assert!(error.contains(&format!("the event {unknown} does not exist")), "{error}");
    assert_eq!(fixture.sql("SELECT count(*) FROM issuance"), "0");

    let delete = format!("DELETE FROM coupon_event WHERE uid = '{}'", event.uid);
    fixture.sql(&insert(event.uid, "u1"));
    let error = rejected(&delete);
    assert!(error.contains(&format!("the event {} has issuances", event.uid)), "{error}");
    assert!(rejected(&format!("UPDATE coupon_event SET uid = '{unknown}'")).contains("has issuances"));

    // A deletion waits for a transaction that has inserted an issuance.
    fixture.sql("DELETE FROM issuance");
    let mut other = connect(&fixture).await;
    let mut tx = other.begin().await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(insert(event.uid, "u2"))).execute(&mut *tx).await.unwrap();
    let error = rejected(&format!("SET lock_timeout = '100ms'; {delete}"));
    assert!(error.contains("lock timeout"), "{error}");
    tx.commit().await.unwrap();
    assert!(rejected(&delete).contains("has issuances"));
}
