//! What is recorded of an event is all that ever will be of what was issued until now.

use crate::{Database, DatabaseError, Operation, StoredEvent, connection::answered};

impl Database {
    /// From now on, what was issued before this time (milliseconds since the Unix epoch) and is not recorded yet is refused; when
    /// this returns, nobody is recording it any more. `known` is the event as the caller has seen it. False: somebody else
    /// has sealed it since then.
    pub async fn set_record_cutoff(&self, known: &StoredEvent, before: i64) -> Result<bool, DatabaseError> {
        answered(Operation::Seal, async {
            let at = || DatabaseError::at(Operation::Seal);
            let mut session = self.session(Operation::Seal).await?;
            let mut tx = session.begin().await?;
            // Whoever records holds a lock that this one waits for. In a statement of its own: the next one sees what was
            // committed meanwhile.
            sqlx::query("SELECT FROM coupon_event WHERE uid = $1 FOR UPDATE")
                .bind(known.uid)
                .execute(&mut *tx)
                .await
                .map_err(at())?;
            let sealed = sqlx::query(
                "UPDATE coupon_event SET record_cutoff = 'epoch'::timestamptz + $2 * interval '1 ms'
                 WHERE uid = $1
                   AND (extract(epoch FROM record_cutoff) * 1000)::bigint IS NOT DISTINCT FROM $3",
            )
            .bind(known.uid)
            .bind(before)
            .bind(known.record_cutoff)
            .execute(&mut *tx)
            .await
            .map_err(at())?;
            tx.commit().await.map_err(at())?;
            session.finish();
            Ok(sealed.rows_affected() == 1)
        })
        .await
    }
}
