//! Recording issuances.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use couponry_domain::{EventName, IssuedCoupon, IssuedRecord, Uuid};
use sqlx::{PgConnection, Row as _};

use crate::{
    classification::RecordState,
    connection::{Database, with_timeout},
    error::{DatabaseError, Operation},
    outcome::{RecordOutcome, Rejection},
};

const OPERATION: Operation = Operation::Record;

/// Which records a batch is expected to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// Only users and coupons that are not recorded yet: any other fails the batch.
    New,
    /// Any.
    Any,
}

/// How often a batch is tried while it conflicts with others.
const MAX_ATTEMPTS: u32 = 8;

/// The end of the year 9999, in milliseconds since the Unix epoch.
const MAX_ISSUED_AT: i64 = 253_402_300_799_999;

impl Database {
    /// Records the issuances in one transaction, and returns their outcomes in the order of `records`.
    ///
    /// A rejected record does not affect the others. Where two records of a batch exclude each other, the first one is
    /// recorded. Any record may have been recorded before, or be recorded concurrently.
    pub async fn record(&self, records: &[IssuedRecord]) -> Result<Vec<RecordOutcome>, DatabaseError> {
        // Nearly always all are new, and conflict handling would cost a third more.
        let mut expected = Expected::New;
        for attempt in 1.. {
            match with_timeout(OPERATION, self.try_record(records, expected)).await {
                Ok(Some(outcomes)) => return Ok(outcomes),
                Err(error) if error.is_unique_violation() && expected == Expected::New => {
                    expected = Expected::Any;
                    continue;
                }
                Ok(None) if attempt < MAX_ATTEMPTS => {}
                Ok(None) => return Err(DatabaseError::TimedOut(OPERATION)),
                Err(error) if error.is_conflict() && attempt < MAX_ATTEMPTS => {
                    let error: &dyn std::error::Error = &error;
                    tracing::debug!(attempt, error, "retrying to record a batch after a conflict");
                }
                Err(error) => return Err(error),
            }
            tokio::time::sleep(Duration::from_millis(10 << attempt)).await;
        }
        unreachable!("the last attempt returns")
    }

    /// None: a record was not inserted because of a row that has disappeared since. The batch has to be retried.
    async fn try_record(
        &self,
        records: &[IssuedRecord],
        expected: Expected,
    ) -> Result<Option<Vec<RecordOutcome>>, DatabaseError> {
        let at = || DatabaseError::at(OPERATION);
        let mut outcomes: Vec<Option<RecordOutcome>> = vec![None; records.len()];
        let mut session = self.session(OPERATION).await?;
        let mut tx = session.begin().await?;
        for ((uid, name), indexes) in by_event(records) {
            let (in_range, out_of_range): (Vec<_>, Vec<_>) =
                indexes.into_iter().partition(|&i| (0..=MAX_ISSUED_AT).contains(&records[i].issued.issued_at));
            for i in out_of_range {
                outcomes[i] = Some(RecordOutcome::Rejected(Rejection::IssuedAtOutOfRange));
            }
            let event = EventRecords { uid, name, records, expected };
            let rest = event.insert(&mut tx, insertion_order(records, in_range), &mut outcomes).await.map_err(at())?;
            if !rest.is_empty() {
                event.classify(&mut tx, &rest, &mut outcomes).await?;
            }
        }
        let outcomes: Option<Vec<_>> = outcomes.into_iter().collect();
        if outcomes.is_some() {
            couponry_failpoint::crash("database.before-record-commit");
            tx.commit().await.map_err(at())?;
        } else {
            tx.rollback().await.map_err(at())?;
        }
        session.finish();
        Ok(outcomes)
    }
}

/// The indexes of the records of each event. Ordered, so that concurrent transactions lock the events in the same
/// order.
fn by_event(records: &[IssuedRecord]) -> BTreeMap<(Uuid, &EventName), Vec<usize>> {
    let mut events: BTreeMap<_, Vec<usize>> = BTreeMap::new();
    for (i, record) in records.iter().enumerate() {
        events.entry((record.event_uid, &record.event_id)).or_default().push(i);
    }
    events
}

/// The order in which the records of an event are inserted.
///
/// Sorted by user, so that overlapping batches wait for each other in one direction only and do not deadlock. But a
/// record that shares its user or its coupon with an earlier one comes after all others, in the original order, so that
/// the earlier one is recorded.
fn insertion_order(records: &[IssuedRecord], indexes: Vec<usize>) -> Vec<usize> {
    let (mut users, mut coupons) = (HashSet::new(), HashSet::new());
    let (mut order, mut repeated) = (Vec::with_capacity(indexes.len()), Vec::new());
    for i in indexes {
        let new_user = users.insert(&records[i].issued.user_id);
        let new_coupon = coupons.insert(&records[i].issued.coupon);
        if new_user && new_coupon { order.push(i) } else { repeated.push(i) }
    }
    order.sort_by_key(|&i| &records[i].issued.user_id);
    order.extend(repeated);
    order
}

/// Inserts the records whose coupons exist. The lock prevents that the record cutoff changes before the commit, and the
/// row is read as of the moment of the lock.
macro_rules! insertion {
    () => {
        "WITH event AS MATERIALIZED (
             SELECT record_cutoff FROM coupon_event WHERE uid = $1 AND name = $2 FOR KEY SHARE
         )
         INSERT INTO issuance (event_uid, user_id, code, type, value, issued_at)
         SELECT coupon.event_uid, record.user_id, coupon.code, coupon.type, coupon.value,
                to_timestamp(record.issued_at / 1000.0)
         FROM unnest($3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[]) WITH ORDINALITY
              AS record (user_id, code, type, value, issued_at, position)
         JOIN event ON event.record_cutoff IS NULL
                    OR event.record_cutoff <= to_timestamp(record.issued_at / 1000.0)
         JOIN coupon ON coupon.event_uid = $1 AND coupon.code = record.code
                    AND coupon.type = record.type AND coupon.value = record.value
         ORDER BY record.position"
    };
}

macro_rules! returning {
    () => {
        " RETURNING user_id, code, type, value"
    };
}

/// The records of a batch that belong to one event.
struct EventRecords<'a> {
    uid: Uuid,
    name: &'a EventName,
    records: &'a [IssuedRecord],
    expected: Expected,
}

impl EventRecords<'_> {
    fn column<T>(&self, order: &[usize], value: impl Fn(&IssuedCoupon) -> T) -> Vec<T> {
        order.iter().map(|&i| value(&self.records[i].issued)).collect()
    }

    /// Inserts records in this order, sets the outcomes of the inserted ones, and returns the others.
    async fn insert(
        &self,
        connection: &mut PgConnection,
        order: Vec<usize>,
        outcomes: &mut [Option<RecordOutcome>],
    ) -> Result<Vec<usize>, sqlx::Error> {
        let inserted = sqlx::query(match self.expected {
            Expected::New => concat!(insertion!(), returning!()),
            Expected::Any => concat!(insertion!(), " ON CONFLICT DO NOTHING", returning!()),
        })
        .bind(self.uid)
        .bind(self.name.as_str())
        .bind(self.column(&order, |r| r.user_id.to_string()))
        .bind(self.column(&order, |r| r.coupon.to_string()))
        .bind(self.column(&order, |r| r.discount.kind.as_str()))
        .bind(self.column(&order, |r| i64::from(r.discount.value)))
        .bind(self.column(&order, |r| r.issued_at))
        .fetch_all(connection)
        .await?;

        let mut new = HashSet::with_capacity(inserted.len());
        for row in &inserted {
            let value: i64 = row.try_get("value")?;
            new.insert((row.try_get("user_id")?, row.try_get("code")?, row.try_get("type")?, value));
        }
        let mut rest = Vec::new();
        for i in order {
            let record = &self.records[i].issued;
            let (user, code): (&str, &str) = (record.user_id.as_str(), record.coupon.as_str());
            // Removed from the set, because only the first of two equal records was inserted.
            if new.remove(&(user, code, record.discount.kind.as_str(), i64::from(record.discount.value))) {
                outcomes[i] = Some(RecordOutcome::Recorded);
            } else {
                rest.push(i);
            }
        }
        Ok(rest)
    }

    /// Sets the outcomes of records that were not inserted. A statement of its own, so that it sees what was committed
    /// since.
    async fn classify(
        &self,
        connection: &mut PgConnection,
        rest: &[usize],
        outcomes: &mut [Option<RecordOutcome>],
    ) -> Result<(), DatabaseError> {
        let rows = sqlx::query(
            "SELECT record.position,
                    event.uid IS NOT NULL AS event_exists,
                    coalesce(event.record_cutoff > to_timestamp(record.issued_at / 1000.0), false) AS is_before_cutoff,
                    coupon.code IS NOT NULL AS coupon_exists,
                    coalesce(coupon.type = record.type AND coupon.value = record.value, false) AS same_discount,
                    holder.user_id AS holder,
                    own.user_id, own.code, own.type, own.value,
                    (extract(epoch FROM own.issued_at) * 1000)::bigint AS issued_at
             FROM unnest($3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[]) WITH ORDINALITY
                  AS record (user_id, code, type, value, issued_at, position)
             LEFT JOIN coupon_event event ON event.uid = $1 AND event.name = $2
             LEFT JOIN coupon ON coupon.event_uid = $1 AND coupon.code = record.code
             LEFT JOIN issuance holder ON holder.event_uid = $1 AND holder.code = record.code
             LEFT JOIN issuance own ON own.event_uid = $1 AND own.user_id = record.user_id",
        )
        .bind(self.uid)
        .bind(self.name.as_str())
        .bind(self.column(rest, |r| r.user_id.to_string()))
        .bind(self.column(rest, |r| r.coupon.to_string()))
        .bind(self.column(rest, |r| r.discount.kind.as_str()))
        .bind(self.column(rest, |r| i64::from(r.discount.value)))
        .bind(self.column(rest, |r| r.issued_at))
        .fetch_all(connection)
        .await
        .map_err(DatabaseError::at(OPERATION))?;
        let mut states = HashMap::with_capacity(rows.len());
        for row in &rows {
            let (position, state) = RecordState::from_row(row).map_err(|invalid| invalid.in_operation(OPERATION))?;
            states.insert(position, state);
        }
        for (position, &i) in (1..).zip(rest) {
            let state = states.remove(&position);
            outcomes[i] = state.and_then(|state| state.outcome(self.records[i].issued.user_id.as_str()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use couponry_domain::{Discount, DiscountType};

    use super::*;

    fn record(user: &str, coupon: &str) -> IssuedRecord {
        IssuedRecord {
            event_id: "summer".parse().unwrap(),
            event_uid: Uuid::from_u128(1),
            issued: IssuedCoupon {
                user_id: user.parse().unwrap(),
                coupon: coupon.parse().unwrap(),
                discount: Discount { kind: DiscountType::Percent, value: 10 },
                issued_at: 0,
            },
        }
    }

    #[test]
    fn insertion_order_sorts_users_and_appends_repeated_users_and_coupons() {
        let records =
            [("d", "A"), ("b", "A"), ("c", "B"), ("b", "C"), ("a", "D"), ("c", "B")].map(|(u, c)| record(u, c));
        // ("b", "A") is rejected because of ("d", "A"), so ("b", "C") must not be inserted before it.
        assert_eq!(insertion_order(&records, (0..6).collect()), [4, 2, 0, 1, 3, 5]);
    }
}
