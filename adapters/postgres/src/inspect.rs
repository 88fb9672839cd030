//! Looking at what is stored without changing it: for audits, exports and checks.

use couponry_domain::{Coupon, Discount, EventName, UserId, Uuid, code::CouponCode};
use futures::{StreamExt as _, stream::BoxStream};
use sqlx::Row as _;

use crate::{
    Issuance, Database, DatabaseError, Operation,
    connection::migrations,
    issuance::issuance,
    preload::coupon,
    row::{self, Unexpected},
};

/// How far the tables are, by the numbers of the migrations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchemaVersion {
    /// The latest migration that the database has; 0 when it has none.
    pub applied: i64,
    /// The latest that this version of Couponry knows.
    pub known: i64,
    /// How many of those that this version knows are still to be applied.
    pub missing: usize,
}

/// A coupon of the stock, and who has it: a row of the view `coupon_status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CouponStatus {
    /// Its place in the shuffled order.
    pub ordinal: u64,
    /// Its code.
    pub code: CouponCode,
    /// What it is worth.
    pub discount: Discount,
    /// Who has it, and since when (milliseconds since the epoch).
    pub holder: Option<(UserId, i64)>,
}

impl Database {
    /// How far the tables are.
    pub async fn schema_version(&self) -> Result<SchemaVersion, DatabaseError> {
        let applied = self.applied_migrations().await?;
        let known: Vec<i64> = migrations().iter().map(|migration| migration.version).collect();
        Ok(SchemaVersion {
            applied: applied.iter().copied().max().unwrap_or(0),
            known: known.iter().copied().max().unwrap_or(0),
            missing: known.iter().filter(|version| !applied.contains(version)).count(),
        })
    }

    /// The uids of all events that have or had this name and whose rows are still there, the latest first.
    pub async fn uids_of(&self, name: &EventName) -> Result<Vec<Uuid>, DatabaseError> {
        self.ask(Operation::ReadEvent, async |connection| {
            sqlx::query_scalar("SELECT uid FROM coupon_event WHERE name = $1 ORDER BY created_at DESC, uid")
                .bind(name.as_str())
                .fetch_all(connection)
                .await
        })
        .await
    }

    /// The whole stock of the event by ordinal, as it comes from Postgres: memory stays flat.
    #[must_use]
    pub fn stock(&self, uid: Uuid) -> BoxStream<'_, Result<Coupon, DatabaseError>> {
        let operation = Operation::ReadCoupons;
        sqlx::query("SELECT ordinal, code, type, value FROM coupon WHERE event_uid = $1 ORDER BY ordinal")
            .bind(uid)
            .fetch(&self.pool)
            .map(move |row| {
                let row = row.map_err(DatabaseError::at(operation))?;
                coupon(&row).map_err(|what| what.during(operation))
            })
            .boxed()
    }

    /// The whole stock by ordinal with who has what, as it comes from Postgres: memory stays flat.
    #[must_use]
    pub fn stock_with_holders(&self, uid: Uuid) -> BoxStream<'_, Result<CouponStatus, DatabaseError>> {
        let operation = Operation::ReadCoupons;
        sqlx::query(
            "SELECT ordinal, code, type, value, user_id, (extract(epoch FROM issued_at) * 1000)::bigint AS issued_at
             FROM coupon_status WHERE event_uid = $1 ORDER BY ordinal",
        )
        .bind(uid)
        .fetch(&self.pool)
        .map(move |row| {
            let row = row.map_err(DatabaseError::at(operation))?;
            status(&row).map_err(|what| what.during(operation))
        })
        .boxed()
    }

    /// Those of the coupons that the event has.
    pub async fn coupons_with_codes(&self, uid: Uuid, codes: &[CouponCode]) -> Result<Vec<Coupon>, DatabaseError> {
        let operation = Operation::ReadCoupons;
        let codes: Vec<&str> = codes.iter().map(CouponCode::as_str).collect();
        let rows = self
            .ask(operation, async |connection| {
                sqlx::query("SELECT ordinal, code, type, value FROM coupon WHERE event_uid = $1 AND code = ANY($2)")
                    .bind(uid)
                    .bind(codes)
                    .fetch_all(connection)
                    .await
            })
            .await?;
        rows.iter().map(coupon).collect::<Result<_, _>>().map_err(|what| what.during(operation))
    }

    /// What is recorded of any of these users or any of these coupons.
    pub async fn issuances_about(
        &self,
        uid: Uuid,
        users: &[UserId],
        codes: &[CouponCode],
    ) -> Result<Vec<Issuance>, DatabaseError> {
        let operation = Operation::ReadIssuances;
        let users: Vec<&str> = users.iter().map(UserId::as_str).collect();
        let codes: Vec<&str> = codes.iter().map(CouponCode::as_str).collect();
        let rows = self
            .ask(operation, async |connection| {
                // Two questions, each with an index of its own.
                sqlx::query(
                    "SELECT user_id, code, type, value,
                            (extract(epoch FROM issued_at) * 1000)::bigint AS issued_at,
                            (extract(epoch FROM recorded_at) * 1000)::bigint AS recorded_at
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
        rows.iter().map(issuance).collect::<Result<_, _>>().map_err(|what| what.during(operation))
    }
}

fn status(row: &sqlx::postgres::PgRow) -> Result<CouponStatus, Unexpected> {
    let user: Option<String> = row.try_get("user_id")?;
    let at: Option<i64> = row.try_get("issued_at")?;
    let user =
        user.map(|user| user.parse().map_err(|error| Unexpected::new(format!("user_id: {error}")))).transpose()?;
    Ok(CouponStatus {
        ordinal: row::count(row, "ordinal")?,
        code: row::parsed(row, "code")?,
        discount: row::discount(row)?,
        holder: user.zip(at),
    })
}
