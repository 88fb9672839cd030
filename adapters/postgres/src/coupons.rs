//! Reading the coupons of an event.

use couponry_domain::{Coupon, Discount, UserId, Uuid, code::CouponCode};
use futures::{StreamExt as _, stream::BoxStream};
use sqlx::{Row as _, postgres::PgRow};

use crate::{
    connection::Database,
    error::{DatabaseError, Operation},
    row::{self, InvalidRow},
};

const OPERATION: Operation = Operation::ReadCoupons;

/// A coupon and its holder: a row of the view `coupon_status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CouponStatus {
    /// Its position in the shuffled order.
    pub ordinal: u64,
    /// Its code.
    pub code: CouponCode,
    /// Its discount.
    pub discount: Discount,
    /// Its holder, and when it was issued (milliseconds since the Unix epoch).
    pub holder: Option<(UserId, i64)>,
}

impl Database {
    /// Up to `limit` coupons of the event, by ordinal, from `from_ordinal` on.
    pub async fn coupons(&self, uid: Uuid, from_ordinal: u64, limit: u32) -> Result<Vec<Coupon>, DatabaseError> {
        let Ok(from) = i64::try_from(from_ordinal) else { return Ok(Vec::new()) };
        let rows = self
            .with_connection(OPERATION, async |connection| {
                sqlx::query(
                    "SELECT ordinal, code, type, value FROM coupon
                     WHERE event_uid = $1 AND ordinal >= $2 ORDER BY ordinal LIMIT $3",
                )
                .bind(uid)
                .bind(from)
                .bind(i64::from(limit))
                .fetch_all(connection)
                .await
            })
            .await?;
        rows.iter().map(coupon).collect::<Result<_, _>>().map_err(|invalid| invalid.in_operation(OPERATION))
    }

    /// Those of these coupons that the event has.
    pub async fn coupons_by_code(&self, uid: Uuid, codes: &[CouponCode]) -> Result<Vec<Coupon>, DatabaseError> {
        let codes: Vec<&str> = codes.iter().map(CouponCode::as_str).collect();
        let rows = self
            .with_connection(OPERATION, async |connection| {
                sqlx::query("SELECT ordinal, code, type, value FROM coupon WHERE event_uid = $1 AND code = ANY($2)")
                    .bind(uid)
                    .bind(codes)
                    .fetch_all(connection)
                    .await
            })
            .await?;
        rows.iter().map(coupon).collect::<Result<_, _>>().map_err(|invalid| invalid.in_operation(OPERATION))
    }

    /// Streams all coupons of the event by ordinal, with constant memory.
    #[must_use]
    pub fn stream_coupons(&self, uid: Uuid) -> BoxStream<'_, Result<Coupon, DatabaseError>> {
        sqlx::query("SELECT ordinal, code, type, value FROM coupon WHERE event_uid = $1 ORDER BY ordinal")
            .bind(uid)
            .fetch(&self.pool)
            .map(move |row| {
                let row = row.map_err(DatabaseError::at(OPERATION))?;
                coupon(&row).map_err(|invalid| invalid.in_operation(OPERATION))
            })
            .boxed()
    }

    /// Streams all coupons of the event with their holders by ordinal, with constant memory.
    #[must_use]
    pub fn stream_coupon_status(&self, uid: Uuid) -> BoxStream<'_, Result<CouponStatus, DatabaseError>> {
        sqlx::query(
            "SELECT ordinal, code, type, value, user_id, (extract(epoch FROM issued_at) * 1000)::bigint AS issued_at
             FROM coupon_status WHERE event_uid = $1 ORDER BY ordinal",
        )
        .bind(uid)
        .fetch(&self.pool)
        .map(move |row| {
            let row = row.map_err(DatabaseError::at(OPERATION))?;
            coupon_status(&row).map_err(|invalid| invalid.in_operation(OPERATION))
        })
        .boxed()
    }
}

fn coupon(row: &PgRow) -> Result<Coupon, InvalidRow> {
    Ok(Coupon { ordinal: row::count(row, "ordinal")?, code: row.try_get("code")?, discount: row::discount(row)? })
}

fn coupon_status(row: &PgRow) -> Result<CouponStatus, InvalidRow> {
    let user: Option<String> = row.try_get("user_id")?;
    let issued_at: Option<i64> = row.try_get("issued_at")?;
    let user =
        user.map(|user| user.parse().map_err(|error| InvalidRow::new(format!("user_id: {error}")))).transpose()?;
    Ok(CouponStatus {
        ordinal: row::count(row, "ordinal")?,
        code: row::parsed(row, "code")?,
        discount: row::discount(row)?,
        holder: user.zip(issued_at),
    })
}
