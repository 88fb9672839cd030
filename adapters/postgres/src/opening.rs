//! The opening of an event: the earliest time at which its coupons may be issued. It is stored before the gate in Redis
//! opens. While it is stored, the stock cannot be discarded.
//!
//! Whether an event has opened is never decided by comparing clocks: Postgres's own clock is not read, and an opening
//! that is final stays final ([ADR 0022](../../../docs/adr/0022-openings.md)).

use crate::{
    connection::Database,
    error::{DatabaseError, Operation},
    event::StoredEvent,
};

impl Database {
    /// Allows coupons to be issued from this time on (milliseconds since the Unix epoch, by the clock of Redis). An
    /// earlier opening remains. `stored` is the event as the caller has read it.
    ///
    /// `start`: the start of the window with which the gate opens. A recovery of Redis opens the gate with it.
    ///
    /// `is_final`: coupons may be issued at once, or have been issued. Otherwise the opening can be withdrawn.
    pub async fn schedule_opening(
        &self,
        stored: &StoredEvent,
        at: i64,
        start: Option<i64>,
        is_final: bool,
    ) -> Result<(), DatabaseError> {
        let scheduled = self
            .with_connection(Operation::ScheduleOpening, async |connection| {
                sqlx::query(
                    "UPDATE coupon_event
                     SET opens_at = least(opens_at, 'epoch'::timestamptz + $4 * interval '1 ms'),
                         starts_at = 'epoch'::timestamptz + $5 * interval '1 ms',
                         is_opening_final = is_opening_final OR $6,
                         openings = openings + (opens_at IS NULL)::integer
                     WHERE uid = $1 AND stock_epoch = $2 AND generation = $3",
                )
                .bind(stored.uid)
                .bind(i64::from(stored.stock_epoch))
                .bind(stored.generation)
                .bind(at)
                .bind(start)
                .bind(is_final)
                .execute(connection)
                .await
            })
            .await?;
        if scheduled.rows_affected() == 0 { Err(DatabaseError::EventChanged(stored.uid)) } else { Ok(()) }
    }

    /// Withdraws the opening that `stored` has. The caller ensures that the event has not opened, and that it
    /// cannot open before another opening is stored.
    ///
    /// False: the opening is final, was withdrawn already or replaced by another one, the manifest has changed, or an
    /// issuance is recorded.
    pub async fn withdraw_opening(&self, stored: &StoredEvent) -> Result<bool, DatabaseError> {
        let withdrawn = self
            .with_connection(Operation::WithdrawOpening, async |connection| {
                sqlx::query(
                    "UPDATE coupon_event SET opens_at = NULL
                     WHERE uid = $1 AND stock_epoch = $2 AND generation = $3 AND openings = $4
                       AND opens_at IS NOT NULL AND NOT is_opening_final
                       AND NOT EXISTS (SELECT FROM issuance WHERE event_uid = $1)",
                )
                .bind(stored.uid)
                .bind(i64::from(stored.stock_epoch))
                .bind(stored.generation)
                .bind(i64::from(stored.openings))
                .execute(connection)
                .await
            })
            .await?;
        Ok(withdrawn.rows_affected() == 1)
    }
}
