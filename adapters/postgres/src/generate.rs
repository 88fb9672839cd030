//! Generating and discarding the coupons of an event.

use std::fmt::Write as _;

use couponry_domain::{Coupon, CouponBatch, Discount, code::CouponCode};
use sqlx::PgConnection;
use tokio::sync::mpsc;

use crate::{
    connection::Database,
    error::{DatabaseError, Operation},
    event::{self, StoredEvent},
    stock_table::StockTable,
};

/// The size of the chunks that are sent to Postgres, in bytes.
const CHUNK: usize = 64 * 1024;

/// Postgres probes an idle client of the transaction after 10 seconds and closes its connection after 25: a client on a
/// failed machine must not hold the lock of the event for hours.
pub(crate) const KEEPALIVE: &str =
    "SET LOCAL tcp_keepalives_idle = 10; SET LOCAL tcp_keepalives_interval = 5; SET LOCAL tcp_keepalives_count = 3";

impl Database {
    /// Inserts the coupons of `batch` in one transaction. Fails if the event has changed since `stored` was read.
    ///
    /// The coupons are derived from the registered seed and code format. `progress` receives the number of coupons that
    /// were sent to Postgres so far; building the indexes afterwards takes about as long as sending.
    ///
    /// Of concurrent calls the first one succeeds, and the others return [`DatabaseError::StockChanged`].
    pub async fn generate_coupons(
        &self,
        stored: &StoredEvent,
        batch: &CouponBatch,
        mut progress: impl FnMut(u64) + Send,
    ) -> Result<(), DatabaseError> {
        let operation = Operation::GenerateCoupons;
        let uid = stored.uid;
        let at = || DatabaseError::at(operation);
        let mut session = self.long_session(operation).await?;
        let mut tx = session.begin().await?;
        sqlx::raw_sql(KEEPALIVE).execute(&mut *tx).await.map_err(at())?;
        let event = event::lock(&mut tx, uid, operation).await?;
        check_continues(&event, stored, batch)?;
        if !batch.is_empty() {
            let is_first = event.discount_counts.is_empty();
            if is_first {
                StockTable(uid).create(&mut tx).await.map_err(at())?;
            }
            let copied = copy(&mut tx, &event, batch, is_first, &mut progress).await.map_err(at())?;
            if copied != batch.len() {
                let detail = format!("{copied} of {} coupons were inserted", batch.len());
                return Err(DatabaseError::Corrupt { operation, detail });
            }
            if is_first {
                StockTable(uid).index(&mut tx).await.map_err(at())?;
            }
            add_to_counts(&mut tx, &event, batch).await.map_err(at())?;
        }
        couponry_failpoint::crash("database.before-preload-commit");
        tx.commit().await.map_err(at())?;
        session.finish();
        Ok(())
    }

    /// Discards the stock of an event without an opening, and increments its stock epoch. No-op if another operator
    /// has done so since `stored` was read. Fails after some seconds, and can be retried, while a long statement reads
    /// this stock; other events are not affected.
    pub async fn discard_stock(&self, stored: &StoredEvent) -> Result<(), DatabaseError> {
        let operation = Operation::DiscardStock;
        let uid = stored.uid;
        let at = || DatabaseError::at(operation);
        let mut session = self.long_session(operation).await?;
        let mut tx = session.begin().await?;
        let event = event::lock(&mut tx, uid, operation).await?;
        if event.opens_at.is_some() {
            return Err(DatabaseError::HasOpening(uid));
        }
        if event.stock_epoch != stored.stock_epoch {
            tx.rollback().await.map_err(at())?;
            session.finish();
            return Ok(());
        }
        sqlx::query("UPDATE coupon_event SET stock_epoch = stock_epoch + 1 WHERE uid = $1")
            .bind(uid)
            .execute(&mut *tx)
            .await
            .map_err(at())?;
        StockTable(uid).drop(&mut tx).await.map_err(at())?;
        for delete in
            ["DELETE FROM discount_policy WHERE event_uid = $1", "DELETE FROM code_import WHERE event_uid = $1"]
        {
            sqlx::query(delete).bind(uid).execute(&mut *tx).await.map_err(at())?;
        }
        tx.commit().await.map_err(at())?;
        session.finish();
        Ok(())
    }
}

/// Fails unless the stock of the locked `event` is that which was read as `stored`, and `batch` continues it.
pub(crate) fn check_continues(
    event: &StoredEvent,
    stored: &StoredEvent,
    batch: &CouponBatch,
) -> Result<(), DatabaseError> {
    if event.stock_epoch != stored.stock_epoch {
        return Err(DatabaseError::EventChanged(stored.uid));
    }
    let found = event.generated();
    if found != batch.first_ordinal {
        return Err(DatabaseError::StockChanged { expected: batch.first_ordinal, found });
    }
    Ok(())
}

/// Adds a line for COPY.
pub(crate) fn write_copy_line(lines: &mut String, number: u64, code: &CouponCode, discount: Discount) {
    // Needs no escaping: codes consist of capital letters, digits and dashes.
    writeln!(lines, "{number}\t{code}\t{}\t{}", discount.kind, discount.value).expect("a string accepts it");
}

/// Copies the coupons into the stock, and returns the number of inserted rows.
///
/// The coupons are computed on a thread of their own, a few chunks ahead of Postgres, with constant memory.
async fn copy(
    connection: &mut PgConnection,
    event: &StoredEvent,
    batch: &CouponBatch,
    freeze: bool,
    progress: &mut (impl FnMut(u64) + Send),
) -> Result<u64, sqlx::Error> {
    let (sender, mut chunks) = mpsc::channel(4);
    let (batch, seed, format) = (batch.clone(), event.seed, event.format.clone());
    tokio::task::spawn_blocking(move || {
        let mut chunk = String::with_capacity(CHUNK + 256);
        let mut generated: u64 = 0;
        for coupon in batch.coupons(seed, format) {
            generated += 1;
            let Coupon { ordinal, code, discount } = coupon;
            write_copy_line(&mut chunk, ordinal, &code, discount);
            if chunk.len() >= CHUNK {
                let full = std::mem::replace(&mut chunk, String::with_capacity(CHUNK + 256));
                if sender.blocking_send((full, generated)).is_err() {
                    return;
                }
            }
        }
        let _ = sender.blocking_send((chunk, generated));
    });

    let mut copy = connection.copy_in_raw(&StockTable(event.uid).copy(freeze)).await?;
    while let Some((chunk, generated)) = chunks.recv().await {
        copy.send(chunk.into_bytes()).await?;
        progress(generated);
    }
    copy.finish().await
}

/// Adds the batch to the counts of the discounts. New discounts are appended in the order of the batch.
pub(crate) async fn add_to_counts(
    connection: &mut PgConnection,
    event: &StoredEvent,
    batch: &CouponBatch,
) -> Result<(), sqlx::Error> {
    let mut next = i32::try_from(event.discount_counts.len()).unwrap_or(i32::MAX);
    for (discount, count) in &batch.counts {
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
        if !event.discount_counts.iter().any(|(known, _)| known == discount) {
            next += 1;
        }
    }
    Ok(())
}
