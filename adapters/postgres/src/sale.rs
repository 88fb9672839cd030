//! Figures of an event, from its recorded issuances. They contain neither users nor codes.

use couponry_domain::{Discount, Uuid};
use sqlx::{Row as _, postgres::PgRow};

use crate::{
    connection::Database,
    error::{DatabaseError, Operation},
    row::{self, InvalidRow},
};

/// The curve has at most this many points.
const MAX_POINTS: u64 = 600;

/// What was recorded of an event.
#[derive(Clone, Debug, PartialEq)]
pub struct SaleFigures {
    /// The number of recorded issuances.
    pub recorded: u64,
    /// The recorded issuances by discount.
    pub by_discount: Vec<(Discount, u64)>,
    /// None: nothing is recorded.
    pub curve: Option<SaleCurve>,
}

/// The course of an event in which coupons were issued.
#[derive(Clone, Debug, PartialEq)]
pub struct SaleCurve {
    /// When the first and the last recorded coupon was issued, by the clock of Redis.
    pub first_issued_at: i64,
    /// See `first_issued_at`.
    pub last_issued_at: i64,
    /// The most coupons that were issued within one second of the clock.
    pub peak_per_second: u64,
    /// How many seconds each point covers.
    pub seconds_per_point: u64,
    /// The beginning of each point (milliseconds since the Unix epoch), and how many coupons were issued in it. Points
    /// without coupons are omitted.
    pub points: Vec<(i64, u64)>,
    /// How long it took from issuing to recording, in milliseconds: the median, the 99th percentile and the maximum. By
    /// the clocks of Redis and of Postgres, and never negative.
    pub recording_delay: [u64; 3],
}

const OPERATION: Operation = Operation::ReadIssuances;

impl Database {
    /// The figures of an event. It reads all its issuances.
    pub async fn sale_figures(&self, uid: Uuid) -> Result<SaleFigures, DatabaseError> {
        let mut session = self.long_session(OPERATION).await?;
        let failed = DatabaseError::at(OPERATION);
        let invalid = |invalid: InvalidRow| invalid.in_operation(OPERATION);
        let totals = sqlx::query(
            "SELECT count(*) AS recorded,
                    (extract(epoch FROM min(issued_at)) * 1000)::bigint AS first,
                    (extract(epoch FROM max(issued_at)) * 1000)::bigint AS last,
                    (percentile_disc(ARRAY[0.5, 0.99, 1]) WITHIN GROUP (
                        ORDER BY greatest(extract(epoch FROM recorded_at - issued_at) * 1000, 0)))::bigint[] AS delay
             FROM issuance WHERE event_uid = $1",
        )
        .bind(uid)
        .fetch_one(session.connection())
        .await
        .map_err(failed)?;
        let by_discount = sqlx::query(
            "SELECT type, value, count(*) AS count FROM issuance WHERE event_uid = $1
             GROUP BY type, value ORDER BY type, value",
        )
        .bind(uid)
        .fetch_all(session.connection())
        .await
        .map_err(failed)?;
        let by_discount = by_discount.iter().map(discount_count).collect::<Result<_, _>>().map_err(invalid)?;
        let recorded = row::count(&totals, "recorded").map_err(invalid)?;
        let span = span(&totals).map_err(invalid)?;
        let Some((first_issued_at, last_issued_at, recording_delay)) = span else {
            session.finish();
            return Ok(SaleFigures { recorded, by_discount, curve: None });
        };
        let seconds = u64::try_from(last_issued_at - first_issued_at).unwrap_or_default() / 1000 + 1;
        let seconds_per_point = seconds.div_ceil(MAX_POINTS).max(1);
        let points = sqlx::query(
            "SELECT (floor(second / $2) * $2 * 1000)::bigint AS at, sum(count)::bigint AS count, max(count) AS peak
             FROM (SELECT floor(extract(epoch FROM issued_at)) AS second, count(*) AS count
                   FROM issuance WHERE event_uid = $1 GROUP BY second) AS by_second
             GROUP BY at ORDER BY at",
        )
        .bind(uid)
        .bind(i64::try_from(seconds_per_point).unwrap_or(i64::MAX))
        .fetch_all(session.connection())
        .await
        .map_err(failed)?;
        session.finish();
        let points = points.iter().map(point).collect::<Result<Vec<_>, _>>().map_err(invalid)?;
        let curve = SaleCurve {
            first_issued_at,
            last_issued_at,
            peak_per_second: points.iter().map(|(_, _, peak)| *peak).max().unwrap_or_default(),
            seconds_per_point,
            points: points.into_iter().map(|(at, count, _)| (at, count)).collect(),
            recording_delay,
        };
        Ok(SaleFigures { recorded, by_discount, curve: Some(curve) })
    }
}

/// The first and the last time, and the delays. None: there are no issuances.
fn span(row: &PgRow) -> Result<Option<(i64, i64, [u64; 3])>, InvalidRow> {
    let (first, last) = (row.try_get::<Option<i64>, _>("first")?, row.try_get::<Option<i64>, _>("last")?);
    let delays = row.try_get::<Option<Vec<i64>>, _>("delay")?.unwrap_or_default();
    let (Some(first), Some(last), &[median, high, max]) = (first, last, &delays[..]) else { return Ok(None) };
    Ok(Some((first, last, [median, high, max].map(|delay| u64::try_from(delay).unwrap_or_default()))))
}

fn discount_count(row: &PgRow) -> Result<(Discount, u64), InvalidRow> {
    Ok((row::discount(row)?, row::count(row, "count")?))
}

fn point(row: &PgRow) -> Result<(i64, u64, u64), InvalidRow> {
    Ok((row.try_get("at")?, row::count(row, "count")?, row::count(row, "peak")?))
}
