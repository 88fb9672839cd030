//! From when on coupons of an event may be given out. Until that time its stock may be made anew; after it, never.

use couponry_domain::Uuid;

use crate::{Database, DatabaseError, Operation, StoredEvent};

impl Database {
    /// Notes that coupons of the event may be given out from this time on (milliseconds since the epoch), which may be
    /// still to come. An earlier time that is noted already stays. `known` is the event as the caller has seen it.
    pub async fn schedule_opening(&self, known: &StoredEvent, at: i64) -> Result<(), DatabaseError> {
        let operation = Operation::ScheduleOpening;
        let uid = known.uid;
        let noted = self
            .ask(operation, async |connection| {
                sqlx::query(
                    "UPDATE coupon_event SET opened_at = least(opened_at, 'epoch'::timestamptz + $2 * interval '1 ms')
                     WHERE uid = $1 AND stock_epoch = $3",
                )
                .bind(uid)
                .bind(at)
                .bind(i64::from(known.stock_epoch))
                .execute(connection)
                .await
            })
            .await?;
        // What would be opened is not there any more.
        if noted.rows_affected() == 0 { Err(DatabaseError::StockEpochChanged(uid)) } else { Ok(()) }
    }

    /// Takes back an opening that is still to come. The caller has made sure that no coupon can be given out before it is
    /// noted again.
    pub async fn withdraw_opening(&self, uid: Uuid) -> Result<(), DatabaseError> {
        let operation = Operation::WithdrawOpening;
        let withdrawn = self
            .ask(operation, async |connection| {
                sqlx::query(
                    "UPDATE coupon_event SET opened_at = NULL
                     WHERE uid = $1 AND (opened_at IS NULL OR opened_at > now())
                       AND NOT EXISTS (SELECT FROM issuance WHERE event_uid = $1)",
                )
                .bind(uid)
                .execute(connection)
                .await
            })
            .await?;
        if withdrawn.rows_affected() == 0 { Err(DatabaseError::AlreadyOpened(uid)) } else { Ok(()) }
    }
}
