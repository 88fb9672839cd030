//! What the stores hold of an event. Reads only.

use couponry_domain::EventName;
use couponry_postgres::{Database, StoredEvent};
use couponry_redis::{Observed, Stock};
use k8s_openapi::jiff::Timestamp;

use super::{ReconcileError, Wanted, arrival::Arrival};
use crate::context::Context;

/// What the stores hold of an event.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// The event in Postgres.
    pub(crate) stored: Option<StoredEvent>,
    /// How many coupons Redis knew to be recorded, before Postgres was asked.
    pub(crate) known_recorded: u64,
    /// How many issuances Postgres has.
    pub(crate) recorded: u64,
    /// The event in Redis: this one, or another of its name.
    pub(crate) redis: Option<Observed>,
    /// If it is another: which one.
    pub(crate) rival: Option<Rival>,
    /// If this Redis is not known to hold all of the event: whether what was given before is in Postgres.
    pub(crate) arrival: Option<Arrival>,
    /// Redis's clock, or ours when Redis has no event (milliseconds since the epoch).
    pub(crate) now: i64,
}

/// Another event that has our name in Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rival {
    /// It is gone from Kubernetes, where the name is ours now.
    Earlier,
    /// It, or yet another one, has the name in Kubernetes now: ours is gone.
    Later,
    /// Postgres does not know it: another installation may have made it.
    Unknown,
}

impl Seen {
    /// The event in Postgres, where a step needs it.
    pub(crate) fn stored(&self) -> Result<&StoredEvent, ReconcileError> {
        self.stored.as_ref().ok_or(ReconcileError::Outdated)
    }

    /// This event in Redis.
    pub(crate) fn own(&self, wanted: &Wanted) -> Option<&Observed> {
        self.redis.as_ref().filter(|redis| redis.uid == wanted.uid)
    }

    /// The same a moment later, with more coupons in Redis.
    pub(crate) fn with_loaded(&self, loaded: u64) -> Self {
        let mut seen = self.clone();
        if let Some(redis) = &mut seen.redis {
            redis.available += loaded.saturating_sub(redis.loaded);
            redis.loaded = loaded;
        }
        seen
    }

    /// How many coupons Postgres has.
    pub(crate) fn stock_len(&self) -> u64 {
        self.stored.as_ref().map_or(0, StoredEvent::stock_len)
    }
}

/// Looks at both stores, in an order that makes no false alarms while other programs go on: what Redis knows to be recorded was
/// recorded before, what is recorded was issued before, what is loaded was stored before.
pub(crate) async fn observe(context: &Context, wanted: &Wanted) -> Result<Seen, ReconcileError> {
    let Context { database, stock, .. } = context;
    let before = stock.observe(&wanted.name).await?.filter(|before| before.uid == wanted.uid);
    let known_recorded = before.map_or(0, |before| before.completed);
    let recorded = database.issued_count(wanted.uid).await?;
    let mut redis = stock.observe(&wanted.name).await?;
    let stored = database.event(wanted.uid).await?;
    if redis.is_none() && stored.as_ref().is_some_and(|stored| stored.opened_at.is_some()) {
        // Another operator may have made and opened it in between. Only now its absence means something.
        redis = stock.observe(&wanted.name).await?;
    }
    let rival = match &redis {
        Some(other) if other.uid != wanted.uid => Some(rival(context, wanted, other.uid).await?),
        _ => None,
    };
    let own = redis.as_ref().filter(|redis| redis.uid == wanted.uid);
    let arrival = match own.filter(|own| !own.is_verified) {
        Some(own) if stored.as_ref().is_some_and(|stored| stored.opened_at.is_some()) => {
            Some(context.arrivals.look(own).await)
        }
        _ => {
            context.arrivals.forget(wanted.uid);
            None
        }
    };
    let now = redis.as_ref().map_or_else(|| Timestamp::now().as_millisecond(), |redis| redis.now);
    Ok(Seen { stored, known_recorded, recorded, redis, rival, arrival, now })
}

/// Asks Kubernetes itself who has the name, after the rival was seen in Redis: when it is we, the rival had it before us.
async fn rival(context: &Context, wanted: &Wanted, other: couponry_domain::Uuid) -> Result<Rival, ReconcileError> {
    let current = context.events.get_metadata_opt(wanted.name.as_str()).await.map_err(|source| {
        ReconcileError::Kubernetes { operation: "asking who has the name", source: Box::new(source) }
    })?;
    if current.and_then(|event| event.metadata.uid?.parse().ok()) != Some(wanted.uid) {
        return Ok(Rival::Later);
    }
    Ok(if context.database.event(other).await?.is_some() { Rival::Earlier } else { Rival::Unknown })
}

/// How many batches wait for Kafka, and how many issued coupons for Postgres.
pub(crate) async fn backlog(
    database: &Database,
    stock: &Stock,
    name: &EventName,
    uid: couponry_domain::Uuid,
) -> Result<Backlog, ReconcileError> {
    let Some(own) = stock.observe(name).await?.filter(|redis| redis.uid == uid) else { return Ok(Backlog::default()) };
    let recorded = database.issued_count(uid).await?;
    Ok(Backlog { outbox: own.outbox, unrecorded: own.issued.saturating_sub(recorded) })
}

/// What is on its way from Redis to Postgres.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Backlog {
    /// Batches that are not known to be in Kafka.
    pub(crate) outbox: u64,
    /// Issued coupons that Postgres has not recorded.
    pub(crate) unrecorded: u64,
}

impl Backlog {
    pub(crate) const fn is_empty(self) -> bool {
        self.outbox == 0 && self.unrecorded == 0
    }
}
