//! Reads the state of an event from the stores. It also adds the event to the event list and marks it as active in
//! Redis.

use couponry_crds::{status::reason, stored_identity};
use couponry_domain::{Gate, Uuid};
use couponry_postgres::{ImportedCodes, StoredEvent, UseCounts};
use couponry_redis::RedisEvent;
use couponry_runtime::error_chain;

use crate::{
    blocker::Blocker,
    context::Context,
    reconcile::{
        desired_state::DesiredState, drain::DrainState, error::ReconcileError, recording::RecordingState, state::state,
    },
};

/// What the stores hold of an event.
#[derive(Clone, Debug)]
pub(super) struct ObservedState {
    /// The event in Postgres.
    pub(super) stored: Option<StoredEvent>,
    /// How many entries were marked `COMPLETED` in Redis, read before Postgres.
    pub(super) marked_recorded: u64,
    /// How many issuances are recorded in Postgres.
    pub(super) recorded: u64,
    /// How many coupons are reserved, redeemed and voided in Postgres, read before Redis.
    pub(super) uses: UseCounts,
    /// The imports of codes, in their order.
    pub(super) imports: Vec<ImportedCodes>,
    /// The event of this name in Redis, which may be another one.
    pub(super) redis: Option<RedisEvent>,
    /// Set if the event in Redis is another one, or if the event is not registered and Postgres has another one of this
    /// name.
    pub(super) name_conflict: Option<NameConflict>,
    /// Set if coupons may have been issued and Redis is unverified.
    pub(super) drain: Option<DrainState>,
    /// Whether issued coupons are being recorded.
    pub(super) recording: RecordingState,
    /// Why Redis rejects what issuing requires, although it responds.
    pub(super) redis_blocker: Option<Blocker>,
}

/// Relation of this event to another one that uses the name in the stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NameConflict {
    /// It is marked as deleted, or the manifest declares that it is replaced; this event has the name now.
    Predecessor,
    /// Nothing proves that it was deleted: its object may be missing because Kubernetes was restored, or may be in
    /// another cluster.
    NotDeleted {
        /// Its uid.
        uid: Uuid,
        /// Its generation.
        generation: i64,
    },
    /// This event was deleted from Kubernetes; the other or yet another one has the name now.
    Successor,
    /// It is not in Postgres: it may belong to another installation.
    Unknown,
}

impl ObservedState {
    /// The event in Postgres, for steps that require it.
    pub(super) fn stored(&self) -> Result<&StoredEvent, ReconcileError> {
        self.stored.as_ref().ok_or(ReconcileError::Conflict)
    }

    /// This event in Redis.
    pub(super) fn redis_event(&self, desired: &DesiredState) -> Option<&RedisEvent> {
        self.redis.as_ref().filter(|redis| redis.uid == desired.uid)
    }

    /// This state after more coupons have been loaded into Redis.
    pub(super) fn with_loaded(&self, loaded: u64) -> Self {
        let mut observed = self.clone();
        if let Some(redis) = &mut observed.redis {
            redis.available += loaded.saturating_sub(redis.loaded);
            redis.loaded = loaded;
        }
        observed
    }

    /// How many coupons are generated in Postgres.
    pub(super) fn generated(&self) -> u64 {
        self.stored.as_ref().map_or(0, StoredEvent::generated)
    }
}

/// Reads both stores in an order in which concurrent changes cannot look like a mismatch: what is marked `COMPLETED`
/// was recorded before, what is recorded was issued before, and what is loaded was generated before.
#[tracing::instrument(level = "debug", skip_all)]
pub(super) async fn observe(context: &Context, desired: &DesiredState) -> Result<ObservedState, ReconcileError> {
    let Context { database, redis_store, .. } = context;
    let first = redis_store.observe(&desired.name).await?.filter(|first| first.uid == desired.uid);
    let marked_recorded = first.as_ref().map_or(0, |first| first.marked_recorded);
    let recorded = database.recorded_count(desired.uid).await?;
    let uses = database.use_counts(desired.uid).await?;
    let (mut redis, redis_blocker) = observe_redis(context, desired, first.as_ref().is_some_and(may_issue)).await?;
    let stored = database.event(desired.uid).await?;
    // Also if the manifest asks for generated codes: it may have changed. After the event, so that an import that is
    // committed meanwhile does not look like generated codes.
    let imports = database.code_imports(desired.uid).await?;
    if redis.is_some() {
        match redis_store.ensure_listed(&desired.name).await {
            Ok(true) => tracing::warn!("the event was missing in the event list, added it again"),
            Ok(false) => {}
            // The set may be on another node of a cluster, whose outage must not stop this event.
            Err(error) => {
                tracing::warn!(error = error_chain(error), "cannot add the event to the event list, retrying later");
            }
        }
    }
    let has_opening = stored.as_ref().is_some_and(|stored| stored.opens_at.is_some());
    if redis.is_none() && has_opening {
        // Another operator may have created and opened it between the two reads, so it is read again before it counts
        // as absent.
        redis = redis_store.observe(&desired.name).await?;
    }
    let name_conflict = match &redis {
        Some(other) if other.uid != desired.uid => Some(classify_conflict(context, desired, other.uid).await?),
        _ if stored.is_none() => find_not_deleted(context, desired, |_| true).await?,
        _ => None,
    };
    if redis.as_ref().is_some_and(|redis| redis.outbox > 0) {
        // The mark of the issuer may be lost, and the outboxes of unmarked events are read rarely.
        redis_store.mark_active(&desired.name).await;
    }
    let unverified = redis.as_ref().filter(|redis| redis.uid == desired.uid && !redis.is_verified);
    let has_issuances = recorded > 0 || unverified.is_some_and(|in_redis| in_redis.issued > 0);
    let drain = match unverified {
        Some(in_redis) if has_opening || has_issuances || in_redis.gate == Gate::Open => {
            Some(context.drains.poll(in_redis).await)
        }
        _ => {
            // A manifest may name the uid of another event, which is blocked then. The drain of that one goes on.
            if stored.as_ref().is_none_or(|stored| stored.name == desired.name) {
                context.drains.reset(desired.uid);
            }
            None
        }
    };
    let recording = match redis.as_ref().filter(|redis| redis.uid == desired.uid) {
        Some(in_redis) => context.recording.poll(in_redis, recorded).await,
        None => RecordingState::default(),
    };
    Ok(ObservedState {
        stored,
        marked_recorded,
        recorded,
        uses,
        imports,
        redis,
        name_conflict,
        drain,
        recording,
        redis_blocker,
    })
}

/// Whether issuing has to work, now or when the event starts.
pub(super) fn may_issue(in_redis: &RedisEvent) -> bool {
    in_redis.gate == Gate::Open && state(Some(in_redis)) != reason::ENDED
}

/// Reads the event from Redis, and if `is_issuing`, why Redis rejects what issuing requires. A Redis that is full or
/// cannot write to its disk still responds to everything that only reads.
pub(super) async fn observe_redis(
    context: &Context,
    desired: &DesiredState,
    is_issuing: bool,
) -> Result<(Option<RedisEvent>, Option<Blocker>), ReconcileError> {
    let Context { redis_store, .. } = context;
    if !is_issuing {
        return Ok((redis_store.observe(&desired.name).await?, None));
    }
    let error = match redis_store.observe_issuing(&desired.name).await {
        Ok(redis) => return Ok((redis, None)),
        Err(error) => ReconcileError::from(error),
    };
    match error.blocker() {
        Some(blocker) if blocker.reason == reason::REDIS_REJECTS_COMMANDS => {
            let redis = redis_store.observe(&desired.name).await?;
            // The gate may have been closed meanwhile.
            let is_issuing_blocked = redis.as_ref().is_some_and(|redis| redis.uid == desired.uid && may_issue(redis));
            Ok((redis, is_issuing_blocked.then_some(blocker)))
        }
        _ => Err(error),
    }
}

/// Reads the owner of the name from the API server after the other event was observed in Redis: if it is this event,
/// the other one had the name before.
async fn classify_conflict(
    context: &Context,
    desired: &DesiredState,
    other: Uuid,
) -> Result<NameConflict, ReconcileError> {
    let current = context.events.get_metadata_opt(desired.name.as_str()).await;
    let current = current.map_err(|source| ReconcileError::Kubernetes {
        operation: "read which event has the name",
        source: Box::new(source),
    })?;
    if current.and_then(|event| Some(stored_identity(&event.metadata)?.0)) != Some(desired.uid) {
        return Ok(NameConflict::Successor);
    }
    if desired.replaces == Some(other) {
        return Ok(NameConflict::Predecessor);
    }
    if let Some(conflict) = find_not_deleted(context, desired, |uid| uid == other).await? {
        return Ok(conflict);
    }
    let is_known = context.database.event(other).await?.is_some();
    Ok(if is_known { NameConflict::Predecessor } else { NameConflict::Unknown })
}

/// Looks for another event of this name in Postgres that may still exist.
async fn find_not_deleted(
    context: &Context,
    desired: &DesiredState,
    is_conflicting: impl Fn(Uuid) -> bool,
) -> Result<Option<NameConflict>, ReconcileError> {
    if couponry_failpoint::is_on("operator.ignore-installation") {
        return Ok(None);
    }
    let others = context.database.events_not_deleted(&desired.name).await?.into_iter();
    let mut conflicts =
        others.filter(|(uid, _)| *uid != desired.uid && Some(*uid) != desired.replaces && is_conflicting(*uid));
    Ok(conflicts.next().map(|(uid, generation)| NameConflict::NotDeleted { uid, generation }))
}
