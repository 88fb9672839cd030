//! The record cutoff: after a recovery, older issuances that are not recorded yet never will be.

use crate::{
    connection::{Database, with_timeout},
    error::{DatabaseError, Operation},
    event::StoredEvent,
};

impl Database {
    /// Rejects issuances before this time (milliseconds since the Unix epoch) from now on, unless they are recorded
    /// already. When it returns, no transaction that started before it is still recording.
    ///
    /// `known` is the event as the caller has read it. False: another operator has set the cutoff since then.
    pub async fn set_record_cutoff(&self, known: &StoredEvent, cutoff: i64) -> Result<bool, DatabaseError> {
        let operation = Operation::SetRecordCutoff;
        with_timeout(operation, async {
            let at = || DatabaseError::at(operation);
            let mut session = self.session(operation).await?;
            let mut tx = session.begin().await?;
            // Waits for the locks of transactions that record issuances. A statement of its own, so that the next one
            // sees what they have committed.
            sqlx::query("SELECT FROM coupon_event WHERE uid = $1 FOR UPDATE")
                .bind(known.uid)
                .execute(&mut *tx)
                .await
                .map_err(at())?;
            let updated = sqlx::query(
                "UPDATE coupon_event SET record_cutoff = 'epoch'::timestamptz + $2 * interval '1 ms'
                 WHERE uid = $1
                   AND (extract(epoch FROM record_cutoff) * 1000)::bigint IS NOT DISTINCT FROM $3",
            )
            .bind(known.uid)
            .bind(cutoff)
            .bind(known.record_cutoff)
            .execute(&mut *tx)
            .await
            .map_err(at())?;
            tx.commit().await.map_err(at())?;
            session.finish();
            Ok(updated.rows_affected() == 1)
        })
        .await
    }
}
