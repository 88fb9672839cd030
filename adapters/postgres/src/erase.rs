//! Replacing erased users by their pseudonyms ([ADR 0030](../../../docs/adr/0030-voids-and-erasures.md)).

use couponry_domain::{EventName, UserId, Uuid};
use sqlx::{Row as _, postgres::PgRow};

use crate::{
    connection::Database,
    error::{DatabaseError, Operation},
    row::{self, InvalidRow},
};

/// An event in which a user may have a coupon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownEvent {
    /// Its uid.
    pub uid: Uuid,
    /// Its name.
    pub name: EventName,
    /// Whether its `CouponEvent` was deleted.
    pub is_deleted: bool,
}

/// An erasure that is committed in Postgres, and possibly not completed in Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingErasure {
    /// The event.
    pub uid: Uuid,
    /// Whether its object was deleted.
    pub is_deleted: bool,
    /// The pseudonym of the user.
    pub pseudonym: UserId,
}

impl Database {
    /// All events, also those that were deleted and whose rows were retained, the earliest first.
    pub async fn known_events(&self) -> Result<Vec<KnownEvent>, DatabaseError> {
        let rows = self
            .with_connection(Operation::ReadEvent, async |connection| {
                sqlx::query(
                    "SELECT uid, name, resource_deleted_at IS NOT NULL AS is_deleted FROM coupon_event
                     WHERE NOT is_purging ORDER BY created_at, uid",
                )
                .fetch_all(connection)
                .await
            })
            .await?;
        let event = |row: &PgRow| {
            let (uid, is_deleted) = (row.try_get("uid")?, row.try_get("is_deleted")?);
            Ok::<_, InvalidRow>(KnownEvent { uid, name: row::parsed(row, "name")?, is_deleted })
        };
        let events = rows.iter().map(event).collect::<Result<_, _>>();
        events.map_err(|invalid| invalid.in_operation(Operation::ReadEvent))
    }

    /// Replaces the user by this pseudonym in the issuances of the event. Returns whether the user had one. Idempotent.
    ///
    /// The erasure is pending until [`Database::finish_erasure`].
    pub async fn erase_user(&self, uid: Uuid, user: &UserId, pseudonym: &UserId) -> Result<bool, DatabaseError> {
        let erased = self
            .with_connection(Operation::EraseUser, async |connection| {
                sqlx::query(
                    "WITH erased AS (
                         UPDATE issuance SET user_id = $3 WHERE event_uid = $1 AND user_id = $2
                         RETURNING event_uid, user_id
                     )
                     INSERT INTO pending_erasure (event_uid, pseudonym) SELECT event_uid, user_id FROM erased",
                )
                .bind(uid)
                .bind(user.as_str())
                .bind(pseudonym.as_str())
                .execute(connection)
                .await
            })
            .await?;
        Ok(erased.rows_affected() > 0)
    }

    /// All pending erasures. Those of deleted rows of an event are deleted with them.
    pub async fn pending_erasures(&self) -> Result<Vec<PendingErasure>, DatabaseError> {
        let rows = self
            .with_connection(Operation::EraseUser, async |connection| {
                sqlx::query(
                    "SELECT uid, resource_deleted_at IS NOT NULL AS is_deleted, pseudonym
                     FROM pending_erasure JOIN coupon_event ON uid = event_uid",
                )
                .fetch_all(connection)
                .await
            })
            .await?;
        let pending = |row: &PgRow| {
            let (uid, is_deleted) = (row.try_get("uid")?, row.try_get("is_deleted")?);
            Ok::<_, InvalidRow>(PendingErasure { uid, is_deleted, pseudonym: row::parsed(row, "pseudonym")? })
        };
        let pending = rows.iter().map(pending).collect::<Result<_, _>>();
        pending.map_err(|invalid| invalid.in_operation(Operation::EraseUser))
    }

    /// The erasure is not pending any more: Redis does not name the user. Idempotent.
    pub async fn finish_erasure(&self, uid: Uuid, pseudonym: &UserId) -> Result<(), DatabaseError> {
        self.with_connection(Operation::EraseUser, async |connection| {
            sqlx::query("DELETE FROM pending_erasure WHERE event_uid = $1 AND pseudonym = $2")
                .bind(uid)
                .bind(pseudonym.as_str())
                .execute(connection)
                .await
        })
        .await
        .map(drop)
    }
}
