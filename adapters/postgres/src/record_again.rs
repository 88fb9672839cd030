//! Recording issuances that Redis or the topic has and Postgres has not.

use std::collections::HashSet;

use couponry_domain::{IssuedCoupon, UserId};
use sqlx::AssertSqlSafe;

use crate::{
    connection::{Database, with_timeout},
    error::{DatabaseError, Operation},
    event::StoredEvent,
    stock_table::StockTable,
};

const OPERATION: Operation = Operation::Record;

impl Database {
    /// Records issuances that Redis or the topic has, also those from before the record cutoff, if their users and
    /// coupons are free. Returns the users whose issuances are recorded now, or were before.
    ///
    /// `stored` is the event as the caller has read it before it has read the issuances. None: a recovery
    /// has started since then, or the event was deleted; nothing was recorded. A recovery sets another record cutoff
    /// before it changes the holders, so either the state of Redis under this cutoff is recorded, or nothing is.
    pub async fn record_again(
        &self,
        stored: &StoredEvent,
        issued: &[IssuedCoupon],
    ) -> Result<Option<HashSet<UserId>>, DatabaseError> {
        let at = DatabaseError::at(OPERATION);
        with_timeout(OPERATION, async {
            let mut session = self.session(OPERATION).await?;
            let mut tx = session.begin().await?;
            // Prevents that the record cutoff changes before the commit.
            let locked = sqlx::query(
                "SELECT FROM coupon_event
                 WHERE uid = $1 AND stock_epoch = $2 AND NOT is_purging
                   AND (extract(epoch FROM record_cutoff) * 1000)::bigint IS NOT DISTINCT FROM $3
                 FOR KEY SHARE",
            )
            .bind(stored.uid)
            .bind(i64::from(stored.stock_epoch))
            .bind(stored.record_cutoff)
            .fetch_optional(&mut *tx)
            .await
            .map_err(at)?;
            if locked.is_none() {
                tx.rollback().await.map_err(at)?;
                session.finish();
                return Ok(None);
            }
            let users: Vec<&str> = issued.iter().map(|one| one.user_id.as_str()).collect();
            let codes: Vec<&str> = issued.iter().map(|one| one.coupon.as_str()).collect();
            let validity = stored.terms.validity.as_ref();
            let valid_until = |one: &IssuedCoupon| validity.map(|validity| validity.valid_until(one.issued_at));
            // In the order of the users, like all transactions that record issuances: otherwise they could deadlock.
            sqlx::query(AssertSqlSafe(format!(
                "INSERT INTO issuance (event_uid, user_id, code, type, value, issued_at, valid_until)
                 SELECT $1, record.user_id, coupon.code, coupon.type, coupon.value,
                        to_timestamp(record.issued_at / 1000.0), to_timestamp(record.valid_until / 1000.0)
                 FROM unnest($2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[])
                      AS record (user_id, code, type, value, issued_at, valid_until)
                 JOIN {} AS coupon ON coupon.code = record.code
                      AND coupon.type = record.type AND coupon.value = record.value
                 WHERE record.issued_at BETWEEN 0 AND 253402300799999
                 ORDER BY record.user_id COLLATE \"C\"
                 ON CONFLICT DO NOTHING",
                StockTable(stored.uid)
            )))
            .bind(stored.uid)
            .bind(&users)
            .bind(&codes)
            .bind(issued.iter().map(|one| one.discount.kind.as_str()).collect::<Vec<_>>())
            .bind(issued.iter().map(|one| i64::from(one.discount.value)).collect::<Vec<_>>())
            .bind(issued.iter().map(|one| one.issued_at).collect::<Vec<_>>())
            .bind(issued.iter().map(valid_until).collect::<Vec<_>>())
            .execute(&mut *tx)
            .await
            .map_err(at)?;
            let recorded: Vec<String> = sqlx::query_scalar(
                "SELECT issuance.user_id FROM issuance
                 JOIN unnest($2::text[], $3::text[]) AS record (user_id, code)
                      ON issuance.user_id = record.user_id AND issuance.code = record.code
                 WHERE issuance.event_uid = $1",
            )
            .bind(stored.uid)
            .bind(&users)
            .bind(&codes)
            .fetch_all(&mut *tx)
            .await
            .map_err(at)?;
            tx.commit().await.map_err(at)?;
            session.finish();
            let recorded: HashSet<String> = recorded.into_iter().collect();
            let users = issued.iter().map(|one| &one.user_id).filter(|user| recorded.contains(user.as_str()));
            Ok(Some(users.cloned().collect()))
        })
        .await
    }
}
