//! Reading recorded issuances.

use couponry_domain::{IssuedCoupon, UserId, Uuid, code::CouponCode};
use futures::{StreamExt as _, stream::BoxStream};
use sqlx::{Row as _, postgres::PgRow};

use crate::{
    connection::Database,
    error::{DatabaseError, Operation},
    row::{self, InvalidRow},
};

/// A recorded issuance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuance {
    /// The issued coupon.
    pub issued: IssuedCoupon,
    /// When it was recorded (milliseconds since the Unix epoch).
    pub recorded_at: i64,
    /// From when on the coupon is not valid any more (milliseconds since the Unix epoch). None: unlimited.
    pub valid_until: Option<i64>,
}

const OPERATION: Operation = Operation::ReadIssuances;

impl Database {
    /// The number of recorded issuances of the event. It counts the rows: for a million, this takes a moment.
    pub async fn recorded_count(&self, uid: Uuid) -> Result<u64, DatabaseError> {
        let row = self
            .with_connection(OPERATION, async |connection| {
                sqlx::query("SELECT count(*) AS recorded FROM issuance WHERE event_uid = $1")
                    .bind(uid)
                    .fetch_one(connection)
                    .await
            })
            .await?;
        row::count(&row, "recorded").map_err(|invalid| invalid.in_operation(OPERATION))
    }

    /// The recorded issuance of this user.
    pub async fn issuance_of(&self, uid: Uuid, user: &UserId) -> Result<Option<Issuance>, DatabaseError> {
        let row = self
            .with_connection(OPERATION, async |connection| {
                sqlx::query(
                    "SELECT user_id, code, type, value,
                            (extract(epoch FROM issued_at) * 1000)::bigint AS issued_at,
                            (extract(epoch FROM recorded_at) * 1000)::bigint AS recorded_at,
                            (extract(epoch FROM valid_until) * 1000)::bigint AS valid_until
                     FROM issuance WHERE event_uid = $1 AND user_id = $2",
                )
                .bind(uid)
                .bind(user.as_str())
                .fetch_optional(connection)
                .await
            })
            .await?;
        row.map(|row| issuance(&row)).transpose().map_err(|invalid| invalid.in_operation(OPERATION))
    }

    /// The recorded issuances of any of these users or any of these coupons.
    pub async fn find_issuances(
        &self,
        uid: Uuid,
        users: &[UserId],
        codes: &[CouponCode],
    ) -> Result<Vec<Issuance>, DatabaseError> {
        let users: Vec<&str> = users.iter().map(UserId::as_str).collect();
        let codes: Vec<&str> = codes.iter().map(CouponCode::as_str).collect();
        let rows = self
            .with_connection(OPERATION, async |connection| {
                // A UNION, so that each condition uses its own index.
                sqlx::query(
                    "SELECT user_id, code, type, value,
                            (extract(epoch FROM issued_at) * 1000)::bigint AS issued_at,
                            (extract(epoch FROM recorded_at) * 1000)::bigint AS recorded_at,
                            (extract(epoch FROM valid_until) * 1000)::bigint AS valid_until
                     FROM (SELECT * FROM issuance WHERE event_uid = $1 AND user_id = ANY($2)
                           UNION
                           SELECT * FROM issuance WHERE event_uid = $1 AND code = ANY($3)) AS found",
                )
                .bind(uid)
                .bind(users)
                .bind(codes)
                .fetch_all(connection)
                .await
            })
            .await?;
        rows.iter().map(issuance).collect::<Result<_, _>>().map_err(|invalid| invalid.in_operation(OPERATION))
    }

    /// Streams all recorded issuances of the event in no particular order, with constant memory.
    #[must_use]
    pub fn stream_issuances(&self, uid: Uuid) -> BoxStream<'_, Result<Issuance, DatabaseError>> {
        sqlx::query(
            "SELECT user_id, code, type, value,
                    (extract(epoch FROM issued_at) * 1000)::bigint AS issued_at,
                    (extract(epoch FROM recorded_at) * 1000)::bigint AS recorded_at,
                    (extract(epoch FROM valid_until) * 1000)::bigint AS valid_until
             FROM issuance WHERE event_uid = $1",
        )
        .bind(uid)
        .fetch(&self.long_pool)
        .map(|row| {
            let row = row.map_err(DatabaseError::at(OPERATION))?;
            issuance(&row).map_err(|invalid| invalid.in_operation(OPERATION))
        })
        .boxed()
    }
}

fn issuance(row: &PgRow) -> Result<Issuance, InvalidRow> {
    let issued = IssuedCoupon {
        user_id: row::parsed(row, "user_id")?,
        coupon: row::parsed(row, "code")?,
        discount: row::discount(row)?,
        issued_at: row.try_get("issued_at")?,
    };
    Ok(Issuance { issued, recorded_at: row.try_get("recorded_at")?, valid_until: row.try_get("valid_until")? })
}
