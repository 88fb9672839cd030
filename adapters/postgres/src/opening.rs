//! The opening of an event: the earliest time at which its coupons may be issued. Before it, the stock may be
//! discarded; after it, never.

use couponry_domain::Uuid;

use crate::{
    connection::Database,
    error::{DatabaseError, Operation},
    event::StoredEvent,
};

impl Database {
    /// Allows coupons to be issued from this time on (milliseconds since the Unix epoch), which may be in the future.
    /// An earlier opening remains. `known` is the event as the caller has read it.
    pub async fn schedule_opening(&self, known: &StoredEvent, at: i64) -> Result<(), DatabaseError> {
        let uid = known.uid;
        let scheduled = self
            .with_connection(Operation::ScheduleOpening, async |connection| {
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
        if scheduled.rows_affected() == 0 { Err(DatabaseError::StockEpochChanged(uid)) } else { Ok(()) }
    }

    /// Withdraws an opening in the future. The caller ensures that no coupon can be issued before another opening is
    /// scheduled.
    pub async fn withdraw_opening(&self, uid: Uuid) -> Result<(), DatabaseError> {
        let withdrawn = self
            .with_connection(Operation::WithdrawOpening, async |connection| {
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
