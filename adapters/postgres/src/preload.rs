//! Making the stock.

use std::fmt::Write as _;

use couponry_domain::{Coupon, Lot, Uuid};
use sqlx::{PgConnection, Row as _, postgres::PgRow};
use tokio::sync::mpsc;

use crate::{
    Database, DatabaseError, Operation, StoredEvent, event,
    partition::Partition,
    row::{self, Unexpected},
};

/// How much is sent to Postgres at a time, in bytes.
const CHUNK: usize = 64 * 1024;
/// Asks a silent client after 10 seconds whether it is there, and gives it up after 25, for the transaction.
const NOTICE_THE_DEAD: &str =
    "SET LOCAL tcp_keepalives_idle = 10; SET LOCAL tcp_keepalives_interval = 5; SET LOCAL tcp_keepalives_count = 3";

impl Database {
    /// Makes the coupons of `lot` in one transaction: all of them, or none. `known` is the event as the caller has seen it.
    ///
    /// The coupons follow from the seed and format that the event was registered with. `progress` hears how many coupons
    /// of the lot were sent to Postgres so far; building the indexes after that takes about as long again.
    ///
    /// Several callers at once make one stock: the first wins, the others get [`DatabaseError::StockChanged`].
    pub async fn preload(
        &self,
        known: &StoredEvent,
        lot: &Lot,
        mut progress: impl FnMut(u64) + Send,
    ) -> Result<(), DatabaseError> {
        let operation = Operation::Preload;
        let uid = known.uid;
        let at = || DatabaseError::at(operation);
        let mut session = self.session(operation).await?;
        let mut tx = session.begin().await?;
        // Whoever makes a lot holds the event's lock. When their machine dies, Postgres must not wait for hours to notice.
        sqlx::raw_sql(NOTICE_THE_DEAD).execute(&mut *tx).await.map_err(at())?;
        let event = event::lock(&mut tx, uid, operation).await?;
        let found = event.stock_len();
        if event.stock_epoch != known.stock_epoch {
            return Err(DatabaseError::StockEpochChanged(uid));
        }
        if found != lot.first_ordinal {
            return Err(DatabaseError::StockChanged { expected: lot.first_ordinal, found });
        }
        if !lot.is_empty() {
            let first = event.stock.is_empty();
            if first {
                Partition(uid).create(&mut tx).await.map_err(at())?;
            }
            let copied = copy(&mut tx, &event, lot, first, &mut progress).await.map_err(at())?;
            if copied != lot.len() {
                let what = format!("{copied} of {} coupons were made", lot.len());
                return Err(DatabaseError::Corrupt { operation, what });
            }
            if first {
                Partition(uid).attach(&mut tx).await.map_err(at())?;
            }
            count(&mut tx, &event, lot).await.map_err(at())?;
        }
        couponry_failpoint::crash("database.before-preload-commit");
        tx.commit().await.map_err(at())?;
        session.finish();
        Ok(())
    }

    /// Takes back the stock of an event that was never opened, so that it can be made anew, as the next stock epoch. Nothing
    /// happens when someone else has done it since the caller has seen the event.
    pub async fn discard_stock(&self, known: &StoredEvent) -> Result<(), DatabaseError> {
        let operation = Operation::DiscardStock;
        let uid = known.uid;
        let at = || DatabaseError::at(operation);
        let mut session = self.session(operation).await?;
        let mut tx = session.begin().await?;
        let event = event::lock(&mut tx, uid, operation).await?;
        if event.opened_at.is_some() {
            return Err(DatabaseError::AlreadyOpened(uid));
        }
        if event.stock_epoch != known.stock_epoch {
            tx.rollback().await.map_err(at())?;
            session.finish();
            return Ok(());
        }
        sqlx::query("UPDATE coupon_event SET stock_epoch = stock epoch + 1 WHERE uid = $1")
            .bind(uid)
            .execute(&mut *tx)
            .await
            .map_err(at())?;
        Partition(uid).drop(&mut tx).await.map_err(at())?;
        sqlx::query("DELETE FROM discount_policy WHERE event_uid = $1")
            .bind(uid)
            .execute(&mut *tx)
            .await
            .map_err(at())?;
        tx.commit().await.map_err(at())?;
        session.finish();
        Ok(())
    }

    /// Up to `limit` coupons of the event, by ordinal, from `from_ordinal` on.
    pub async fn coupons(&self, uid: Uuid, from_ordinal: u64, limit: u32) -> Result<Vec<Coupon>, DatabaseError> {
        let operation = Operation::ReadCoupons;
        let Ok(from) = i64::try_from(from_ordinal) else { return Ok(Vec::new()) };
        let rows = self
            .ask(operation, async |connection| {
                sqlx::query(
                    "SELECT ordinal, code, type, value FROM coupon
                     WHERE event_uid = $1 AND ordinal >= $2 ORDER BY ordinal LIMIT $3",
                )
                .bind(uid)
                .bind(from)
                .bind(i64::from(limit))
                .fetch_all(connection)
                .await
            })
            .await?;
        rows.iter().map(coupon).collect::<Result<_, _>>().map_err(|what| what.during(operation))
    }
}

pub(crate) fn coupon(row: &PgRow) -> Result<Coupon, Unexpected> {
    Ok(Coupon { ordinal: row::count(row, "ordinal")?, code: row.try_get("code")?, discount: row::discount(row)? })
}

/// Fills the partition and returns how many rows it took.
///
/// The coupons are computed on a thread of their own, a few chunks ahead of Postgres, so that neither waits for the other
/// and memory stays flat.
async fn copy(
    connection: &mut PgConnection,
    event: &StoredEvent,
    lot: &Lot,
    freeze: bool,
    progress: &mut (impl FnMut(u64) + Send),
) -> Result<u64, sqlx::Error> {
    let (sender, mut chunks) = mpsc::channel(4);
    let (lot, seed, format) = (lot.clone(), event.seed, event.format.clone());
    tokio::task::spawn_blocking(move || {
        let mut chunk = String::with_capacity(CHUNK + 256);
        let mut made: u64 = 0;
        for coupon in lot.coupons(seed, format) {
            made += 1;
            let Coupon { ordinal, code, discount } = coupon;
            // Nothing in it needs escaping: registering refused every code but of capital letters, digits and dashes.
            writeln!(chunk, "{ordinal}\t{code}\t{}\t{}", discount.kind, discount.value).expect("a string takes it");
            if chunk.len() >= CHUNK {
                let full = std::mem::replace(&mut chunk, String::with_capacity(CHUNK + 256));
                if sender.blocking_send((full, made)).is_err() {
                    return;
                }
            }
        }
        let _ = sender.blocking_send((chunk, made));
    });

    let mut copy = connection.copy_in_raw(&Partition(event.uid).copy(freeze)).await?;
    while let Some((chunk, made)) = chunks.recv().await {
        copy.send(chunk.into_bytes()).await?;
        progress(made);
    }
    copy.finish().await
}

/// Adds the lot to what the event has of each discount. A discount that is new comes after those before it.
async fn count(connection: &mut PgConnection, event: &StoredEvent, lot: &Lot) -> Result<(), sqlx::Error> {
    let mut next = i32::try_from(event.stock.len()).unwrap_or(i32::MAX);
    for (discount, count) in &lot.counts {
        sqlx::query(
            "INSERT INTO discount_policy (event_uid, position, type, value, count) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (event_uid, type, value) DO UPDATE SET count = discount_policy.count + excluded.count",
        )
        .bind(event.uid)
        .bind(next)
        .bind(discount.kind.as_str())
        .bind(i64::from(discount.value))
        .bind(i64::try_from(*count).unwrap_or(i64::MAX))
        .execute(&mut *connection)
        .await?;
        if !event.stock.iter().any(|(known, _)| known == discount) {
            next += 1;
        }
    }
    Ok(())
}
