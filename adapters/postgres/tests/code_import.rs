//! Importing codes into a real Postgres.

mod support;

use couponry_domain::{CouponBatch, Uuid};
use couponry_postgres::{CodeFile, CodeLine, Database, DatabaseError, ImportOutcome, StoredEvent};
use futures::future::join_all;
use support::{FIVE_THOUSAND, Fixture, TEN_PERCENT, batch, record};

const FILE: CodeFile = CodeFile { sha256: [7; 32], guess_bits: 40 };

/// Lines with the codes of `batch`, numbered from its first ordinal.
fn lines(batch: &CouponBatch) -> Vec<CodeLine> {
    let discounts = batch.counts.iter().flat_map(|(discount, count)| (0..*count).map(|_| *discount));
    let lines = discounts.zip(batch.first_ordinal..).zip(2..);
    lines
        .map(|((discount, number), line)| CodeLine { line, code: format!("OWN-{number}").parse().unwrap(), discount })
        .collect()
}

async fn import(
    database: &Database,
    event: &StoredEvent,
    batch: &CouponBatch,
    lines: &[CodeLine],
) -> Result<ImportOutcome, DatabaseError> {
    let mut import = database.begin_code_import().await?;
    for chunk in lines.chunks(1000) {
        import.stage(chunk).await?;
    }
    import.commit(event, batch, &FILE).await
}

async fn codes(database: &Database, uid: Uuid) -> Vec<String> {
    database.coupons(uid, 0, 10_000).await.unwrap().into_iter().map(|coupon| coupon.code.to_string()).collect()
}

#[tokio::test]
async fn imported_codes_are_the_stock_in_an_order_of_the_seed() {
    let fixture = Fixture::new().await;
    let (one, two) = (fixture.event(1).await, fixture.event(2).await);
    let batch = batch(0, 1400, 600);
    let mut lines = lines(&batch);
    assert_eq!(import(&fixture.database, &one, &batch, &lines).await.unwrap(), ImportOutcome::Imported);
    let imported = codes(&fixture.database, one.uid).await;
    let in_file: Vec<String> = lines.iter().map(|line| line.code.to_string()).collect();
    let in_place = in_file.iter().zip(&imported).filter(|(one, two)| one == two).count();
    assert!(imported.len() == 2000 && in_place < 20, "{in_place} of 2000 coupons have the place of the file");
    let stored = fixture.database.event(one.uid).await.unwrap().unwrap();
    assert_eq!(stored.discount_counts, batch.counts);
    assert_eq!(
        fixture.sql("SELECT type, value, count(*) FROM coupon GROUP BY 1, 2 ORDER BY 1"),
        "AMOUNT|5000|600\nPERCENT|10|1400"
    );
    let imports = fixture.database.code_imports(one.uid).await.unwrap();
    assert_eq!((imports.len(), imports[0].count, imports[0].file), (1, 2000, FILE));

    // Another event may have the same codes. Its order does not depend on that of the file either.
    lines.reverse();
    let rotated: Vec<CodeLine> = lines[1000..].iter().chain(&lines[..1000]).cloned().collect();
    import(&fixture.database, &two, &batch, &rotated).await.unwrap();
    assert_ne!(codes(&fixture.database, two.uid).await, imported);
    fixture.database.discard_stock(&stored).await.unwrap();
    let stored = fixture.database.event(one.uid).await.unwrap().unwrap();
    import(&fixture.database, &stored, &batch, &rotated).await.unwrap();
    assert_eq!(codes(&fixture.database, one.uid).await, imported);
}

#[tokio::test]
async fn repeated_codes_are_refused_and_nothing_is_imported() {
    let fixture = Fixture::new().await;
    let event = fixture.event(1).await;
    let coupon_batch = batch(0, 3, 2);
    let mut twice = lines(&coupon_batch);
    twice[4].code = twice[1].code.clone();
    let repeated = import(&fixture.database, &event, &coupon_batch, &twice).await.unwrap();
    assert_eq!(repeated, ImportOutcome::Repeated { lines: vec![(6, 3)] });
    assert_eq!(fixture.database.event(event.uid).await.unwrap().unwrap(), event);
    assert_eq!(codes(&fixture.database, event.uid).await, Vec::<String>::new());
    import(&fixture.database, &event, &coupon_batch, &lines(&coupon_batch)).await.unwrap();

    let top_up = batch(5, 1, 1);
    let mut more = lines(&top_up);
    more[1].code = "OWN-2".parse().unwrap();
    let in_stock = import(&fixture.database, &event, &top_up, &more).await.unwrap();
    assert_eq!(in_stock, ImportOutcome::InStock { lines: vec![3] });
    assert_eq!(codes(&fixture.database, event.uid).await.len(), 5);
    import(&fixture.database, &event, &top_up, &lines(&top_up)).await.unwrap();
    let added: Vec<String> = codes(&fixture.database, event.uid).await.split_off(5);
    assert!(added == ["OWN-5", "OWN-6"] || added == ["OWN-6", "OWN-5"], "{added:?}");
    let stored = fixture.database.event(event.uid).await.unwrap().unwrap();
    assert_eq!(stored.discount_counts, [(TEN_PERCENT, 4), (FIVE_THOUSAND, 3)]);
    assert_eq!(fixture.database.code_imports(event.uid).await.unwrap().len(), 2);
}

#[tokio::test]
async fn interrupted_import_leaves_nothing_and_is_repeated() {
    let fixture = Fixture::new().await;
    let event = fixture.event(1).await;
    let batch = batch(0, 3000, 0);
    let mut interrupted = fixture.database.begin_code_import().await.unwrap();
    interrupted.stage(&lines(&batch)[..2000]).await.unwrap();
    // Nothing of the event is locked in the meantime.
    assert_eq!(fixture.event(1).await, event);
    drop(interrupted);
    assert_eq!(import(&fixture.database, &event, &batch, &lines(&batch)).await.unwrap(), ImportOutcome::Imported);
    assert_eq!(codes(&fixture.database, event.uid).await.len(), 3000);
    assert_eq!(fixture.sql("SELECT count(*) FROM pg_class WHERE relname = 'imported_code'"), "0");
}

#[tokio::test]
async fn of_concurrent_imports_one_succeeds() {
    let fixture = Fixture::new().await;
    let event = fixture.event(1).await;
    let batch = batch(0, 500, 500);
    let lines = lines(&batch);
    let imports = join_all((0..4).map(|_| import(&fixture.database, &event, &batch, &lines))).await;
    let succeeded = imports.iter().filter(|result| matches!(result, Ok(ImportOutcome::Imported))).count();
    let stale = imports.iter().filter(|result| matches!(result, Err(DatabaseError::StockChanged { .. }))).count();
    assert_eq!((succeeded, stale), (1, 3), "{imports:?}");
    assert_eq!(codes(&fixture.database, event.uid).await.len(), 1000);
}

// `psql` waits for a lock until another thread has closed the connection of a failed import.
#[tokio::test(flavor = "multi_thread")]
async fn import_for_a_discarded_or_deleted_stock_changes_nothing() {
    let fixture = Fixture::new().await;
    let event = fixture.event(1).await;
    let batch = batch(0, 2, 1);
    import(&fixture.database, &event, &batch, &lines(&batch)).await.unwrap();
    fixture.database.discard_stock(&event).await.unwrap();
    assert_eq!(fixture.database.code_imports(event.uid).await.unwrap(), []);
    let stale = import(&fixture.database, &event, &batch, &lines(&batch)).await.unwrap_err();
    assert!(matches!(stale, DatabaseError::EventChanged(_)), "{stale}");

    let event = fixture.database.event(event.uid).await.unwrap().unwrap();
    fixture.sql("UPDATE coupon_event SET is_purging = true");
    let purging = import(&fixture.database, &event, &batch, &lines(&batch)).await.unwrap_err();
    assert!(matches!(purging, DatabaseError::EventChanged(_)), "{purging}");
    fixture.sql("UPDATE coupon_event SET is_purging = false");

    import(&fixture.database, &event, &batch, &lines(&batch)).await.unwrap();
    let coupon = fixture.database.coupons(event.uid, 0, 1).await.unwrap().remove(0);
    fixture.database.record(&[record(&event, "u1", &coupon)]).await.unwrap();
    fixture.database.delete_event(event.uid, &event.name).await.unwrap();
    assert_eq!(fixture.sql("SELECT count(*) FROM code_import"), "0");
    assert_eq!(fixture.sql("SELECT count(*) FROM pg_class WHERE relname LIKE 'coupon\\_0%'"), "0");
    let gone = import(&fixture.database, &event, &batch, &lines(&batch)).await.unwrap_err();
    assert!(matches!(gone, DatabaseError::UnknownEvent { .. }), "{gone}");
}
