//! Recording issuances.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use couponry_domain::{EventName, IssuedCoupon, IssuedRecord, Uuid, record::MAX_TIME};
use sqlx::{AssertSqlSafe, PgConnection, Row as _};

use crate::{
    classification::{Conclusion, RecordState},
    connection::{Database, Session, with_timeout},
    error::{DatabaseError, Operation},
    outcome::{Deferral, RecordOutcome, Rejection},
    row,
    stock_table::StockTable,
};

const OPERATION: Operation = Operation::Record;

/// Whether conflicts with existing rows are expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// Only users and coupons that are not recorded yet, and coupons that exist. Otherwise the attempt is repeated with
    /// `Any`, which is rare, and cheaper than `RETURNING` in every batch.
    New,
    /// Any users and coupons.
    Any,
}

/// Maximum number of attempts to record a batch that conflicts with others.
const MAX_ATTEMPTS: u32 = 8;

impl Database {
    /// Records the issuances in one transaction, and returns their outcomes in the order of `records`.
    ///
    /// A rejected or deferred record does not affect the others. Where two records of a batch exclude each other, the
    /// first one is recorded. Any record may have been recorded before, or be recorded concurrently.
    pub async fn record(&self, records: &[IssuedRecord]) -> Result<Vec<RecordOutcome>, DatabaseError> {
        self.record_expecting(Expected::New, records, HashSet::new()).await
    }

    /// Like [`Database::record`], for a record that others are probably recording at the same time.
    pub async fn record_concurrently(&self, record: IssuedRecord) -> Result<RecordOutcome, DatabaseError> {
        let outcomes = self.record_expecting(Expected::Any, &[record], HashSet::new()).await?;
        outcomes.into_iter().next().ok_or(DatabaseError::Conflict(OPERATION))
    }

    /// Like [`Database::record`], but defers the records of the events in `locked` at once: waiting for a lock on one
    /// event would delay the others.
    pub async fn record_except(
        &self,
        records: &[IssuedRecord],
        locked: HashSet<Uuid>,
    ) -> Result<Vec<RecordOutcome>, DatabaseError> {
        // Nearly always all are new, and conflict handling would cost a third more.
        self.record_expecting(Expected::New, records, locked).await
    }

    async fn record_expecting(
        &self,
        mut expected: Expected,
        records: &[IssuedRecord],
        mut locked: HashSet<Uuid>,
    ) -> Result<Vec<RecordOutcome>, DatabaseError> {
        let mut without_stock = HashSet::new();
        for attempt in 1.. {
            match with_timeout(OPERATION, Box::pin(self.try_record(records, expected, &without_stock, &locked))).await {
                Ok(Attempt::Finished(outcomes)) => return Ok(outcomes),
                Ok(Attempt::StockNotFound(uid)) => {
                    without_stock.insert(uid);
                    continue;
                }
                Ok(Attempt::EventLocked(uid)) => {
                    locked.insert(uid);
                    continue;
                }
                Ok(Attempt::NotAllNew) => {
                    expected = Expected::Any;
                    continue;
                }
                Err(error) if error.is_unique_violation() && expected == Expected::New => {
                    expected = Expected::Any;
                    continue;
                }
                Ok(Attempt::Changed) if attempt < MAX_ATTEMPTS => {}
                Ok(Attempt::Changed) => return Err(DatabaseError::Conflict(OPERATION)),
                Err(error) if error.is_conflict() && attempt < MAX_ATTEMPTS => {
                    let error: &dyn std::error::Error = &error;
                    tracing::debug!(attempt, error, "retrying to record a batch after a conflict");
                }
                Err(error) => return Err(error),
            }
            tokio::time::sleep(Duration::from_millis(10 << attempt.min(MAX_ATTEMPTS))).await;
        }
        unreachable!("the last attempt returns")
    }

    async fn try_record(
        &self,
        records: &[IssuedRecord],
        expected: Expected,
        without_stock: &HashSet<Uuid>,
        locked: &HashSet<Uuid>,
    ) -> Result<Attempt, DatabaseError> {
        let mut outcomes: Vec<Option<RecordOutcome>> = vec![None; records.len()];
        let mut session = self.session(OPERATION).await?;
        let mut tx = session.begin().await?;
        for ((uid, name), indexes) in by_event(records) {
            if locked.contains(&uid) {
                for i in indexes {
                    outcomes[i] = Some(RecordOutcome::Deferred(Deferral::Locked));
                }
                continue;
            }
            let (in_range, out_of_range): (Vec<_>, Vec<_>) =
                indexes.into_iter().partition(|&i| (0..=MAX_TIME).contains(&records[i].issued.issued_at));
            for i in out_of_range {
                outcomes[i] = Some(RecordOutcome::Rejected(Rejection::IssuedAtOutOfRange));
            }
            let stock = (!without_stock.contains(&uid)).then_some(StockTable(uid));
            let event = EventRecords { uid, name, records, expected };
            match event.record(&mut tx, stock, insertion_order(records, in_range), &mut outcomes).await {
                Err(error) if error.is_undefined_table() && stock.is_some() => {
                    tx.rollback().await.map_err(DatabaseError::at(OPERATION))?;
                    session.finish();
                    return Ok(Attempt::StockNotFound(uid));
                }
                Err(error) if error.is_lock_timeout() => {
                    tx.rollback().await.map_err(DatabaseError::at(OPERATION))?;
                    let is_about_all_events = are_shared_tables_locked(&mut session).await?;
                    session.finish();
                    return if is_about_all_events { Err(error) } else { Ok(Attempt::EventLocked(uid)) };
                }
                Ok(true) => {}
                Ok(false) => {
                    tx.rollback().await.map_err(DatabaseError::at(OPERATION))?;
                    session.finish();
                    return Ok(Attempt::NotAllNew);
                }
                Err(error) => return Err(error),
            }
        }
        let outcomes: Option<Vec<_>> = outcomes.into_iter().collect();
        if outcomes.is_some() {
            couponry_failpoint::crash("database.before-record-commit");
            tx.commit().await.map_err(DatabaseError::at(OPERATION))?;
        } else {
            tx.rollback().await.map_err(DatabaseError::at(OPERATION))?;
        }
        session.finish();
        Ok(outcomes.map_or(Attempt::Changed, Attempt::Finished))
    }
}

/// The result of a transaction.
enum Attempt {
    /// Every record has an outcome.
    Finished(Vec<RecordOutcome>),
    /// A record was not inserted, but what prevented it has changed since: a conflicting row is gone, or a missing
    /// coupon exists now. The batch has to be retried.
    Changed,
    /// Not all records could be inserted, although they were expected to be new. The batch has to be retried with
    /// [`Expected::Any`].
    NotAllNew,
    /// The event has no table with coupons. The batch has to be retried without reading this table.
    StockNotFound(Uuid),
    /// Another session holds a lock on the table or on rows of this event. The batch has to be retried; the records of
    /// this event are deferred.
    EventLocked(Uuid),
}

/// The locks on shared tables that recording needs.
const SHARED_LOCKS: &str = "LOCK TABLE coupon_event, discount_policy IN ROW SHARE MODE NOWAIT;
                            LOCK TABLE issuance IN ROW EXCLUSIVE MODE NOWAIT";

/// Whether another session prevents the recording of every event.
async fn are_shared_tables_locked(session: &mut Session) -> Result<bool, DatabaseError> {
    let mut tx = session.begin().await?;
    let locked = sqlx::raw_sql(SHARED_LOCKS).execute(&mut *tx).await.map_err(DatabaseError::at(OPERATION));
    tx.rollback().await.map_err(DatabaseError::at(OPERATION))?;
    match locked {
        Ok(_) => Ok(false),
        Err(error) if error.is_lock_timeout() => Ok(true),
        Err(error) => Err(error),
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

/// Inserts the records whose coupons exist. The lock prevents the record cutoff from changing before the commit, and
/// the row is read as of the moment of the lock.
///
/// `is_limited`: whether the validity of a coupon is limited. Otherwise the column is not mentioned, so it costs
/// nothing.
fn insertion(stock: StockTable, expected: Expected, is_limited: bool) -> String {
    let (on_conflict, returning) = match expected {
        Expected::New => ("", ""),
        Expected::Any => ("ON CONFLICT DO NOTHING", "RETURNING user_id, code, type, value"),
    };
    let (column, value, array) = if is_limited {
        (", valid_until", ", to_timestamp(record.valid_until / 1000.0)", ", $8::bigint[]")
    } else {
        ("", "", "")
    };
    format!(
        "WITH event AS MATERIALIZED (
             SELECT record_cutoff FROM coupon_event
             WHERE uid = $1 AND name = $2 AND NOT is_purging FOR KEY SHARE
         )
         INSERT INTO issuance (event_uid, user_id, code, type, value, issued_at{column})
         SELECT $1, record.user_id, coupon.code, coupon.type, coupon.value,
                to_timestamp(record.issued_at / 1000.0){value}
         FROM unnest($3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[]{array}) WITH ORDINALITY
              AS record (user_id, code, type, value, issued_at{column}, position)
         JOIN event ON event.record_cutoff IS NULL
                    OR event.record_cutoff <= to_timestamp(record.issued_at / 1000.0)
         JOIN {stock} AS coupon ON coupon.code = record.code
                    AND coupon.type = record.type AND coupon.value = record.value
         ORDER BY record.position
         {on_conflict} {returning}"
    )
}

/// Reads the states of records.
fn classification(stock: Option<StockTable>) -> String {
    let stock = stock.map_or_else(
        || "(SELECT NULL::text AS code, NULL::text AS type, NULL::bigint AS value WHERE false)".to_owned(),
        |table| table.to_string(),
    );
    format!(
        "SELECT record.position,
                event.uid IS NOT NULL AS event_exists,
                (SELECT coalesce(sum(count), 0)::bigint FROM discount_policy WHERE event_uid = $1) AS generated,
                coalesce(event.record_cutoff > to_timestamp(record.issued_at / 1000.0), false) AS is_before_cutoff,
                coupon.code IS NOT NULL AS coupon_exists,
                coalesce(coupon.type = record.type AND coupon.value = record.value, false) AS same_discount,
                holder.user_id AS holder,
                CASE WHEN holder.user_id >= 'erased:' AND holder.user_id < 'erased;' THEN event.seed END AS seed,
                own.user_id, own.code, own.type, own.value,
                (extract(epoch FROM own.issued_at) * 1000)::bigint AS issued_at
         FROM unnest($3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[]) WITH ORDINALITY
              AS record (user_id, code, type, value, issued_at, position)
         LEFT JOIN coupon_event event ON event.uid = $1 AND event.name = $2 AND NOT event.is_purging
         LEFT JOIN {stock} AS coupon ON coupon.code = record.code
         LEFT JOIN issuance holder ON holder.event_uid = $1 AND holder.code = record.code
         LEFT JOIN issuance own ON own.event_uid = $1 AND own.user_id = record.user_id"
    )
}

/// Counts the stock, and finds those codes that it does not have: in one statement, so that both are from the same
/// snapshot.
fn completeness(stock: StockTable) -> String {
    format!(
        "SELECT (SELECT coalesce(sum(count), 0)::bigint FROM discount_policy WHERE event_uid = $1) AS generated,
                (SELECT count(*) FROM {stock}) AS found,
                array(SELECT code FROM unnest($2::text[]) AS record (code)
                      WHERE NOT EXISTS (SELECT FROM {stock} AS coupon WHERE coupon.code = record.code)) AS absent"
    )
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

    /// Records what can be recorded, and sets the outcomes. Without a stock, nothing is recorded. False: not all
    /// records were inserted, although they were expected to be new.
    async fn record(
        &self,
        connection: &mut PgConnection,
        stock: Option<StockTable>,
        order: Vec<usize>,
        outcomes: &mut [Option<RecordOutcome>],
    ) -> Result<bool, DatabaseError> {
        let not_inserted = match stock {
            Some(stock) => self.insert(connection, stock, order, outcomes).await?,
            None => order,
        };
        if !not_inserted.is_empty() {
            if self.expected == Expected::New && stock.is_some() {
                return Ok(false);
            }
            self.classify(connection, stock, &not_inserted, outcomes).await?;
        }
        Ok(true)
    }

    /// Inserts records in this order, sets the outcomes of the inserted ones, and returns the others.
    async fn insert(
        &self,
        connection: &mut PgConnection,
        stock: StockTable,
        order: Vec<usize>,
        outcomes: &mut [Option<RecordOutcome>],
    ) -> Result<Vec<usize>, DatabaseError> {
        let at = DatabaseError::at(OPERATION);
        let is_limited = order.iter().any(|&i| self.records[i].valid_until.is_some());
        // sqlx caches the last hundred statements of a connection, so many events do not need more memory.
        let insertion = sqlx::query(AssertSqlSafe(insertion(stock, self.expected, is_limited)))
            .bind(self.uid)
            .bind(self.name.as_str())
            .bind(self.column(&order, |r| r.user_id.to_string()))
            .bind(self.column(&order, |r| r.coupon.to_string()))
            .bind(self.column(&order, |r| r.discount.kind.as_str()))
            .bind(self.column(&order, |r| i64::from(r.discount.value)))
            .bind(self.column(&order, |r| r.issued_at));
        let insertion = if is_limited {
            insertion.bind(order.iter().map(|&i| self.records[i].valid_until).collect::<Vec<_>>())
        } else {
            insertion
        };
        if self.expected == Expected::New {
            let inserted = insertion.execute(connection).await.map_err(at)?.rows_affected();
            if inserted != order.len() as u64 {
                return Ok(order);
            }
            for i in order {
                outcomes[i] = Some(RecordOutcome::Recorded);
            }
            return Ok(Vec::new());
        }
        let inserted = insertion.fetch_all(connection).await.map_err(at)?;
        let mut new = HashSet::with_capacity(inserted.len());
        for row in &inserted {
            let value: i64 = row.try_get("value").map_err(at)?;
            let text = |column| row.try_get::<&str, _>(column).map_err(at);
            new.insert((text("user_id")?, text("code")?, text("type")?, value));
        }
        let mut not_inserted = Vec::new();
        for i in order {
            let record = &self.records[i].issued;
            let (user, code): (&str, &str) = (record.user_id.as_str(), record.coupon.as_str());
            // Removed from the set, because only the first of two equal records was inserted.
            if new.remove(&(user, code, record.discount.kind.as_str(), i64::from(record.discount.value))) {
                outcomes[i] = Some(RecordOutcome::Recorded);
            } else {
                not_inserted.push(i);
            }
        }
        Ok(not_inserted)
    }

    /// Sets the outcomes of records that were not inserted. A statement of its own, so that it sees what was committed
    /// since.
    async fn classify(
        &self,
        connection: &mut PgConnection,
        stock: Option<StockTable>,
        not_inserted: &[usize],
        outcomes: &mut [Option<RecordOutcome>],
    ) -> Result<(), DatabaseError> {
        let rows = sqlx::query(AssertSqlSafe(classification(stock)))
            .bind(self.uid)
            .bind(self.name.as_str())
            .bind(self.column(not_inserted, |r| r.user_id.to_string()))
            .bind(self.column(not_inserted, |r| r.coupon.to_string()))
            .bind(self.column(not_inserted, |r| r.discount.kind.as_str()))
            .bind(self.column(not_inserted, |r| i64::from(r.discount.value)))
            .bind(self.column(not_inserted, |r| r.issued_at))
            .fetch_all(&mut *connection)
            .await
            .map_err(DatabaseError::at(OPERATION))?;
        let mut states = HashMap::with_capacity(rows.len());
        for row in &rows {
            let (position, state) = RecordState::from_row(row).map_err(|invalid| invalid.in_operation(OPERATION))?;
            states.insert(position, state);
        }
        let mut unproven = Vec::new();
        for (position, &i) in (1..).zip(not_inserted) {
            let Some(state) = states.remove(&position) else { continue };
            match state.conclusion(&self.records[i].issued.user_id) {
                Conclusion::Certain(outcome) => outcomes[i] = Some(outcome),
                Conclusion::Recordable => {}
                Conclusion::IfStockIsComplete(rejection) => unproven.push((i, rejection)),
            }
        }
        if unproven.is_empty() {
            return Ok(());
        }
        // Negative control of the tests: one negative lookup is taken for a proof.
        if couponry_failpoint::is_on("database.reject-unproven") {
            for (i, rejection) in unproven {
                outcomes[i] = Some(RecordOutcome::Rejected(rejection));
            }
            return Ok(());
        }
        let Some(stock) = stock else {
            for (i, _) in unproven {
                outcomes[i] = Some(RecordOutcome::Deferred(Deferral::StockMissing));
            }
            return Ok(());
        };
        self.prove(connection, stock, unproven, outcomes).await
    }

    /// Rejects the records whose coupons certainly do not exist: the stock is complete and does not have them. A
    /// separate statement, so that it sees what was committed since.
    async fn prove(
        &self,
        connection: &mut PgConnection,
        stock: StockTable,
        unproven: Vec<(usize, Rejection)>,
        outcomes: &mut [Option<RecordOutcome>],
    ) -> Result<(), DatabaseError> {
        let codes: Vec<_> = unproven.iter().map(|&(i, _)| self.records[i].issued.coupon.as_str()).collect();
        let row = sqlx::query(AssertSqlSafe(completeness(stock)))
            .bind(self.uid)
            .bind(codes)
            .persistent(false)
            .fetch_one(connection)
            .await
            .map_err(DatabaseError::at(OPERATION))?;
        let count = |column| row::count(&row, column).map_err(|invalid| invalid.in_operation(OPERATION));
        let (generated, found) = (count("generated")?, count("found")?);
        let absent: Vec<String> = row.try_get("absent").map_err(DatabaseError::at(OPERATION))?;
        let absent: HashSet<&str> = absent.iter().map(String::as_str).collect();
        for (i, rejection) in unproven {
            if !absent.contains(self.records[i].issued.coupon.as_str()) {
                // It appeared in the meantime: the outcome is missing, so the batch is retried.
            } else if generated > 0 && generated == found {
                outcomes[i] = Some(RecordOutcome::Rejected(rejection));
            } else {
                outcomes[i] = Some(RecordOutcome::Deferred(Deferral::StockIncomplete { generated, found }));
            }
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
            valid_until: None,
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
