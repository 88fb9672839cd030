//! Registering and reading events.

use std::collections::BTreeMap;

use couponry_domain::{
    AdmissionKey, CodeFormat, CouponTerms, Currency, Discount, DiscountConditions, EventName, PseudonymKey, Release,
    Seed, Uuid, Validity,
    code::{CodeGenerator, CouponCode},
};
use sqlx::{PgConnection, Row as _, postgres::PgRow};

use crate::{
    connection::{Database, with_timeout},
    error::{DatabaseError, Operation},
    row::{self, InvalidRow},
};

/// An event to register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// The `CouponEvent`'s uid.
    pub uid: Uuid,
    /// The `CouponEvent`'s name.
    pub name: EventName,
    /// The display name.
    pub policy_name: String,
    /// The format of its codes.
    pub format: CodeFormat,
    /// The terms of its coupons.
    pub terms: CouponTerms,
    /// How its coupons are released.
    pub release: Release,
    /// The generation of the manifest.
    pub generation: i64,
}

/// An event in Postgres.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvent {
    /// The `CouponEvent`'s uid.
    pub uid: Uuid,
    /// The `CouponEvent`'s name.
    pub name: EventName,
    /// The display name.
    pub policy_name: String,
    /// The seed that its codes are derived from.
    pub seed: Seed,
    /// The format of its codes.
    pub format: CodeFormat,
    /// The terms of its coupons.
    pub terms: CouponTerms,
    /// How its coupons are released.
    pub release: Release,
    /// The generation of the latest applied manifest.
    pub generation: i64,
    /// Number of times the stock was discarded. Operations for another stock epoch are rejected.
    pub stock_epoch: u32,
    /// The number of coupons of each discount, in the order of the manifest. Empty before the first coupons are
    /// generated.
    pub discount_counts: Vec<(Discount, u64)>,
    /// From when on coupons may be issued (milliseconds since the Unix epoch, by the clock of Redis).
    pub opens_at: Option<i64>,
    /// The start with which the opening was stored (milliseconds since the Unix epoch). None: without a start, or by an
    /// earlier version.
    pub starts_at: Option<i64>,
    /// Whether coupons may have been issued. Otherwise the event waits for its start, and the opening can be withdrawn.
    pub is_opening_final: bool,
    /// How many openings were stored. All but the last one were withdrawn.
    pub openings: u32,
    /// Issuances before this time (milliseconds since the Unix epoch) that are not recorded yet are rejected: see
    /// [`Database::set_record_cutoff`].
    pub record_cutoff: Option<i64>,
    /// Whether users of its coupons were erased, and replaced by pseudonyms.
    pub has_pseudonyms: bool,
}

impl StoredEvent {
    /// The key of the pseudonyms of erased users. None: no user of the event was erased.
    #[must_use]
    pub fn pseudonym_key(&self) -> Option<PseudonymKey> {
        self.has_pseudonyms.then(|| PseudonymKey::of(&self.seed))
    }

    /// The key of the tickets. None: all users are admitted from the start.
    #[must_use]
    pub fn admission_key(&self) -> Option<AdmissionKey> {
        self.release.ramp_seconds.map(|_| AdmissionKey::of(&self.seed))
    }

    /// The number of generated coupons.
    #[must_use]
    pub fn generated(&self) -> u64 {
        self.discount_counts.iter().map(|(_, count)| count).sum()
    }
}

impl Database {
    /// Registers the event with a new seed, or updates a registered one.
    ///
    /// The policy name is updated to that of the manifest, and so are the code format while there are no coupons, and
    /// the terms and the release while no opening is stored. The seed never changes. A manifest of an older generation
    /// changes nothing.
    pub async fn register(&self, event: &NewEvent) -> Result<StoredEvent, DatabaseError> {
        let sample = CodeGenerator::new(Seed::from([0; 32]), event.format.clone()).code(0);
        if sample.as_str().parse::<CouponCode>().is_err() {
            return Err(DatabaseError::InvalidCodeFormat(sample.to_string()));
        }
        with_timeout(Operation::Register, self.insert_or_update(event)).await
    }

    async fn insert_or_update(&self, event: &NewEvent) -> Result<StoredEvent, DatabaseError> {
        let at = || DatabaseError::at(Operation::Register);
        let mut session = self.session(Operation::Register).await?;
        let mut tx = session.begin().await?;
        sqlx::query(
            "INSERT INTO coupon_event (uid, name, policy_name, code_prefix, code_length, seed, generation)
             VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING",
        )
        .bind(event.uid)
        .bind(event.name.as_str())
        .bind(&event.policy_name)
        .bind(&event.format.prefix)
        .bind(i16::from(event.format.length))
        .bind(Seed::generate().as_bytes().as_slice())
        .bind(event.generation)
        .execute(&mut *tx)
        .await
        .map_err(at())?;
        let mut stored = lock(&mut tx, event.uid, Operation::Register).await?;
        if event.generation >= stored.generation {
            if stored.discount_counts.is_empty() {
                stored.format = event.format.clone();
            }
            if stored.opens_at.is_none() && stored.terms != event.terms {
                stored.terms = event.terms.clone();
                store_conditions(&mut tx, &stored).await.map_err(at())?;
            }
            if stored.opens_at.is_none() {
                stored.release.clone_from(&event.release);
            }
            stored.policy_name.clone_from(&event.policy_name);
            stored.generation = event.generation;
        }
        sqlx::query(
            "UPDATE coupon_event SET policy_name = $2, code_prefix = $3, code_length = $4, generation = $5,
                                     currency = $6, validity = $7, ramp_seconds = $8, drops = $9,
                                     -- A deleted event can be continued by another object.
                                     resource_deleted_at =
                                         CASE WHEN generation < $5 THEN NULL ELSE resource_deleted_at END
             WHERE uid = $1
               AND (policy_name, code_prefix, code_length, generation, currency, validity, ramp_seconds, drops)
                   IS DISTINCT FROM ($2, $3, $4, $5, $6, $7, $8, $9)",
        )
        .bind(event.uid)
        .bind(&stored.policy_name)
        .bind(&stored.format.prefix)
        .bind(i16::from(stored.format.length))
        .bind(stored.generation)
        .bind(stored.terms.currency.as_ref().map(Currency::as_str))
        .bind(stored.terms.validity.as_ref().map(Validity::to_string))
        .bind(stored.release.ramp_seconds.map(i64::from))
        .bind(Some(stored.release.drops.to_string()).filter(|drops| !drops.is_empty()))
        .execute(&mut *tx)
        .await
        .map_err(at())?;
        tx.commit().await.map_err(at())?;
        session.finish();
        Ok(stored)
    }

    /// The event with this uid.
    pub async fn event(&self, uid: Uuid) -> Result<Option<StoredEvent>, DatabaseError> {
        with_timeout(Operation::ReadEvent, async {
            let mut session = self.session(Operation::ReadEvent).await?;
            let event = read(session.connection(), uid, Operation::ReadEvent).await?;
            session.finish();
            Ok(event)
        })
        .await
    }

    /// Marks the event as deleted because its `CouponEvent` was: another one can have its name. No-op if an event with
    /// this uid and name does not exist.
    pub async fn mark_resource_deleted(&self, uid: Uuid, name: &EventName) -> Result<(), DatabaseError> {
        self.with_connection(Operation::MarkDeletion, async |connection| {
            sqlx::query(
                "UPDATE coupon_event SET resource_deleted_at = now()
                 WHERE uid = $1 AND name = $2 AND resource_deleted_at IS NULL",
            )
            .bind(uid)
            .bind(name.as_str())
            .execute(connection)
            .await
        })
        .await
        .map(drop)
    }

    /// The stored events with this name that are not marked as deleted, with their generations.
    pub async fn events_not_deleted(&self, name: &EventName) -> Result<Vec<(Uuid, i64)>, DatabaseError> {
        self.with_connection(Operation::ReadEvent, async |connection| {
            sqlx::query_as(
                "SELECT uid, generation FROM coupon_event
                 WHERE name = $1 AND resource_deleted_at IS NULL AND NOT is_purging ORDER BY created_at, uid",
            )
            .bind(name.as_str())
            .fetch_all(connection)
            .await
        })
        .await
    }

    /// The uids of all stored events with this name, the latest first.
    pub async fn event_uids(&self, name: &EventName) -> Result<Vec<Uuid>, DatabaseError> {
        self.with_connection(Operation::ReadEvent, async |connection| {
            sqlx::query_scalar("SELECT uid FROM coupon_event WHERE name = $1 ORDER BY created_at DESC, uid")
                .bind(name.as_str())
                .fetch_all(connection)
                .await
        })
        .await
    }
}

/// Locks the event and its stock against changes until the transaction ends. Issuances can still be recorded.
pub(crate) async fn lock(
    connection: &mut PgConnection,
    uid: Uuid,
    operation: Operation,
) -> Result<StoredEvent, DatabaseError> {
    // A statement of its own, so that the next one sees what was committed while this one waited.
    sqlx::query("SELECT FROM coupon_event WHERE uid = $1 FOR NO KEY UPDATE")
        .bind(uid)
        .execute(&mut *connection)
        .await
        .map_err(DatabaseError::at(operation))?;
    read(connection, uid, operation).await?.ok_or(DatabaseError::UnknownEvent { operation, uid })
}

/// Replaces the conditions of the discounts. The event is locked.
async fn store_conditions(connection: &mut PgConnection, event: &StoredEvent) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM discount_conditions WHERE event_uid = $1")
        .bind(event.uid)
        .execute(&mut *connection)
        .await?;
    for (discount, DiscountConditions { max_discount, minimum_order_amount }) in &event.terms.conditions {
        let amount = |amount: Option<u64>| amount.map(|amount| i64::try_from(amount).unwrap_or(i64::MAX));
        sqlx::query(
            "INSERT INTO discount_conditions (event_uid, type, value, max_discount, minimum_order_amount)
             VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(event.uid)
        .bind(discount.kind.as_str())
        .bind(i64::from(discount.value))
        .bind(amount(*max_discount))
        .bind(amount(*minimum_order_amount))
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

async fn read(
    connection: &mut PgConnection,
    uid: Uuid,
    operation: Operation,
) -> Result<Option<StoredEvent>, DatabaseError> {
    let at = || DatabaseError::at(operation);
    let event = sqlx::query(
        "SELECT uid, name, policy_name, code_prefix, code_length, currency, validity, ramp_seconds, drops, seed, generation, stock_epoch,
                is_opening_final, openings, (extract(epoch FROM opens_at) * 1000)::bigint AS opens_at,
                (extract(epoch FROM starts_at) * 1000)::bigint AS starts_at,
                (extract(epoch FROM record_cutoff) * 1000)::bigint AS record_cutoff,
                EXISTS (SELECT FROM issuance WHERE event_uid = $1 AND user_id >= 'erased:' AND user_id < 'erased;')
                    AS has_pseudonyms
         FROM coupon_event WHERE uid = $1",
    )
    .bind(uid)
    .fetch_optional(&mut *connection)
    .await
    .map_err(at())?;
    let Some(event) = event else { return Ok(None) };
    let discounts = sqlx::query(
        "SELECT type, value, policy.count, conditions.max_discount, conditions.minimum_order_amount
         FROM (SELECT * FROM discount_policy WHERE event_uid = $1) AS policy
         FULL JOIN (SELECT * FROM discount_conditions WHERE event_uid = $1) AS conditions USING (type, value)
         ORDER BY policy.position",
    )
    .bind(uid)
    .fetch_all(&mut *connection)
    .await
    .map_err(at())?;
    stored_event(&event, &discounts).map(Some).map_err(|invalid| invalid.in_operation(operation))
}

fn stored_event(event: &PgRow, discounts: &[PgRow]) -> Result<StoredEvent, InvalidRow> {
    let seed = row::seed_if_set(event, "seed")?.ok_or_else(|| InvalidRow::new("seed is NULL"))?;
    let length: i16 = event.try_get("code_length")?;
    let prefix = event.try_get("code_prefix")?;
    let ramp_seconds: Option<i32> = event.try_get("ramp_seconds")?;
    let (mut discount_counts, mut conditions) = (Vec::new(), BTreeMap::new());
    for row in discounts {
        let discount = row::discount(row)?;
        discount_counts.extend(row::count_if_set(row, "count")?.map(|count| (discount, count)));
        conditions.extend(conditions_if_set(row)?.map(|conditions| (discount, conditions)));
    }
    Ok(StoredEvent {
        uid: event.try_get("uid")?,
        name: row::parsed(event, "name")?,
        policy_name: event.try_get("policy_name")?,
        seed,
        format: CodeFormat { prefix, length: u8::try_from(length).map_err(InvalidRow::new)? },
        terms: CouponTerms {
            validity: row::parsed_if_set(event, "validity")?,
            currency: row::parsed_if_set(event, "currency")?,
            conditions,
        },
        release: Release {
            ramp_seconds: ramp_seconds.map(u32::try_from).transpose().map_err(InvalidRow::new)?,
            drops: row::parsed_if_set(event, "drops")?.unwrap_or_default(),
        },
        generation: event.try_get("generation")?,
        stock_epoch: u32::try_from(event.try_get::<i32, _>("stock_epoch")?).map_err(InvalidRow::new)?,
        discount_counts,
        opens_at: event.try_get("opens_at")?,
        starts_at: event.try_get("starts_at")?,
        is_opening_final: event.try_get("is_opening_final")?,
        openings: u32::try_from(event.try_get::<i32, _>("openings")?).map_err(InvalidRow::new)?,
        record_cutoff: event.try_get("record_cutoff")?,
        has_pseudonyms: event.try_get("has_pseudonyms")?,
    })
}

fn conditions_if_set(row: &PgRow) -> Result<Option<DiscountConditions>, InvalidRow> {
    let conditions = DiscountConditions {
        max_discount: row::count_if_set(row, "max_discount")?,
        minimum_order_amount: row::count_if_set(row, "minimum_order_amount")?,
    };
    Ok((conditions != DiscountConditions::default()).then_some(conditions))
}
