//! Events about which nothing was recorded for a while.

use std::time::Duration;

use couponry_domain::{EventName, Uuid};
use sqlx::{Row as _, postgres::PgRow};

use crate::{
    connection::Database,
    error::{DatabaseError, Operation},
    row::{self, InvalidRow},
};

const OPERATION: Operation = Operation::ReadEvent;

/// An event, and how many rows it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdleEvent {
    /// Its uid.
    pub uid: Uuid,
    /// Its name.
    pub name: EventName,
    /// The time since its last recorded issuance, or since its registration, by the clock of Postgres.
    pub idle_for: Duration,
    /// The number of its coupons.
    pub coupons: u64,
    /// The number of its recorded issuances.
    pub issuances: u64,
}

impl Database {
    /// The events whose last issuance was recorded at least `for_at_least` ago, the longest idle first. Without
    /// issuances, the time of their registration counts. Reads all issuances of events that are old enough.
    pub async fn idle_events(&self, for_at_least: Duration) -> Result<Vec<IdleEvent>, DatabaseError> {
        let mut session = self.long_session(OPERATION).await?;
        let rows = sqlx::query(
            "SELECT event.uid, event.name, stock.coupons, recorded.issuances,
                    extract(epoch FROM now() - recorded.last)::bigint AS idle_seconds
             FROM coupon_event AS event
             CROSS JOIN LATERAL (
                 SELECT coalesce(sum(count), 0)::bigint AS coupons FROM discount_policy WHERE event_uid = event.uid
             ) AS stock
             CROSS JOIN LATERAL (
                 SELECT count(*) AS issuances, greatest(max(recorded_at), event.created_at) AS last
                 FROM issuance WHERE event_uid = event.uid
             ) AS recorded
             WHERE NOT event.is_deleted
               AND event.created_at <= now() - $1 * interval '1 second'
               AND recorded.last <= now() - $1 * interval '1 second'
             ORDER BY recorded.last",
        )
        .bind(i64::try_from(for_at_least.as_secs()).unwrap_or(i64::MAX))
        .fetch_all(session.connection())
        .await
        .map_err(DatabaseError::at(OPERATION))?;
        session.finish();
        let event = |row: &PgRow| {
            Ok::<_, InvalidRow>(IdleEvent {
                uid: row.try_get("uid")?,
                name: row::parsed(row, "name")?,
                idle_for: Duration::from_secs(row::count(row, "idle_seconds")?),
                coupons: row::count(row, "coupons")?,
                issuances: row::count(row, "issuances")?,
            })
        };
        rows.iter().map(event).collect::<Result<_, _>>().map_err(|invalid| invalid.in_operation(OPERATION))
    }
}
