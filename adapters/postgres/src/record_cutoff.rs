//! The record cutoff: after a recovery, issuances before the cutoff that are not recorded are rejected.

use couponry_domain::Uuid;

use crate::{
    connection::{Database, with_timeout},
    error::{DatabaseError, Operation},
    event::StoredEvent,
};

impl Database {
    /// After this call, issuances before this time (milliseconds since the Unix epoch) are rejected unless they are
    /// already recorded. When it returns, no transaction that started before it is still recording.
    ///
    /// `stored` is the event as the caller has read it. False: another operator has set the cutoff since then.
    pub async fn set_record_cutoff(&self, stored: &StoredEvent, cutoff: i64) -> Result<bool, DatabaseError> {
        let operation = Operation::SetRecordCutoff;
        with_timeout(operation, async {
            let at = || DatabaseError::at(operation);
            let mut session = self.session(operation).await?;
            let mut tx = session.begin().await?;
            // Waits for the locks of transactions that record issuances. A statement of its own, so that the next one
            // sees what they have committed.
            sqlx::query("SELECT FROM coupon_event WHERE uid = $1 FOR UPDATE")
                .bind(stored.uid)
                .execute(&mut *tx)
                .await
                .map_err(at())?;
            let updated = sqlx::query(
                "UPDATE coupon_event SET record_cutoff = 'epoch'::timestamptz + $2 * interval '1 ms'
                 WHERE uid = $1
                   AND (extract(epoch FROM record_cutoff) * 1000)::bigint IS NOT DISTINCT FROM $3",
            )
            .bind(stored.uid)
            .bind(cutoff)
            .bind(stored.record_cutoff)
            .execute(&mut *tx)
            .await
            .map_err(at())?;
            tx.commit().await.map_err(at())?;
            session.finish();
            Ok(updated.rows_affected() == 1)
        })
        .await
    }

    /// The latest time at which a recorded coupon was issued (milliseconds since the Unix epoch, by the clock of the
    /// Redis that issued it). Reads all issuances of the event.
    pub async fn latest_issued_at(&self, uid: Uuid) -> Result<Option<i64>, DatabaseError> {
        let operation = Operation::ReadIssuances;
        let mut session = self.long_session(operation).await?;
        let latest = sqlx::query_scalar(
            "SELECT (extract(epoch FROM max(issued_at)) * 1000)::bigint FROM issuance WHERE event_uid = $1",
        )
        .bind(uid)
        .fetch_one(session.connection())
        .await
        .map_err(DatabaseError::at(operation))?;
        session.finish();
        Ok(latest)
    }
}
