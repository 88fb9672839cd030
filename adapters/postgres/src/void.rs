//! Voiding issued coupons: withdrawing them from their users
//! ([ADR 0030](../../../docs/adr/0030-voids-and-erasures.md)).
//!
//! # Guarantees
//! A void is the last entry of the history of its coupon, inserted like the others: if a redemption is inserted first,
//! the void is refused, and the other way round.

use std::collections::HashMap;

use couponry_domain::{UserId, Uuid, code::CouponCode, redemption, redemption::Refusal};
use futures::{StreamExt as _, stream::BoxStream};
use sqlx::{PgConnection, Row as _, postgres::PgRow};

use crate::{
    connection::{Database, with_timeout},
    coupon_use::{Cause, MAX_ATTEMPTS, OPERATION, coupon_use, insert},
    error::DatabaseError,
    row::{self, InvalidRow},
};

/// The outcome of a void.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VoidOutcome {
    /// The coupon is voided now.
    Voided,
    /// The coupon was voided before.
    AlreadyVoided,
    /// Nothing was changed.
    Refused(Refusal),
    /// No issuance of the coupon is recorded, or the event is being deleted. Nothing was changed.
    NotRecorded,
}

/// Reads the last row of the history. `clock_timestamp()` is read after the snapshot was taken.
const READ_LAST: &str = "
    SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now, last.seq, last.kind, last.order_ref,
           (extract(epoch FROM last.until) * 1000)::bigint AS until, (extract(epoch FROM last.at) * 1000)::bigint AS at
    FROM issuance
    LEFT JOIN LATERAL (
        SELECT * FROM coupon_use
        WHERE coupon_use.event_uid = issuance.event_uid AND coupon_use.code = issuance.code
        ORDER BY seq DESC LIMIT 1
    ) AS last ON true
    WHERE issuance.event_uid = $1 AND issuance.code = $2
      AND EXISTS (SELECT FROM coupon_event WHERE uid = $1 AND NOT is_purging)";

impl Database {
    /// Voids the coupon on behalf of `actor`. Idempotent.
    ///
    /// # Errors
    /// After an error, the coupon may have been voided. A repeated call returns the outcome.
    pub async fn void_coupon(
        &self,
        uid: Uuid,
        code: &CouponCode,
        actor: &str,
        reason: &str,
    ) -> Result<VoidOutcome, DatabaseError> {
        let void = async {
            let mut session = self.lookup_session(OPERATION).await?;
            let cause = Cause { request: None, actor: Some(actor), reason: Some(reason) };
            for _ in 0..MAX_ATTEMPTS {
                if let Some(outcome) = attempt(session.connection(), uid, code, cause).await? {
                    session.finish();
                    return Ok(outcome);
                }
            }
            session.finish();
            Err(DatabaseError::Conflict(OPERATION))
        };
        with_timeout(OPERATION, Box::pin(void)).await
    }

    /// Streams the voided coupons of the event with their users in no particular order, with constant memory.
    #[must_use]
    pub fn stream_voided(&self, uid: Uuid) -> BoxStream<'_, Result<(UserId, CouponCode), DatabaseError>> {
        sqlx::query(
            "SELECT user_id, code FROM coupon_use JOIN issuance USING (event_uid, code)
             WHERE event_uid = $1 AND kind = 'VOIDED'",
        )
        .bind(uid)
        .fetch(&self.long_pool)
        .map(|row| {
            let row = row.map_err(DatabaseError::at(OPERATION))?;
            let voided = || Ok((row::parsed(&row, "user_id")?, row::parsed(&row, "code")?));
            voided().map_err(|invalid: InvalidRow| invalid.in_operation(OPERATION))
        })
        .boxed()
    }

    /// The number of voided coupons of each event that has some.
    pub async fn void_counts(&self) -> Result<HashMap<Uuid, u64>, DatabaseError> {
        let rows = self
            .with_connection(OPERATION, async |connection| {
                let count = "SELECT event_uid, count(*) FROM coupon_use WHERE kind = 'VOIDED' GROUP BY event_uid";
                sqlx::query(count).fetch_all(connection).await
            })
            .await?;
        let counts = rows.iter().map(|row| Ok((row.try_get("event_uid")?, row::count(row, "count")?)));
        counts.collect::<Result<_, InvalidRow>>().map_err(|invalid| invalid.in_operation(OPERATION))
    }

    /// Those of these coupons that are voided.
    pub async fn voided_among(&self, uid: Uuid, codes: &[CouponCode]) -> Result<Vec<CouponCode>, DatabaseError> {
        let codes: Vec<&str> = codes.iter().map(CouponCode::as_str).collect();
        let rows = self
            .with_connection(OPERATION, async |connection| {
                sqlx::query("SELECT code FROM coupon_use WHERE event_uid = $1 AND kind = 'VOIDED' AND code = ANY($2)")
                    .bind(uid)
                    .bind(codes)
                    .fetch_all(connection)
                    .await
            })
            .await?;
        let codes = rows.iter().map(|row| row::parsed(row, "code")).collect::<Result<_, _>>();
        codes.map_err(|invalid| invalid.in_operation(OPERATION))
    }
}

/// None: the history has changed since it was read.
async fn attempt(
    connection: &mut PgConnection,
    uid: Uuid,
    code: &CouponCode,
    cause: Cause<'_>,
) -> Result<Option<VoidOutcome>, DatabaseError> {
    let row = sqlx::query(READ_LAST)
        .bind(uid)
        .bind(code.as_str())
        .fetch_optional(&mut *connection)
        .await
        .map_err(DatabaseError::at(OPERATION))?;
    let Some(row) = row else { return Ok(Some(VoidOutcome::NotRecorded)) };
    let read = |row: &PgRow| Ok((coupon_use(row, "")?, row.try_get("now")?));
    let (last, now) = read(&row).map_err(|invalid: InvalidRow| invalid.in_operation(OPERATION))?;
    match redemption::void(last.as_ref(), now) {
        Err(refusal) => Ok(Some(VoidOutcome::Refused(refusal))),
        Ok(None) => Ok(Some(VoidOutcome::AlreadyVoided)),
        Ok(Some(entry)) => Ok(insert(connection, uid, code, &entry, cause).await?.then_some(VoidOutcome::Voided)),
    }
}
