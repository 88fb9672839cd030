//! The events: registered before their stock is made.

use couponry_domain::{
    CodeFormat, Discount, EventName, Seed, Uuid,
    code::{Codes, CouponCode},
};
use sqlx::{PgConnection, Row as _, postgres::PgRow};

use crate::{Database, DatabaseError, Operation, connection::answered, partition::Partition, row};

/// An event to register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// The `CouponEvent`'s uid.
    pub uid: Uuid,
    /// The `CouponEvent`'s name.
    pub name: EventName,
    /// What people call it.
    pub policy_name: String,
    /// How its codes look.
    pub format: CodeFormat,
    /// The generation of the manifest that says so.
    pub generation: i64,
}

/// An event as Postgres has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvent {
    /// The `CouponEvent`'s uid.
    pub uid: Uuid,
    /// The `CouponEvent`'s name.
    pub name: EventName,
    /// What people call it.
    pub policy_name: String,
    /// What its coupons follow from.
    pub seed: Seed,
    /// How its codes look.
    pub format: CodeFormat,
    /// The generation of the latest manifest that was followed.
    pub generation: i64,
    /// How often the stock was made anew. What is meant for another stock epoch is refused.
    pub stock_epoch: u32,
    /// How many coupons of each discount exist, in the order of the manifest. Empty before the first lot.
    pub stock: Vec<(Discount, u64)>,
    /// From when on coupons may have been given out (milliseconds since the epoch); with a start that is still to come, it is
    /// in the future.
    pub opened_at: Option<i64>,
    /// What was issued before this time and is not recorded never will be (milliseconds since the epoch): [`Database::set_record_cutoff`].
    pub record_cutoff: Option<i64>,
}

impl StoredEvent {
    /// How many coupons exist.
    #[must_use]
    pub fn stock_len(&self) -> u64 {
        self.stock.iter().map(|(_, count)| count).sum()
    }
}

impl Database {
    /// Makes the event known and gives it a seed, or finds it as it is.
    ///
    /// The policy name follows the manifest. The code format does as long as there is no stock; after that it stays, since
    /// the codes are made. The seed never changes. What an older generation of the manifest says changes nothing.
    pub async fn register(&self, event: &NewEvent) -> Result<StoredEvent, DatabaseError> {
        let sample = Codes::new(Seed::from([0; 32]), event.format.clone(), 1).next().unwrap_or_default();
        if sample.parse::<CouponCode>().is_err() {
            return Err(DatabaseError::InvalidCodeFormat(sample));
        }
        answered(Operation::Register, self.write_event(event)).await
    }

    async fn write_event(&self, event: &NewEvent) -> Result<StoredEvent, DatabaseError> {
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
            if stored.stock.is_empty() {
                stored.format = event.format.clone();
            }
            stored.policy_name.clone_from(&event.policy_name);
            stored.generation = event.generation;
        }
        sqlx::query(
            "UPDATE coupon_event SET policy_name = $2, code_prefix = $3, code_length = $4, generation = $5
             WHERE uid = $1
               AND (policy_name, code_prefix, code_length, generation) IS DISTINCT FROM ($2, $3, $4, $5)",
        )
        .bind(event.uid)
        .bind(&stored.policy_name)
        .bind(&stored.format.prefix)
        .bind(i16::from(stored.format.length))
        .bind(stored.generation)
        .execute(&mut *tx)
        .await
        .map_err(at())?;
        tx.commit().await.map_err(at())?;
        session.finish();
        Ok(stored)
    }

    /// The event with this uid.
    pub async fn event(&self, uid: Uuid) -> Result<Option<StoredEvent>, DatabaseError> {
        answered(Operation::ReadEvent, async {
            let mut session = self.session(Operation::ReadEvent).await?;
            let event = read(session.connection(), uid, Lock::None, Operation::ReadEvent).await?;
            session.finish();
            Ok(event)
        })
        .await
    }

    /// Deletes the event with its stock and issuances. Nothing happens when there is no such event.
    ///
    /// It works in two steps; interrupted between them, the event is there without its stock until the call is repeated.
    pub async fn delete_event(&self, uid: Uuid) -> Result<(), DatabaseError> {
        let at = || DatabaseError::at(Operation::DeleteEvent);
        // Dropping a partition shuts everyone out of `coupon`; deleting the issuances can take long. So not both at once:
        // and without the stock, nobody records into the event any more.
        let mut session = self.session(Operation::DeleteEvent).await?;
        let mut tx = session.begin().await?;
        Partition(uid).drop(&mut tx).await.map_err(at())?;
        tx.commit().await.map_err(at())?;
        let mut tx = session.begin().await?;
        for delete in ["DELETE FROM issuance WHERE event_uid = $1", "DELETE FROM coupon_event WHERE uid = $1"] {
            sqlx::query(delete).bind(uid).execute(&mut *tx).await.map_err(at())?;
        }
        tx.commit().await.map_err(at())?;
        session.finish();
        Ok(())
    }
}

/// Keeps everyone else from changing the event or its stock until the transaction ends. Recording goes on.
pub(crate) async fn lock(
    connection: &mut PgConnection,
    uid: Uuid,
    operation: Operation,
) -> Result<StoredEvent, DatabaseError> {
    read(connection, uid, Lock::Change, operation).await?.ok_or(DatabaseError::UnknownEvent { operation, uid })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Lock {
    None,
    Change,
}

async fn read(
    connection: &mut PgConnection,
    uid: Uuid,
    lock: Lock,
    operation: Operation,
) -> Result<Option<StoredEvent>, DatabaseError> {
    let at = || DatabaseError::at(operation);
    if lock == Lock::Change {
        // A statement of its own: those after it see what was committed while this one waited.
        sqlx::query("SELECT FROM coupon_event WHERE uid = $1 FOR NO KEY UPDATE")
            .bind(uid)
            .execute(&mut *connection)
            .await
            .map_err(at())?;
    }
    let event = sqlx::query(
        "SELECT uid, name, policy_name, code_prefix, code_length, seed, generation, stock_epoch,
                (extract(epoch FROM opened_at) * 1000)::bigint AS opened_at,
                (extract(epoch FROM record_cutoff) * 1000)::bigint AS record_cutoff
         FROM coupon_event WHERE uid = $1",
    )
    .bind(uid)
    .fetch_optional(&mut *connection)
    .await
    .map_err(at())?;
    let Some(event) = event else { return Ok(None) };
    let stock = sqlx::query("SELECT type, value, count FROM discount_policy WHERE event_uid = $1 ORDER BY position")
        .bind(uid)
        .fetch_all(&mut *connection)
        .await
        .map_err(at())?;
    stored(&event, &stock).map(Some).map_err(|what| what.during(operation))
}

fn stored(event: &PgRow, stock: &[PgRow]) -> Result<StoredEvent, row::Unexpected> {
    let seed: Vec<u8> = event.try_get("seed")?;
    let seed: [u8; 32] = seed.try_into().map_err(|_| row::Unexpected::new("a seed that is not 32 bytes long"))?;
    let length: i16 = event.try_get("code_length")?;
    let prefix = event.try_get("code_prefix")?;
    Ok(StoredEvent {
        uid: event.try_get("uid")?,
        name: row::parsed(event, "name")?,
        policy_name: event.try_get("policy_name")?,
        seed: Seed::from(seed),
        format: CodeFormat { prefix, length: u8::try_from(length).map_err(row::Unexpected::new)? },
        generation: event.try_get("generation")?,
        stock_epoch: u32::try_from(event.try_get::<i32, _>("stock_epoch")?).map_err(row::Unexpected::new)?,
        stock: stock
            .iter()
            .map(|row| Ok((row::discount(row)?, row::count(row, "count")?)))
            .collect::<Result<_, row::Unexpected>>()?,
        opened_at: event.try_get("opened_at")?,
        record_cutoff: event.try_get("record_cutoff")?,
    })
}
