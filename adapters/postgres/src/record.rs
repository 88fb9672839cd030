//! Writing down who got which coupon.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use couponry_domain::{Discount, EventName, IssuedRecord, Uuid, code::CouponCode};
use sqlx::{PgConnection, Row as _, postgres::PgRow};

use crate::{
    Database, DatabaseError, Operation,
    connection::answered,
    row::{self, Unexpected},
};

/// What became of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recording {
    /// It is recorded now.
    Recorded,
    /// This user and this coupon were recorded together before.
    AlreadyRecorded,
    /// It can never be recorded.
    Refused(Refusal),
}

/// Why a record can never be recorded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no event with this uid and name.
    #[error("the event does not exist")]
    UnknownEvent,
    /// The event has no such coupon.
    #[error("the event has no such coupon")]
    UnknownCoupon,
    /// The coupon exists, but it is worth something else.
    #[error("the coupon has another discount")]
    Mismatch,
    /// Another user has the coupon.
    #[error("another user has the coupon")]
    CouponHeldByAnother,
    /// The user has another coupon of the event.
    #[error("the user has another coupon")]
    UserHoldsAnother {
        /// The coupon that the user has.
        coupon: CouponCode,
        /// What it is worth.
        discount: Discount,
        /// When it was issued (milliseconds since the epoch).
        issued_at: i64,
        /// Whether the coupon of the record exists as it was recorded, and nobody has it.
        record_coupon_is_free: bool,
    },
    /// `issuedAt` is no time that could have been.
    #[error("issuedAt is out of range")]
    ImpossibleTime,
    /// It was issued by a Redis that lost it, and it came after the stock was restored without it.
    #[error("it came after Redis was restored without it")]
    TooLate,
}

impl Refusal {
    /// A short name for metrics and headers.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::UnknownEvent => "unknown_event",
            Self::UnknownCoupon => "unknown_coupon",
            Self::Mismatch => "discount_mismatch",
            Self::CouponHeldByAnother => "coupon_held_by_another",
            Self::UserHoldsAnother { .. } => "user_holds_another",
            Self::ImpossibleTime => "impossible_time",
            Self::TooLate => "too_late",
        }
    }
}

const OPERATION: Operation = Operation::Record;

/// Which records a batch may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// No user and no coupon that is recorded already: one that is, fails the batch.
    New,
    /// Any.
    Any,
}

/// How often a batch is tried that others are in the way of.
const ATTEMPTS: u32 = 8;

/// The end of the year 9999, in milliseconds since the epoch.
const LATEST: i64 = 253_402_300_799_999;

impl Database {
    /// Records the issuances in one transaction and says what became of each, in the order of `records`.
    ///
    /// A record that cannot be recorded does not keep the others out. Where two records of a batch exclude each other, the
    /// earlier one wins. Any record may have been recorded before, or be recorded by someone else at the same time.
    pub async fn record(&self, records: &[IssuedRecord]) -> Result<Vec<Recording>, DatabaseError> {
        // Nearly always all are new, and to be ready for others costs a third more.
        let mut expected = Expected::New;
        for attempt in 1.. {
            match answered(OPERATION, self.try_record(records, expected)).await {
                Ok(Some(recordings)) => return Ok(recordings),
                Err(error) if error.is_repetition() && expected == Expected::New => {
                    expected = Expected::Any;
                    continue;
                }
                Ok(None) if attempt < ATTEMPTS => {}
                Ok(None) => return Err(DatabaseError::TimedOut(OPERATION)),
                Err(error) if error.is_conflict() && attempt < ATTEMPTS => {
                    tracing::debug!(attempt, %error, "recording again");
                }
                Err(error) => return Err(error),
            }
            tokio::time::sleep(Duration::from_millis(10 << attempt)).await;
        }
        unreachable!("the last attempt returns")
    }

    /// None when what kept a record out was gone when we looked: to be tried again.
    async fn try_record(
        &self,
        records: &[IssuedRecord],
        expected: Expected,
    ) -> Result<Option<Vec<Recording>>, DatabaseError> {
        let at = || DatabaseError::at(OPERATION);
        let mut recordings: Vec<Option<Recording>> = vec![None; records.len()];
        let mut session = self.session(OPERATION).await?;
        let mut tx = session.begin().await?;
        for ((uid, name), members) in by_event(records) {
            let (possible, impossible): (Vec<_>, Vec<_>) =
                members.into_iter().partition(|&i| (0..=LATEST).contains(&records[i].issued_at));
            for i in impossible {
                recordings[i] = Some(Recording::Refused(Refusal::ImpossibleTime));
            }
            let event = Event { uid, name, records, expected };
            let left = event.insert(&mut tx, in_order(records, possible), &mut recordings).await.map_err(at())?;
            if !left.is_empty() {
                event.classify(&mut tx, &left, &mut recordings).await?;
            }
        }
        let recordings: Option<Vec<_>> = recordings.into_iter().collect();
        if recordings.is_some() {
            couponry_failpoint::crash("database.before-record-commit");
            tx.commit().await.map_err(at())?;
        } else {
            tx.rollback().await.map_err(at())?;
        }
        session.finish();
        Ok(recordings)
    }
}

/// The indexes of the records of each event. Whoever records, locks the events in the same order.
fn by_event(records: &[IssuedRecord]) -> BTreeMap<(Uuid, &EventName), Vec<usize>> {
    let mut events: BTreeMap<_, Vec<usize>> = BTreeMap::new();
    for (i, record) in records.iter().enumerate() {
        events.entry((record.event_uid, &record.event_id)).or_default().push(i);
    }
    events
}

/// The order in which the records of one event are inserted.
///
/// Sorted by user: two batches that overlap then wait for each other in one direction only, and do not
/// deadlock. But a record that has its user or its coupon in common with an earlier one comes after all others, in the order
/// of arrival, so that the earlier one wins.
fn in_order(records: &[IssuedRecord], members: Vec<usize>) -> Vec<usize> {
    let (mut users, mut coupons) = (HashSet::new(), HashSet::new());
    let (mut order, mut later) = (Vec::with_capacity(members.len()), Vec::new());
    for i in members {
        let new_user = users.insert(&records[i].user_id);
        let new_coupon = coupons.insert(&records[i].coupon);
        if new_user && new_coupon { order.push(i) } else { later.push(i) }
    }
    order.sort_by_key(|&i| &records[i].user_id);
    order.extend(later);
    order
}

/// Takes the rows whose coupons exist. The lock keeps the event from being sealed in between, and is taken on what it is by then.
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

/// The records of a batch that name one event.
struct Event<'a> {
    uid: Uuid,
    name: &'a EventName,
    records: &'a [IssuedRecord],
    expected: Expected,
}

impl Event<'_> {
    fn column<T>(&self, order: &[usize], value: impl Fn(&IssuedRecord) -> T) -> Vec<T> {
        order.iter().map(|&i| value(&self.records[i])).collect()
    }

    /// Inserts what can be inserted, in this order, notes it as recorded, and returns the others.
    async fn insert(
        &self,
        connection: &mut PgConnection,
        order: Vec<usize>,
        recordings: &mut [Option<Recording>],
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
        let mut left = Vec::new();
        for i in order {
            let record = &self.records[i];
            let (user, code): (&str, &str) = (record.user_id.as_str(), record.coupon.as_str());
            // Taken out of the set: where the same record comes twice, the second is not new any more.
            if new.remove(&(user, code, record.discount.kind.as_str(), i64::from(record.discount.value))) {
                recordings[i] = Some(Recording::Recorded);
            } else {
                left.push(i);
            }
        }
        Ok(left)
    }

    /// Finds out why these were not inserted. It sees also what was committed since then: that is why.
    async fn classify(
        &self,
        connection: &mut PgConnection,
        left: &[usize],
        recordings: &mut [Option<Recording>],
    ) -> Result<(), DatabaseError> {
        let rows = sqlx::query(
            "SELECT record.position,
                    event.uid IS NOT NULL AS event_exists,
                    coalesce(event.record_cutoff > to_timestamp(record.issued_at / 1000.0), false) AS is_late,
                    coupon.code IS NOT NULL AS coupon_exists,
                    coalesce(coupon.type = record.type AND coupon.value = record.value, false) AS same_discount,
                    holder.user_id AS holder,
                    held.code, held.type, held.value,
                    (extract(epoch FROM held.issued_at) * 1000)::bigint AS issued_at
             FROM unnest($3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[]) WITH ORDINALITY
                  AS record (user_id, code, type, value, issued_at, position)
             LEFT JOIN coupon_event event ON event.uid = $1 AND event.name = $2
             LEFT JOIN coupon ON coupon.event_uid = $1 AND coupon.code = record.code
             LEFT JOIN issuance holder ON holder.event_uid = $1 AND holder.code = record.code
             LEFT JOIN issuance held ON held.event_uid = $1 AND held.user_id = record.user_id",
        )
        .bind(self.uid)
        .bind(self.name.as_str())
        .bind(self.column(left, |r| r.user_id.to_string()))
        .bind(self.column(left, |r| r.coupon.to_string()))
        .bind(self.column(left, |r| r.discount.kind.as_str()))
        .bind(self.column(left, |r| i64::from(r.discount.value)))
        .bind(self.column(left, |r| r.issued_at))
        .fetch_all(connection)
        .await
        .map_err(DatabaseError::at(OPERATION))?;
        let mut situations = HashMap::with_capacity(rows.len());
        for row in &rows {
            let (position, situation) = situation(row).map_err(|what| what.during(OPERATION))?;
            situations.insert(position, situation);
        }
        for (position, &i) in (1..).zip(left) {
            let situation = situations.remove(&position);
            recordings[i] = situation.and_then(|situation| situation.recording(self.records[i].user_id.as_str()));
        }
        Ok(())
    }
}

/// What Postgres knows about the event, the coupon and the user of a record.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a column of the answer")]
struct Situation {
    event_exists: bool,
    /// Issued before the event was sealed.
    is_late: bool,
    coupon_exists: bool,
    same_discount: bool,
    /// Who has the coupon.
    holder: Option<String>,
    /// What the user has.
    held: Option<(CouponCode, Discount, i64)>,
}

fn situation(row: &PgRow) -> Result<(i64, Situation), Unexpected> {
    let held = match row.try_get::<Option<i64>, _>("issued_at")? {
        Some(issued_at) => Some((row::parsed(row, "code")?, row::discount(row)?, issued_at)),
        None => None,
    };
    let situation = Situation {
        event_exists: row.try_get("event_exists")?,
        is_late: row.try_get("is_late")?,
        coupon_exists: row.try_get("coupon_exists")?,
        same_discount: row.try_get("same_discount")?,
        holder: row.try_get("holder")?,
        held,
    };
    Ok((row.try_get("position")?, situation))
}

impl Situation {
    /// None: nothing stands against the record (any more).
    fn recording(self, user: &str) -> Option<Recording> {
        let refusal = match self {
            Self { event_exists: false, .. } => Refusal::UnknownEvent,
            Self { holder: Some(holder), .. } if holder == user => return Some(Recording::AlreadyRecorded),
            Self { is_late: true, .. } => Refusal::TooLate,
            // Whatever is wrong with the coupon, what the user has is what the user should be told of.
            Self { held: Some((coupon, discount, issued_at)), same_discount, holder, .. } => {
                let record_coupon_is_free = same_discount && holder.is_none();
                Refusal::UserHoldsAnother { coupon, discount, issued_at, record_coupon_is_free }
            }
            Self { coupon_exists: false, .. } => Refusal::UnknownCoupon,
            Self { same_discount: false, .. } => Refusal::Mismatch,
            Self { holder: Some(_), .. } => Refusal::CouponHeldByAnother,
            Self { holder: None, held: None, .. } => return None,
        };
        Some(Recording::Refused(refusal))
    }
}

#[cfg(test)]
mod tests {
    use couponry_domain::DiscountType;

    use super::*;

    fn record(user: &str, coupon: &str) -> IssuedRecord {
        IssuedRecord {
            event_id: "summer".parse().unwrap(),
            event_uid: Uuid::from_u128(1),
            user_id: user.parse().unwrap(),
            coupon: coupon.parse().unwrap(),
            discount: Discount { kind: DiscountType::Percent, value: 10 },
            issued_at: 0,
        }
    }

    #[test]
    fn users_are_in_order_and_what_depends_on_an_earlier_record_comes_after_all_others() {
        let records =
            [("d", "A"), ("b", "A"), ("c", "B"), ("b", "C"), ("a", "D"), ("c", "B")].map(|(u, c)| record(u, c));
        // ("b", "A") loses against ("d", "A"), and ("b", "C") must not get before it.
        assert_eq!(in_order(&records, (0..6).collect()), [4, 2, 0, 1, 3, 5]);
    }

    #[test]
    fn each_situation_has_its_recording() {
        let other = "B".parse::<CouponCode>().unwrap();
        let discount = Discount { kind: DiscountType::Amount, value: 5 };
        let free = Situation {
            event_exists: true,
            is_late: false,
            coupon_exists: true,
            same_discount: true,
            holder: None,
            held: None,
        };
        let held = Some((other.clone(), discount, 7));
        let by = |holder: &str| Some(holder.to_owned());
        let refused = |refusal| Some(Recording::Refused(refusal));
        let another = |free| {
            let coupon = other.clone();
            refused(Refusal::UserHoldsAnother { coupon, discount, issued_at: 7, record_coupon_is_free: free })
        };
        let cases = [
            (free.clone(), None),
            (Situation { event_exists: false, ..free.clone() }, refused(Refusal::UnknownEvent)),
            (Situation { coupon_exists: false, same_discount: false, ..free.clone() }, refused(Refusal::UnknownCoupon)),
            (Situation { same_discount: false, ..free.clone() }, refused(Refusal::Mismatch)),
            (Situation { holder: by("u1"), held: held.clone(), ..free.clone() }, Some(Recording::AlreadyRecorded)),
            (Situation { is_late: true, ..free.clone() }, refused(Refusal::TooLate)),
            (Situation { is_late: true, holder: by("u1"), ..free.clone() }, Some(Recording::AlreadyRecorded)),
            (Situation { holder: by("u2"), ..free.clone() }, refused(Refusal::CouponHeldByAnother)),
            (Situation { held: held.clone(), ..free.clone() }, another(true)),
            (Situation { holder: by("u2"), held: held.clone(), ..free.clone() }, another(false)),
            (Situation { same_discount: false, held: held.clone(), ..free.clone() }, another(false)),
            (Situation { coupon_exists: false, same_discount: false, held, ..free }, another(false)),
        ];
        for (situation, recording) in cases {
            assert_eq!(situation.clone().recording("u1"), recording, "{situation:?}");
        }
    }
}
