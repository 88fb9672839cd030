//! Events that were deleted, and whose rows were retained.

use std::time::Duration;

use couponry_domain::{EventName, Uuid};
use sqlx::{Row as _, postgres::PgRow};

use crate::{
    connection::Database,
    error::{DatabaseError, Operation},
    row::{self, InvalidRow},
};

const OPERATION: Operation = Operation::ReadEvent;

/// A deleted event, and how many rows it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetainedEvent {
    /// Its uid.
    pub uid: Uuid,
    /// Its name.
    pub name: EventName,
    /// The time since its deletion, by the clock of Postgres.
    pub deleted_for: Duration,
    /// The number of its coupons.
    pub coupons: u64,
    /// The number of its recorded issuances.
    pub issuances: u64,
    /// The number of uses of coupons that were not sent to Kafka.
    pub unsent_uses: u64,
}

impl Database {
    /// The events that were marked as deleted at least this long ago ([`Database::mark_resource_deleted`]), the
    /// earliest first. Counts all their issuances.
    pub async fn retained_events(&self, deleted_for: Duration) -> Result<Vec<RetainedEvent>, DatabaseError> {
        let mut session = self.long_session(OPERATION).await?;
        let rows = sqlx::query(
            "SELECT event.uid, event.name,
                    extract(epoch FROM now() - event.resource_deleted_at)::bigint AS deleted_seconds,
                    (SELECT coalesce(sum(count), 0)::bigint FROM discount_policy WHERE event_uid = event.uid) AS coupons,
                    (SELECT count(*) FROM issuance WHERE event_uid = event.uid) AS issuances,
                    (SELECT count(*) FROM coupon_use_outbox WHERE event_uid = event.uid) AS unsent_uses
             FROM coupon_event AS event
             WHERE NOT event.is_purging AND event.resource_deleted_at <= now() - $1 * interval '1 second'
             ORDER BY event.resource_deleted_at, event.uid",
        )
        .bind(i64::try_from(deleted_for.as_secs()).unwrap_or(i64::MAX))
        .fetch_all(session.connection())
        .await
        .map_err(DatabaseError::at(OPERATION))?;
        session.finish();
        let event = |row: &PgRow| {
            Ok::<_, InvalidRow>(RetainedEvent {
                uid: row.try_get("uid")?,
                name: row::parsed(row, "name")?,
                deleted_for: Duration::from_secs(row::count(row, "deleted_seconds")?),
                coupons: row::count(row, "coupons")?,
                issuances: row::count(row, "issuances")?,
                unsent_uses: row::count(row, "unsent_uses")?,
            })
        };
        rows.iter().map(event).collect::<Result<_, _>>().map_err(|invalid| invalid.in_operation(OPERATION))
    }
}
