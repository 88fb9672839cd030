//! Reading what was recorded.

use couponry_domain::{Discount, UserId, Uuid, code::CouponCode};
use futures::{StreamExt as _, stream::BoxStream};
use sqlx::{Row as _, postgres::PgRow};

use crate::{
    Database, DatabaseError, Operation,
    row::{self, Unexpected},
};

/// A recorded issuance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuance {
    /// Who has the coupon.
    pub user_id: UserId,
    /// The coupon's code.
    pub coupon: CouponCode,
    /// What it is worth.
    pub discount: Discount,
    /// When Redis gave it (milliseconds since the epoch).
    pub issued_at: i64,
    /// When it was recorded (milliseconds since the epoch).
    pub recorded_at: i64,
}

const OPERATION: Operation = Operation::ReadIssuances;

impl Database {
    /// How many issuances of the event are recorded. It counts them: a million take a moment.
    pub async fn issued_count(&self, uid: Uuid) -> Result<u64, DatabaseError> {
        let row = self
            .ask(OPERATION, async |connection| {
                sqlx::query("SELECT count(*) AS issued FROM issuance WHERE event_uid = $1")
                    .bind(uid)
                    .fetch_one(connection)
                    .await
            })
            .await?;
        row::count(&row, "issued").map_err(|what| what.during(OPERATION))
    }

    /// What is recorded for this user.
    pub async fn issuance_of(&self, uid: Uuid, user: &UserId) -> Result<Option<Issuance>, DatabaseError> {
        let row = self
            .ask(OPERATION, async |connection| {
                sqlx::query(
                    "SELECT user_id, code, type, value,
                            (extract(epoch FROM issued_at) * 1000)::bigint AS issued_at,
                            (extract(epoch FROM recorded_at) * 1000)::bigint AS recorded_at
                     FROM issuance WHERE event_uid = $1 AND user_id = $2",
                )
                .bind(uid)
                .bind(user.as_str())
                .fetch_optional(connection)
                .await
            })
            .await?;
        row.map(|row| issuance(&row)).transpose().map_err(|what| what.during(OPERATION))
    }

    /// All issuances of the event, in no particular order, as they come from Postgres: memory stays flat.
    #[must_use]
    pub fn issuances(&self, uid: Uuid) -> BoxStream<'_, Result<Issuance, DatabaseError>> {
        sqlx::query(
            "SELECT user_id, code, type, value,
                    (extract(epoch FROM issued_at) * 1000)::bigint AS issued_at,
                    (extract(epoch FROM recorded_at) * 1000)::bigint AS recorded_at
             FROM issuance WHERE event_uid = $1",
        )
        .bind(uid)
        .fetch(&self.pool)
        .map(|row| {
            let row = row.map_err(DatabaseError::at(OPERATION))?;
            issuance(&row).map_err(|what| what.during(OPERATION))
        })
        .boxed()
    }
}

pub(crate) fn issuance(row: &PgRow) -> Result<Issuance, Unexpected> {
    Ok(Issuance {
        user_id: row::parsed(row, "user_id")?,
        coupon: row::parsed(row, "code")?,
        discount: row::discount(row)?,
        issued_at: row.try_get("issued_at")?,
        recorded_at: row.try_get("recorded_at")?,
    })
}
