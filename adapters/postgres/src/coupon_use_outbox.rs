//! Sending the uses of coupons, in the order of each coupon's history, at least once ([ADR
//! 0031](../../../docs/adr/0031-use-records.md)).
//!
//! # Guarantees
//! - Each row of `coupon_use` has an entry in the outbox from the same transaction, until it was sent.
//! - Only one session at a time sends entries: the one that has an advisory lock, until the end of its transaction.

use couponry_domain::{Uuid, used_record::UsedRecord};
use sqlx::{PgConnection, Row as _, postgres::PgRow};

use crate::{
    connection::{Database, with_timeout},
    coupon_use::coupon_use,
    error::{DatabaseError, Operation},
    row::{self, InvalidRow},
};

const OPERATION: Operation = Operation::SendUses;

/// The key of the advisory lock: "coupon-u" in ASCII.
const LOCK: i64 = 0x636f_7570_6f6e_2d75;

/// The entries that are counted if more are waiting.
const MAX_COUNTED: i64 = 100_000;

/// The entries of the outbox that are sent together.
#[derive(Clone, Debug, Default)]
pub struct PendingUses {
    /// The first entries.
    pub records: Vec<UsedRecord>,
    /// The number of all entries: at most 100,000.
    pub count: u64,
    /// The age of the first entry, in seconds.
    pub age_seconds: f64,
}

/// The outcome of sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendOutcome {
    /// Another session is sending.
    Busy,
    /// No entries are waiting.
    Empty,
    /// The records were sent and their entries deleted.
    Sent,
    /// The records were not all sent. Their entries remain.
    NotSent,
}

impl Database {
    /// Sends at most `max` uses of coupons, unless another session is sending. `send` must return true only if all of
    /// them are durable. It is also called if there are none, with the counts.
    ///
    /// # Errors
    /// After an error, the records may have been sent. They are sent again.
    pub async fn send_uses(
        &self,
        max: u32,
        send: impl AsyncFnOnce(PendingUses) -> bool,
    ) -> Result<SendOutcome, DatabaseError> {
        let at = DatabaseError::at(OPERATION);
        let mut session = self.session(OPERATION).await?;
        // It writes nothing before the records are sent, so it does not delay VACUUM.
        let mut tx = with_timeout(OPERATION, session.begin()).await?;
        let Some((pending, ids)) = with_timeout(OPERATION, lock_and_read(&mut tx, max)).await? else {
            with_timeout(OPERATION, async { tx.rollback().await.map_err(at) }).await?;
            session.finish();
            return Ok(SendOutcome::Busy);
        };
        let is_empty = pending.count == 0;
        let outcome = match send(pending).await {
            _ if is_empty => SendOutcome::Empty,
            // All entries are invalid, or not all were sent.
            are_sent if ids.is_empty() || !are_sent => SendOutcome::NotSent,
            _ => SendOutcome::Sent,
        };
        with_timeout(OPERATION, async {
            if outcome == SendOutcome::Sent {
                couponry_failpoint::crash("database.before-sent-uses-are-deleted");
                sqlx::query("DELETE FROM coupon_use_outbox WHERE id = ANY ($1)")
                    .bind(ids)
                    .execute(&mut *tx)
                    .await
                    .map_err(at)?;
            }
            tx.commit().await.map_err(at)
        })
        .await?;
        session.finish();
        Ok(outcome)
    }
}

impl Database {
    /// The number of uses of this event's coupons that were not sent yet.
    pub async fn unsent_uses(&self, uid: Uuid) -> Result<u64, DatabaseError> {
        let count: i64 = self
            .with_connection(Operation::CountUnsentUses, async |connection| {
                sqlx::query_scalar("SELECT count(*) FROM coupon_use_outbox WHERE event_uid = $1")
                    .bind(uid)
                    .fetch_one(connection)
                    .await
            })
            .await?;
        Ok(count.unsigned_abs())
    }
}

/// The first entries of the outbox and their ids. None: another session is sending.
async fn lock_and_read(
    connection: &mut PgConnection,
    max: u32,
) -> Result<Option<(PendingUses, Vec<i64>)>, DatabaseError> {
    let at = DatabaseError::at(OPERATION);
    // Released at the end of the transaction, also if this process is killed.
    let (is_locked, is_read_only): (bool, bool) =
        sqlx::query_as("SELECT pg_try_advisory_xact_lock($1), current_setting('transaction_read_only')::boolean")
            .bind(LOCK)
            .fetch_one(&mut *connection)
            .await
            .map_err(at)?;
    // The entries could not be deleted, and would be sent again without end.
    if is_read_only {
        return Err(DatabaseError::ReadOnly);
    }
    if !is_locked {
        return Ok(None);
    }
    let mut rows = read_entries(connection, i64::MIN, max).await?;
    let Some(first) = rows.first() else { return Ok(Some(Default::default())) };
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM (SELECT FROM coupon_use_outbox LIMIT $1) AS waiting")
        .bind(MAX_COUNTED)
        .fetch_one(&mut *connection)
        .await
        .map_err(at)?;
    let age_seconds = first.try_get::<Option<f64>, _>("age").map_err(at)?.unwrap_or_default();
    let (mut records, mut ids) = (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
    let mut invalid = 0_u64;
    // Invalid entries remain. Others must not wait for them, also if there are more than `max`.
    while let Some(last) = rows.last() {
        for row in &rows {
            let id: i64 = row.try_get("id").map_err(at)?;
            match used_record(row) {
                Ok(Some(record)) => records.push(record),
                Ok(None) => tracing::warn!(id, "a use of a coupon was deleted before it was sent"),
                Err(error) => {
                    if invalid == 0 {
                        tracing::error!(id, error = %error.in_operation(OPERATION), "cannot send the use of a coupon");
                    }
                    invalid += 1;
                    continue;
                }
            }
            ids.push(id);
        }
        if !ids.is_empty() {
            break;
        }
        rows = read_entries(connection, last.try_get("id").map_err(at)?, max).await?;
    }
    if invalid > 1 {
        tracing::error!(count = invalid, "cannot send uses of coupons");
    }
    Ok(Some((PendingUses { records, count: count.unsigned_abs(), age_seconds }, ids)))
}

/// The next entries of the outbox after this id. A use that was deleted together with its event has no record.
async fn read_entries(connection: &mut PgConnection, after: i64, max: u32) -> Result<Vec<PgRow>, DatabaseError> {
    sqlx::query(
        "SELECT outbox.id, event.uid, event.name, event.is_purging, issuance.user_id, outbox.code, used.seq, used.kind,
                used.order_ref,
                (extract(epoch FROM used.until) * 1000)::bigint AS until,
                (extract(epoch FROM used.at) * 1000)::bigint AS at,
                greatest(extract(epoch FROM clock_timestamp() - used.at), 0)::float8 AS age
         FROM (SELECT * FROM coupon_use_outbox WHERE id > $1 ORDER BY id LIMIT $2) AS outbox
         LEFT JOIN coupon_use used USING (event_uid, code, seq)
         LEFT JOIN issuance USING (event_uid, code)
         LEFT JOIN coupon_event event ON event.uid = outbox.event_uid
         ORDER BY outbox.id",
    )
    .bind(after)
    .bind(i64::from(max))
    .fetch_all(&mut *connection)
    .await
    .map_err(DatabaseError::at(OPERATION))
}

/// None: the use was deleted, together with its event.
fn used_record(row: &PgRow) -> Result<Option<UsedRecord>, InvalidRow> {
    let event_id = row::parsed_if_set(row, "name")?;
    let (Some(event_id), Some(entry)) = (event_id, coupon_use(row, "")?) else { return Ok(None) };
    let Some(user_id) = row::parsed_if_set(row, "user_id")? else {
        // The deletion of the event removes the issuances before the uses.
        if row.try_get("is_purging")? {
            return Ok(None);
        }
        // Postgres has lost the issuance, for example in a restore. The operator records it again from Redis.
        return Err(InvalidRow::new("the issuance is missing"));
    };
    Ok(Some(UsedRecord { event_id, event_uid: row.try_get("uid")?, coupon: row::parsed(row, "code")?, user_id, entry }))
}
