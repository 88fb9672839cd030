//! Deleting an event.

use couponry_domain::{EventName, Uuid};

use crate::{
    connection::{Database, Session},
    error::{DatabaseError, Operation},
    stock_table::StockTable,
};

const OPERATION: Operation = Operation::DeleteEvent;

/// How many issuances or uses are deleted per transaction.
const BATCH: i64 = 10_000;

impl Database {
    /// Starts the deletion of the event: from now on, nothing is recorded for it, and none of its coupons can be used.
    /// Waits for the transactions that do this now. Idempotent. Returns whether an event with this uid and name exists:
    /// a manifest may name the uid of another event.
    pub async fn start_purge(&self, uid: Uuid, name: &EventName) -> Result<bool, DatabaseError> {
        let mut session = self.long_session(OPERATION).await?;
        let exists = start_purge(&mut session, uid, name).await?;
        session.finish();
        Ok(exists)
    }

    /// Ends a deletion that [`Self::start_purge`] has started, unless the coupons are deleted already.
    pub async fn cancel_purge(&self, uid: Uuid, name: &EventName) -> Result<(), DatabaseError> {
        self.with_connection(OPERATION, async |connection| {
            sqlx::query(
                "UPDATE coupon_event SET is_purging = false
                 WHERE uid = $1 AND name = $2 AND is_purging AND to_regclass($3) IS NOT NULL",
            )
            .bind(uid)
            .bind(name.as_str())
            .bind(StockTable(uid).to_string())
            .execute(connection)
            .await
        })
        .await
        .map(drop)
    }

    /// Deletes the event with its coupons, their issuances and uses. No-op if an event with this uid and name does not
    /// exist.
    ///
    /// It starts with [`Self::start_purge`]. It uses many transactions, none of which locks
    /// anything of another event. Interrupted, or failed because of a lock that another session holds, it continues
    /// when the call is repeated.
    pub async fn delete_event(&self, uid: Uuid, name: &EventName) -> Result<(), DatabaseError> {
        let mut session = self.long_session(OPERATION).await?;
        if !start_purge(&mut session, uid, name).await? {
            session.finish();
            return Ok(());
        }
        StockTable(uid).drop(session.connection()).await.map_err(DatabaseError::at(OPERATION))?;
        let mut last = Some(String::new());
        while let Some(user) = last {
            last = delete_issuances(&mut session, uid, &user).await?;
        }
        while delete_uses(&mut session, uid).await? > 0 {}
        sqlx::query("DELETE FROM coupon_event WHERE uid = $1")
            .bind(uid)
            .execute(session.connection())
            .await
            .map_err(DatabaseError::at(OPERATION))?;
        session.finish();
        Ok(())
    }

    /// The events whose rows are being deleted, by uid and name.
    pub async fn purging_events(&self) -> Result<Vec<(Uuid, EventName)>, DatabaseError> {
        let purging: Vec<(Uuid, String)> = self
            .with_connection(Operation::ListDeletions, async |connection| {
                sqlx::query_as("SELECT uid, name FROM coupon_event WHERE is_purging ORDER BY uid")
                    .fetch_all(connection)
                    .await
            })
            .await?;
        Ok(purging.into_iter().filter_map(|(uid, name)| Some((uid, name.parse().ok()?))).collect())
    }
}

/// Marks the event, and waits for the transactions that record its issuances or change its coupons. They lock its row,
/// and those that have not locked it yet see the mark. Returns whether the event exists.
async fn start_purge(session: &mut Session, uid: Uuid, name: &EventName) -> Result<bool, DatabaseError> {
    // Committed first, without waiting for the others: otherwise new ones could keep the row locked for ever.
    if !mark_purging(session, uid, name).await? {
        return Ok(false);
    }
    let mut tx = session.begin().await?;
    for statement in [
        "SELECT FROM coupon_event WHERE uid = $1 FOR UPDATE",
        // A transaction with an older snapshot then finds that the row has changed, and reads it again.
        "UPDATE coupon_event SET is_purging = true WHERE uid = $1",
    ] {
        let statement = sqlx::query(statement).bind(uid);
        statement.execute(&mut *tx).await.map_err(DatabaseError::at(OPERATION))?;
    }
    tx.commit().await.map_err(DatabaseError::at(OPERATION))?;
    Ok(true)
}

async fn mark_purging(session: &mut Session, uid: Uuid, name: &EventName) -> Result<bool, DatabaseError> {
    let marked = sqlx::query("UPDATE coupon_event SET is_purging = true WHERE uid = $1 AND name = $2")
        .bind(uid)
        .bind(name.as_str())
        .execute(session.connection())
        .await
        .map_err(DatabaseError::at(OPERATION))?;
    Ok(marked.rows_affected() > 0)
}

/// Deletes the issuances of the next users after this one, and returns the last of them, or None if there are none.
async fn delete_issuances(session: &mut Session, uid: Uuid, after: &str) -> Result<Option<String>, DatabaseError> {
    sqlx::query_scalar(
        "WITH next AS (
             SELECT user_id FROM issuance WHERE event_uid = $1 AND user_id > $2 ORDER BY user_id LIMIT $3
         ), deleted AS (
             DELETE FROM issuance WHERE event_uid = $1 AND user_id > $2 AND user_id <= (SELECT max(user_id) FROM next)
         )
         SELECT max(user_id) FROM next",
    )
    .bind(uid)
    .bind(after)
    .bind(BATCH)
    .fetch_one(session.connection())
    .await
    .map_err(DatabaseError::at(OPERATION))
}

/// Deletes some uses of coupons of the event, and returns how many.
async fn delete_uses(session: &mut Session, uid: Uuid) -> Result<u64, DatabaseError> {
    let deleted = sqlx::query(
        "DELETE FROM coupon_use
         WHERE ctid = ANY (ARRAY(SELECT ctid FROM coupon_use WHERE event_uid = $1 LIMIT $2))",
    )
    .bind(uid)
    .bind(BATCH)
    .execute(session.connection())
    .await
    .map_err(DatabaseError::at(OPERATION))?;
    Ok(deleted.rows_affected())
}
