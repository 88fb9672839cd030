//! Reserving, redeeming and releasing issued coupons ([ADR 0028](../../../docs/adr/0028-redemptions.md)).
//!
//! # Guarantees
//! - A change is decided on the last row of the history and inserted as the next one, in that order. If another session
//!   inserts that row first, the history is read and the change decided again.
//! - A repeated request returns the outcome of the first one, if that has changed something.

use couponry_domain::{
    DiscountConditions, EventName, IssuedCoupon, OrderId, RequestId, UserId, Uuid,
    code::CouponCode,
    redemption::{Change, CouponHistory, CouponState, CouponUse, Order, RedeemableCoupon, Refusal},
};
use futures::{StreamExt as _, stream::BoxStream};
use sqlx::{PgConnection, Row as _, postgres::PgRow};

use crate::{
    connection::{Database, with_timeout},
    error::{DatabaseError, Operation},
    row::{self, InvalidRow},
};

pub(crate) const OPERATION: Operation = Operation::UseCoupon;

/// Maximum number of attempts. Each failed one means that another request has changed the coupon, or that this request
/// is processed twice at the same time.
pub(crate) const MAX_ATTEMPTS: u32 = 200;

/// The most entries of a history that are returned.
pub const MAX_HISTORY: u32 = 1000;

/// A requested change of a coupon.
#[derive(Clone, Debug)]
pub struct UseRequest {
    /// The name of the event.
    pub event: EventName,
    /// The coupon.
    pub coupon: CouponCode,
    /// The user who uses the coupon.
    pub user: UserId,
    /// The order.
    pub order: Order,
    /// The change.
    pub change: Change,
    /// The idempotency key.
    pub id: RequestId,
    /// A hash of the request. Another request with the same idempotency key has another hash.
    pub hash: [u8; 32],
    /// The authenticated caller.
    pub actor: Option<String>,
}

/// An event that was found by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundEvent {
    /// Its uid.
    pub uid: Uuid,
    /// Whether its `CouponEvent` was deleted.
    pub is_deleted: bool,
}

/// The outcome of a requested change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UseOutcome {
    /// The coupon was changed by this request, or by an earlier attempt of it.
    Changed {
        /// The coupon.
        coupon: RedeemableCoupon,
        /// The entry of the history.
        entry: CouponUse,
    },
    /// Nothing was changed.
    Refused(Refusal),
    /// Another request has the same idempotency key. Nothing was changed.
    RequestIdReused,
    /// No issuance of the coupon is recorded. Nothing was changed.
    NotRecorded(FoundEvent),
    /// No event has this name. Nothing was changed.
    UnknownEvent,
}

/// A coupon that was looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CouponLookup {
    /// Its issuance is recorded.
    Recorded(CouponSnapshot),
    /// No issuance of the coupon is recorded.
    NotRecorded(FoundEvent),
    /// No event has this name.
    UnknownEvent,
}

/// The numbers of coupons of an event by their use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UseCounts {
    /// Coupons whose reservation has not ended.
    pub reserved: u64,
    /// Coupons that were redeemed.
    pub redeemed: u64,
    /// Coupons that were voided.
    pub voided: u64,
}

/// An entry of the history of a coupon, with the coupon and its holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HolderUse {
    /// The coupon.
    pub coupon: CouponCode,
    /// The holder.
    pub user_id: UserId,
    /// The entry.
    pub entry: CouponUse,
    /// The authenticated caller.
    pub actor: Option<String>,
}

/// A coupon as it was at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CouponSnapshot {
    /// The event.
    pub uid: Uuid,
    /// The coupon with the last entry of its history.
    pub history: CouponHistory,
    /// The time, by the clock of Postgres (milliseconds since the Unix epoch).
    pub now: i64,
}

impl CouponSnapshot {
    /// The state of the coupon at that time.
    #[must_use]
    pub fn state(&self) -> CouponState {
        self.history.state(self.now)
    }
}

/// Reads the event, the coupon, the last row of its history, and the row of the request. `clock_timestamp()` is read
/// after the snapshot was taken, so the time is not before that of a row that is found.
///
/// LIMIT prevents that the planner pulls up the subqueries: for small tables, it would then search an index by its
/// second column alone, and keep this plan when the tables have grown.
const READ: &str = "
    SELECT event.uid, event.is_deleted, floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now,
           issuance.user_id, issuance.code, issuance.type, issuance.value,
           (extract(epoch FROM issuance.issued_at) * 1000)::bigint AS issued_at,
           (extract(epoch FROM issuance.valid_until) * 1000)::bigint AS valid_until,
           event.currency, conditions.max_discount, conditions.minimum_order_amount,
           last.seq AS last_seq, last.kind AS last_kind, last.order_ref AS last_order_ref,
           (extract(epoch FROM last.until) * 1000)::bigint AS last_until,
           (extract(epoch FROM last.at) * 1000)::bigint AS last_at,
           own.seq AS own_seq, own.kind AS own_kind, own.order_ref AS own_order_ref,
           (extract(epoch FROM own.until) * 1000)::bigint AS own_until,
           (extract(epoch FROM own.at) * 1000)::bigint AS own_at, own.request_hash AS own_hash
    FROM (
        SELECT uid, currency, resource_deleted_at IS NOT NULL AS is_deleted FROM coupon_event
        -- A retry returns the outcome of its first attempt, also while the event is deleted.
        WHERE name = $1 AND (
            NOT is_purging OR (SELECT true FROM coupon_use WHERE event_uid = uid AND request_id = $3 LIMIT 1)
        )
        -- The coupons of a retained event remain usable after another one has its name.
        ORDER BY NOT EXISTS (SELECT FROM issuance WHERE event_uid = uid AND issuance.code = $2),
                 resource_deleted_at IS NOT NULL, created_at DESC, uid
        LIMIT 1
    ) AS event
    LEFT JOIN LATERAL (
        SELECT * FROM issuance WHERE issuance.event_uid = event.uid AND issuance.code = $2 LIMIT 1
    ) AS issuance ON true
    LEFT JOIN discount_conditions conditions ON conditions.event_uid = event.uid
         AND conditions.type = issuance.type AND conditions.value = issuance.value
    LEFT JOIN LATERAL (
        SELECT * FROM coupon_use WHERE coupon_use.event_uid = event.uid AND coupon_use.code = $2
        ORDER BY seq DESC LIMIT 1
    ) AS last ON true
    LEFT JOIN LATERAL (
        SELECT * FROM coupon_use WHERE coupon_use.event_uid = event.uid AND coupon_use.request_id = $3 LIMIT 1
    ) AS own ON true";

/// Inserts the next row of the history, unless the event is being deleted. The lock on the event lets its deletion wait
/// for the commit, so that the use is sent; the lock on the issuance prevents that it is removed before.
const INSERT: &str = "
    WITH event AS MATERIALIZED (
        SELECT FROM coupon_event WHERE uid = $1 AND NOT is_purging FOR KEY SHARE
    ), issued AS MATERIALIZED (
        SELECT event_uid, code FROM issuance WHERE event_uid = $1 AND code = $2 FOR KEY SHARE
    )
    INSERT INTO coupon_use (event_uid, code, seq, kind, order_ref, until, request_id, request_hash, actor, reason, at)
    SELECT event_uid, code, $3, $4, $5, to_timestamp($6 / 1000.0), $7, $8, $9, $10, to_timestamp($11 / 1000.0)
    FROM event, issued";

impl Database {
    /// Changes the coupon as requested.
    ///
    /// # Errors
    /// After an error, the coupon may have been changed. The same request returns the outcome.
    pub async fn use_coupon(&self, request: &UseRequest) -> Result<UseOutcome, DatabaseError> {
        let change = async {
            let mut session = self.lookup_session(OPERATION).await?;
            for _ in 0..MAX_ATTEMPTS {
                if let Some(outcome) = attempt(session.connection(), request).await? {
                    session.finish();
                    return Ok(outcome);
                }
            }
            session.finish();
            Err(DatabaseError::Conflict(OPERATION))
        };
        with_timeout(OPERATION, Box::pin(change)).await
    }

    /// Looks up a coupon.
    pub async fn find_coupon(&self, event: &EventName, code: &CouponCode) -> Result<CouponLookup, DatabaseError> {
        let find = async {
            let mut session = self.lookup_session(OPERATION).await?;
            let found = read(session.connection(), event, code, None).await?;
            session.finish();
            Ok(match found {
                None => CouponLookup::UnknownEvent,
                Some(Found { event, history: None, .. }) => CouponLookup::NotRecorded(event),
                Some(Found { event, now, history: Some(history), .. }) => {
                    CouponLookup::Recorded(CouponSnapshot { uid: event.uid, history, now })
                }
            })
        };
        with_timeout(OPERATION, Box::pin(find)).await
    }

    /// The numbers of reserved, redeemed and voided coupons of the event.
    pub async fn use_counts(&self, uid: Uuid) -> Result<UseCounts, DatabaseError> {
        let row = self
            .with_connection(OPERATION, async |connection| {
                sqlx::query(
                    "SELECT (SELECT count(*) FROM coupon_use WHERE event_uid = $1 AND kind = 'REDEEMED') AS redeemed,
                            (SELECT count(*) FROM coupon_use WHERE event_uid = $1 AND kind = 'VOIDED') AS voided,
                            (SELECT count(*) FROM coupon_use AS reserved
                             WHERE event_uid = $1 AND kind = 'RESERVED' AND until > now()
                               AND NOT EXISTS (SELECT FROM coupon_use AS later
                                               WHERE later.event_uid = $1 AND later.code = reserved.code
                                                 AND later.seq > reserved.seq)) AS reserved",
                )
                .bind(uid)
                .fetch_one(connection)
                .await
            })
            .await?;
        let count = |column| row::count(&row, column).map_err(|invalid| invalid.in_operation(OPERATION));
        Ok(UseCounts { reserved: count("reserved")?, redeemed: count("redeemed")?, voided: count("voided")? })
    }

    /// The coupons whose history is invalid, each with the first entry that cannot follow the ones before it: the
    /// coupon is not issued, an entry is missing, it was redeemed or voided before, or another order had reserved it.
    pub async fn invalid_uses(&self, uid: Uuid) -> Result<Vec<(CouponCode, u32)>, DatabaseError> {
        let mut session = self.long_session(OPERATION).await?;
        let rows = sqlx::query(
            "SELECT code, min(seq) AS seq FROM (
                 SELECT code, seq, kind, order_ref, at, issuance.user_id,
                        lag(seq) OVER history AS last_seq, lag(kind) OVER history AS last_kind,
                        lag(order_ref) OVER history AS last_order_ref, lag(until) OVER history AS last_until
                 FROM coupon_use LEFT JOIN issuance USING (event_uid, code)
                 WHERE event_uid = $1 WINDOW history AS (PARTITION BY code ORDER BY seq)
             ) AS entry
             WHERE user_id IS NULL OR seq <> coalesce(last_seq, 0) + 1 OR last_kind IN ('REDEEMED', 'VOIDED')
                OR kind <> 'VOIDED' AND last_kind = 'RESERVED' AND last_until > at
                   AND order_ref IS DISTINCT FROM last_order_ref
             GROUP BY code ORDER BY code",
        )
        .bind(uid)
        .fetch_all(session.connection())
        .await
        .map_err(DatabaseError::at(OPERATION))?;
        session.finish();
        let entry = |row: &PgRow| {
            let seq = u32::try_from(row.try_get::<i32, _>("seq")?).map_err(InvalidRow::new)?;
            Ok((row::parsed(row, "code")?, seq))
        };
        rows.iter().map(entry).collect::<Result<_, InvalidRow>>().map_err(|invalid| invalid.in_operation(OPERATION))
    }

    /// Streams the uses of all coupons of the event, each history in its order, with constant memory.
    #[must_use]
    pub fn stream_uses(&self, uid: Uuid) -> BoxStream<'_, Result<HolderUse, DatabaseError>> {
        sqlx::query(
            "SELECT coupon_use.code, issuance.user_id, seq, kind, order_ref, actor,
                    (extract(epoch FROM until) * 1000)::bigint AS until,
                    (extract(epoch FROM at) * 1000)::bigint AS at
             FROM coupon_use JOIN issuance USING (event_uid, code)
             WHERE event_uid = $1 ORDER BY coupon_use.code, seq",
        )
        .bind(uid)
        .fetch(&self.long_pool)
        .map(|row| {
            let row = row.map_err(DatabaseError::at(OPERATION))?;
            holder_use(&row).map_err(|invalid| invalid.in_operation(OPERATION))
        })
        .boxed()
    }

    /// The history of a coupon, with the callers of the changes. At most the last [`MAX_HISTORY`] entries.
    pub async fn coupon_history(
        &self,
        uid: Uuid,
        code: &CouponCode,
    ) -> Result<Vec<(CouponUse, Option<String>)>, DatabaseError> {
        let rows = self
            .with_connection(OPERATION, async |connection| {
                sqlx::query(
                    "SELECT * FROM (
                         SELECT seq, kind, order_ref, actor, (extract(epoch FROM until) * 1000)::bigint AS until,
                                (extract(epoch FROM at) * 1000)::bigint AS at
                         FROM coupon_use WHERE event_uid = $1 AND code = $2 ORDER BY seq DESC LIMIT $3
                     ) AS latest ORDER BY seq",
                )
                .bind(uid)
                .bind(code.as_str())
                .bind(i64::from(MAX_HISTORY))
                .fetch_all(connection)
                .await
            })
            .await?;
        let entry = |row: &PgRow| {
            let entry = coupon_use(row, "")?.ok_or_else(|| InvalidRow::new("seq is missing"))?;
            Ok((entry, row.try_get("actor")?))
        };
        rows.iter().map(entry).collect::<Result<_, InvalidRow>>().map_err(|invalid| invalid.in_operation(OPERATION))
    }
}

/// None: the history has changed since it was read.
async fn attempt(connection: &mut PgConnection, request: &UseRequest) -> Result<Option<UseOutcome>, DatabaseError> {
    let found = read(connection, &request.event, &request.coupon, Some(&request.id)).await?;
    let Some(Found { event, now, history, own }) = found else { return Ok(Some(UseOutcome::UnknownEvent)) };
    let (history, own) = match (history, own) {
        // The hash covers the coupon.
        (_, Some((_, hash))) if hash != request.hash => return Ok(Some(UseOutcome::RequestIdReused)),
        (None, _) => return Ok(Some(UseOutcome::NotRecorded(event))),
        (Some(history), own) => (history, own),
    };
    if let Some((entry, _)) = own {
        return Ok(Some(UseOutcome::Changed { coupon: history.coupon, entry }));
    }
    let entry = match history.decide(request.change, &request.user, &request.order, now) {
        Ok(entry) => entry,
        Err(refusal) => return Ok(Some(UseOutcome::Refused(refusal))),
    };
    couponry_failpoint::crash("database.before-coupon-use");
    let cause = Cause { request: Some((&request.id, &request.hash)), actor: request.actor.as_deref(), reason: None };
    if !insert(connection, event.uid, &request.coupon, &entry, cause).await? {
        return Ok(None);
    }
    couponry_failpoint::crash("database.after-coupon-use");
    Ok(Some(UseOutcome::Changed { coupon: history.coupon, entry }))
}

/// Who appends an entry to a history, and why.
#[derive(Clone, Copy)]
pub(crate) struct Cause<'a> {
    /// The idempotency key of the request, and its hash.
    pub(crate) request: Option<(&'a RequestId, &'a [u8; 32])>,
    /// The caller.
    pub(crate) actor: Option<&'a str>,
    /// The reason of a void.
    pub(crate) reason: Option<&'a str>,
}

/// Appends the entry to the history. False: the history has changed since it was read, or the event is being deleted.
pub(crate) async fn insert(
    connection: &mut PgConnection,
    uid: Uuid,
    code: &CouponCode,
    entry: &CouponUse,
    Cause { request, actor, reason }: Cause<'_>,
) -> Result<bool, DatabaseError> {
    let inserted = sqlx::query(INSERT)
        .bind(uid)
        .bind(code.as_str())
        .bind(i32::try_from(entry.seq).unwrap_or(i32::MAX))
        .bind(entry.kind.as_str())
        .bind(entry.order.as_ref().map(OrderId::as_str))
        .bind(entry.until)
        .bind(request.map(|(id, _)| id.as_str()))
        .bind(request.map(|(_, hash)| hash.as_slice()))
        .bind(actor)
        .bind(reason)
        .bind(entry.at)
        .execute(connection)
        .await
        .map_err(DatabaseError::at(OPERATION));
    match inserted {
        Ok(inserted) => Ok(inserted.rows_affected() > 0),
        Err(error) if error.is_unique_violation() => Ok(false),
        Err(error) => Err(error),
    }
}

/// What [`READ`] has found.
struct Found {
    event: FoundEvent,
    now: i64,
    history: Option<CouponHistory>,
    /// The row of the request, and its hash.
    own: Option<(CouponUse, Vec<u8>)>,
}

async fn read(
    connection: &mut PgConnection,
    event: &EventName,
    code: &CouponCode,
    request: Option<&RequestId>,
) -> Result<Option<Found>, DatabaseError> {
    let row = sqlx::query(READ)
        .bind(event.as_str())
        .bind(code.as_str())
        .bind(request.map(RequestId::as_str))
        .fetch_optional(connection)
        .await
        .map_err(DatabaseError::at(OPERATION))?;
    row.map(|row| found(&row)).transpose().map_err(|invalid| invalid.in_operation(OPERATION))
}

fn found(row: &PgRow) -> Result<Found, InvalidRow> {
    let history = match row.try_get::<Option<i64>, _>("issued_at")? {
        None => None,
        Some(issued_at) => {
            let (user_id, coupon) = (row::parsed(row, "user_id")?, row::parsed(row, "code")?);
            let issued = IssuedCoupon { user_id, coupon, discount: row::discount(row)?, issued_at };
            let coupon = RedeemableCoupon {
                issued,
                valid_until: row.try_get("valid_until")?,
                conditions: DiscountConditions {
                    max_discount: row::count_if_set(row, "max_discount")?,
                    minimum_order_amount: row::count_if_set(row, "minimum_order_amount")?,
                },
                currency: row::parsed_if_set(row, "currency")?,
            };
            Some(CouponHistory { coupon, last: coupon_use(row, "last_")? })
        }
    };
    let own = match coupon_use(row, "own_")? {
        Some(entry) => Some((entry, row.try_get("own_hash")?)),
        None => None,
    };
    Ok(Found {
        event: FoundEvent { uid: row.try_get("uid")?, is_deleted: row.try_get("is_deleted")? },
        now: row.try_get("now")?,
        history,
        own,
    })
}

fn holder_use(row: &PgRow) -> Result<HolderUse, InvalidRow> {
    Ok(HolderUse {
        coupon: row::parsed(row, "code")?,
        user_id: row::parsed(row, "user_id")?,
        entry: coupon_use(row, "")?.ok_or_else(|| InvalidRow::new("seq is missing"))?,
        actor: row.try_get("actor")?,
    })
}

/// The entry in the columns with this prefix. None: they are NULL.
pub(crate) fn coupon_use(row: &PgRow, prefix: &str) -> Result<Option<CouponUse>, InvalidRow> {
    let column = |name: &str| format!("{prefix}{name}");
    let Some(seq) = row.try_get::<Option<i32>, _>(column("seq").as_str())? else { return Ok(None) };
    let order: Option<&str> = row.try_get(column("order_ref").as_str())?;
    Ok(Some(CouponUse {
        seq: u32::try_from(seq).map_err(InvalidRow::new)?,
        kind: row::parsed(row, &column("kind"))?,
        order: order.map(str::parse).transpose().map_err(InvalidRow::new)?,
        until: row.try_get(column("until").as_str())?,
        at: row.try_get(column("at").as_str())?,
    }))
}
