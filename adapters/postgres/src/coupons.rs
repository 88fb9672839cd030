//! Reading the coupons of an event.

use couponry_domain::{Coupon, Discount, UserId, Uuid, code::CouponCode};
use futures::{StreamExt as _, TryStreamExt as _, future::ready, stream::BoxStream};
use sqlx::{
    AssertSqlSafe, Postgres, Row as _,
    postgres::{PgArguments, PgRow},
    query::Query,
};

use crate::{
    connection::Database,
    error::{DatabaseError, Operation},
    row::{self, InvalidRow},
    stock_table::StockTable,
};

const OPERATION: Operation = Operation::ReadCoupons;

/// A coupon and its holder: as in the view `coupon_status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CouponWithHolder {
    /// Its position in the shuffled order.
    pub ordinal: u64,
    /// Its code.
    pub code: CouponCode,
    /// Its discount.
    pub discount: Discount,
    /// Its holder, and when it was issued (milliseconds since the Unix epoch).
    pub holder: Option<(UserId, i64)>,
    /// From when on the issued coupon is not valid any more (milliseconds since the Unix epoch). None: unlimited.
    pub valid_until: Option<i64>,
    /// Whether it is voided.
    pub is_voided: bool,
}

impl Database {
    /// Up to `limit` coupons of the event, by ordinal, from `from_ordinal` on.
    pub async fn coupons(&self, uid: Uuid, from_ordinal: u64, limit: u32) -> Result<Vec<Coupon>, DatabaseError> {
        let Ok(from) = i64::try_from(from_ordinal) else { return Ok(Vec::new()) };
        let query = format!(
            "SELECT ordinal, code, type, value FROM {} WHERE ordinal >= $1 ORDER BY ordinal LIMIT $2",
            StockTable(uid)
        );
        self.read(uid, sqlx::query(AssertSqlSafe(query)).bind(from).bind(i64::from(limit))).await
    }

    /// The coupons of the event with these codes.
    pub async fn coupons_by_code(&self, uid: Uuid, codes: &[CouponCode]) -> Result<Vec<Coupon>, DatabaseError> {
        let codes: Vec<&str> = codes.iter().map(CouponCode::as_str).collect();
        let query = format!("SELECT ordinal, code, type, value FROM {} WHERE code = ANY($1)", StockTable(uid));
        self.read(uid, sqlx::query(AssertSqlSafe(query)).bind(codes)).await
    }

    async fn read(&self, uid: Uuid, query: Query<'_, Postgres, PgArguments>) -> Result<Vec<Coupon>, DatabaseError> {
        let read = self.with_connection(OPERATION, async |connection| query.fetch_all(connection).await).await;
        let rows = match read {
            Err(error) if error.is_undefined_table() => {
                self.require_no_stock(uid).await?;
                return Ok(Vec::new());
            }
            rows => rows?,
        };
        rows.iter().map(coupon).collect::<Result<_, _>>().map_err(|invalid| invalid.in_operation(OPERATION))
    }

    /// Streams all coupons of the event by ordinal, with constant memory.
    #[must_use]
    pub fn stream_coupons(&self, uid: Uuid) -> BoxStream<'_, Result<Coupon, DatabaseError>> {
        let query = format!("SELECT ordinal, code, type, value FROM {} ORDER BY ordinal", StockTable(uid));
        self.stream(uid, sqlx::query(AssertSqlSafe(query)), coupon)
    }

    /// Streams all coupons of the event with their holders by ordinal, with constant memory.
    #[must_use]
    pub fn stream_coupons_with_holders(&self, uid: Uuid) -> BoxStream<'_, Result<CouponWithHolder, DatabaseError>> {
        let query = format!(
            "SELECT stock.ordinal, stock.code, stock.type, stock.value, issuance.user_id,
                    (extract(epoch FROM issuance.issued_at) * 1000)::bigint AS issued_at,
                    (extract(epoch FROM issuance.valid_until) * 1000)::bigint AS valid_until,
                    void.code IS NOT NULL AS is_voided
             FROM {} AS stock LEFT JOIN issuance ON issuance.event_uid = $1 AND issuance.code = stock.code
             LEFT JOIN coupon_use void ON void.event_uid = $1 AND void.code = stock.code AND void.kind = 'VOIDED'
             ORDER BY stock.ordinal",
            StockTable(uid)
        );
        self.stream(uid, sqlx::query(AssertSqlSafe(query)).bind(uid), coupon_with_holder)
    }

    fn stream<'a, T: Send + 'a>(
        &'a self,
        uid: Uuid,
        query: Query<'a, Postgres, PgArguments>,
        parse: fn(&PgRow) -> Result<T, InvalidRow>,
    ) -> BoxStream<'a, Result<T, DatabaseError>> {
        query
            .persistent(false)
            .fetch(&self.long_pool)
            .map_err(DatabaseError::at(OPERATION))
            .then(move |row| async move {
                match row {
                    Ok(row) => parse(&row).map(Some).map_err(|invalid| invalid.in_operation(OPERATION)),
                    Err(error) if error.is_undefined_table() => self.require_no_stock(uid).await.map(|()| None),
                    Err(error) => Err(error),
                }
            })
            .try_filter_map(|parsed| ready(Ok(parsed)))
            .boxed()
    }

    /// The table of the event does not exist. Fails if coupons were generated.
    async fn require_no_stock(&self, uid: Uuid) -> Result<(), DatabaseError> {
        let generated: bool = self
            .with_connection(OPERATION, async |connection| {
                sqlx::query_scalar("SELECT EXISTS (SELECT FROM discount_policy WHERE event_uid = $1)")
                    .bind(uid)
                    .fetch_one(connection)
                    .await
            })
            .await?;
        if generated { Err(DatabaseError::StockMissing { operation: OPERATION, uid }) } else { Ok(()) }
    }
}

fn coupon(row: &PgRow) -> Result<Coupon, InvalidRow> {
    Ok(Coupon { ordinal: row::count(row, "ordinal")?, code: row::parsed(row, "code")?, discount: row::discount(row)? })
}

fn coupon_with_holder(row: &PgRow) -> Result<CouponWithHolder, InvalidRow> {
    let user: Option<String> = row.try_get("user_id")?;
    let issued_at: Option<i64> = row.try_get("issued_at")?;
    let user =
        user.map(|user| user.parse().map_err(|error| InvalidRow::new(format!("user_id: {error}")))).transpose()?;
    Ok(CouponWithHolder {
        ordinal: row::count(row, "ordinal")?,
        code: row::parsed(row, "code")?,
        discount: row::discount(row)?,
        holder: user.zip(issued_at),
        valid_until: row.try_get("valid_until")?,
        is_voided: row.try_get("is_voided")?,
    })
}
