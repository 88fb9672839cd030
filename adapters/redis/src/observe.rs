//! Reading the state of an event, or of one user, at one instant.

use std::collections::HashMap;

use couponry_domain::{Acknowledge, AdmissionKey, EventName, Gate, Release, UserId, Uuid, Validity, Window};

use crate::{
    error::{RedisStoreError, invalid_value},
    issue::MAX_BATCH,
    issued_entry::{IssuedEntry, parse_installation, parse_uid, parse_validity},
    redis_store::RedisStore,
    script::Script,
};

/// The replication id in `couponMeta` after `request_restore.lua`.
const RESTORE_REQUESTED: &str = "RESTORE";

/// An event in Redis, at one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisEvent {
    /// The uid of the event.
    pub uid: Uuid,
    /// The installation that prepared it, if it is known.
    pub installation: Option<Uuid>,
    /// The stock epoch.
    pub stock_epoch: u32,
    /// The gate.
    pub gate: Gate,
    /// The window.
    pub window: Window,
    /// When an issued coupon may be returned to its user.
    pub acknowledge: Acknowledge,
    /// How long the coupons are valid. None: unlimited.
    pub validity: Option<Validity>,
    /// How the coupons are released.
    pub release: Release,
    /// The fields of the release, if they are damaged; `release` is the default then. Nothing is issued until the gate
    /// is set again.
    pub damaged_release: Option<String>,
    /// The key of the tickets, if users are admitted over a ramp.
    pub admission_key: Option<AdmissionKey>,
    /// The generation of the manifest that the gate follows; 0 before it is first set.
    pub generation: i64,
    /// How many coupons are loaded.
    pub loaded: u64,
    /// How many coupons are available, or were when the event was retired: also those that are held back until a later
    /// time.
    pub available: u64,
    /// When the last available coupon was issued, in milliseconds since the Unix epoch. None: coupons are available, or
    /// the time was lost with the data of Redis.
    pub sold_out_at: Option<i64>,
    /// How many users have a coupon, or had when the event was retired.
    pub issued: u64,
    /// How many of the issued coupons are marked `COMPLETED` or `VOIDED`, which means that they are recorded.
    pub marked_recorded: u64,
    /// How many of them are marked `VOIDED`.
    pub voided: u64,
    /// The number of entries that are marked `CANCEL`: their coupon could not be recorded.
    pub cancelled: u64,
    /// How many coupons are neither available nor issued: they were cancelled and not put back into the queue. At every
    /// instant, `loaded` is the sum of `available`, `issued` and this. Negative if a coupon is counted twice, which
    /// happens briefly after two users received the same one.
    pub withheld: i64,
    /// Whether it has the key of the pseudonyms of erased users.
    pub has_pseudonym_key: bool,
    /// For a retired event, its gate before it was retired. The gate is closed now.
    pub retired: Option<Gate>,
    /// How many outbox entries Kafka has not confirmed yet.
    pub outbox: u64,
    /// The clock of Redis, in milliseconds since the Unix epoch.
    pub now: i64,
    /// The `master_replid` of this Redis. See [`crate::RedisStore::mark_verified`]. Empty if it is not a master: then
    /// it is unverified, and cannot be verified.
    pub replication_id: String,
    /// Whether this Redis is known to be complete for the event. Otherwise it issues nothing.
    pub is_verified: bool,
    /// Whether a restore from Postgres was requested ([`RedisStore::request_restore`]); then it is unverified.
    pub is_restore_requested: bool,
    /// The id of the last recovery that was started, or of the preparation of the event.
    pub recovery_id: String,
}

impl RedisEvent {
    /// How many coupons are withheld: neither available nor issued, because they were cancelled and not put back into
    /// the queue. A restore of Redis makes them available again. The status, the metrics and the audit report this
    /// number.
    #[must_use]
    pub fn withheld_count(&self) -> u64 {
        u64::try_from(self.withheld).unwrap_or(0)
    }

    /// How many of the available coupons are not held back at `now`.
    #[must_use]
    pub fn available_at(&self, now: i64) -> u64 {
        self.available.saturating_sub(self.release.drops.held_back(now))
    }

    /// How many coupons are counted twice.
    #[must_use]
    pub fn duplicated_count(&self) -> u64 {
        self.withheld.min(0).unsigned_abs()
    }
}

/// The state of an event for one user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// The uid of the event.
    pub uid: Uuid,
    /// The installation of the event, if it is known.
    pub installation: Option<Uuid>,
    /// When an issued coupon may be returned to its user.
    pub acknowledge: Acknowledge,
    /// How long the coupons are valid. None: unlimited.
    pub validity: Option<Validity>,
    /// Whether the event is retired: its issued coupons are in the database only.
    pub is_retired: bool,
    /// Whether this Redis is verified.
    pub is_verified: bool,
    /// The user's entry, if a coupon was ever issued to the user.
    pub entry: Option<IssuedEntry>,
}

type RawLookups = (String, String, bool, bool, Vec<Option<Vec<u8>>>, Option<String>, Option<String>);
type RawObserved = (HashMap<String, String>, u64, u64, u64, i64, String);

impl RedisStore {
    /// Reads the event, or None if Redis does not have it.
    pub async fn observe(&self, event: &EventName) -> Result<Option<RedisEvent>, RedisStoreError> {
        self.read_event(event, &self.scripts.observe, "cannot read the event from Redis").await
    }

    /// Reads the event as [`RedisStore::observe`] does, if Redis would accept the writes of [`RedisStore::issue`] for
    /// it. This depends on the memory, the disk, the role and the replicas of Redis, and on the permissions of this
    /// user.
    ///
    /// # Errors
    /// If Redis rejects writes, the error has its [code](RedisStoreError::code).
    pub async fn observe_issuing(&self, event: &EventName) -> Result<Option<RedisEvent>, RedisStoreError> {
        self.read_event(event, &self.scripts.observe_issuing, "cannot write to Redis").await
    }

    async fn read_event(
        &self,
        event: &EventName,
        script: &Script,
        operation: &'static str,
    ) -> Result<Option<RedisEvent>, RedisStoreError> {
        let keys = self.keys(event);
        let observed: Option<RawObserved> = script
            .key(keys.meta)
            .key(keys.queue)
            .key(keys.issued)
            .key(keys.outbox)
            .invoke_async(&mut self.connection())
            .await
            .map_err(self.failed(operation))?;
        let Some((meta, mut available, mut entries, outbox, now, replication_id)) = observed else { return Ok(None) };

        let text = |field: &str| meta.get(field).map_or("", String::as_str);
        let invalid = |field: &str| invalid_value(operation, &format!("{field}={}", text(field)));
        let number = |field: &str| text(field).parse::<u64>().map_err(|_| invalid(field));
        let gate = Gate::from_name(text("gate")).ok_or_else(|| invalid("gate"))?;
        let time = |field: &str| match meta.get(field).map(String::as_str) {
            Some("") => Ok(None),
            Some(time) => time.parse().map(Some).map_err(|_| invalid(field)),
            // The window is set together with the gate.
            None if gate == Gate::Loading => Ok(None),
            None => Err(invalid(field)),
        };
        let set = |field: &str| Some(text(field)).filter(|text| !text.is_empty());
        let ramp_seconds = set("rampSeconds").map(str::parse).transpose().ok();
        let release = ramp_seconds.zip(text("drops").parse().ok());
        let release = release.map(|(ramp_seconds, drops)| Release { ramp_seconds, drops });
        let fields = || format!("rampSeconds={} drops={}", text("rampSeconds"), text("drops"));
        let damaged_release = release.is_none().then(fields);
        let cancelled = number("cancelled")?;
        let sold_out_at = match text("soldOutAt") {
            "" => None,
            time => Some(time.parse().map_err(|_| invalid("soldOutAt"))?),
        };
        let retired = match text("retired") {
            "" => None,
            gate => Some(Gate::from_name(gate).ok_or_else(|| invalid("retired"))?),
        };
        if retired.is_some() {
            (available, entries) = (number("available")?, number("entries")?);
        }
        Ok(Some(RedisEvent {
            uid: parse_uid(operation, text("uid"))?,
            installation: parse_installation(meta.get("installation").cloned()),
            stock_epoch: text("stockEpoch").parse().map_err(|_| invalid("stockEpoch"))?,
            gate,
            window: Window { start: time("start")?, end: time("end")? },
            acknowledge: Acknowledge::from_name(text("acknowledge")).ok_or_else(|| invalid("acknowledge"))?,
            validity: parse_validity(operation, Some(text("validity")))?,
            damaged_release,
            release: release.unwrap_or_default(),
            admission_key: set("admissionKey").map(|key| AdmissionKey::from_stored(key.to_owned())),
            generation: text("generation").parse().map_err(|_| invalid("generation"))?,
            loaded: number("loaded")?,
            available,
            // Coupons can become available again.
            sold_out_at: sold_out_at.filter(|_| available == 0),
            issued: entries.saturating_sub(cancelled),
            marked_recorded: number("completed")?,
            voided: number("voided")?,
            cancelled,
            withheld: text("withheld").parse().map_err(|_| invalid("withheld"))?,
            has_pseudonym_key: meta.contains_key("pseudonymKey"),
            retired,
            outbox,
            now,
            is_verified: !replication_id.is_empty() && text("replicationId") == replication_id,
            is_restore_requested: text("replicationId") == RESTORE_REQUESTED,
            replication_id,
            recovery_id: text("recoveryId").to_owned(),
        }))
    }

    /// Reads the entry of one user. Returns None if Redis does not have the event.
    pub async fn lookup(&self, event: &EventName, user: &UserId) -> Result<Option<Lookup>, RedisStoreError> {
        let found = self.lookup_batch(event, std::slice::from_ref(user)).await?;
        found.and_then(|mut lookups| lookups.pop()).transpose()
    }

    /// Reads the entries of many users in one call. Returns None if Redis does not have the event. An entry that cannot
    /// be parsed is the error of its user only.
    ///
    /// # Panics
    /// With more than [`MAX_BATCH`] users, or none.
    pub async fn lookup_batch(
        &self,
        event: &EventName,
        users: &[UserId],
    ) -> Result<Option<Vec<Result<Lookup, RedisStoreError>>>, RedisStoreError> {
        const OPERATION: &str = "cannot look up users in Redis";
        assert!((1..=MAX_BATCH).contains(&users.len()), "{} users in one batch", users.len());
        let keys = self.keys(event);
        let mut call = self.scripts.lookup.key(keys.meta).key(keys.issued);
        for user in users {
            call.push(user.as_str());
        }
        let found: Option<RawLookups> =
            call.invoke_async(&mut self.connection()).await.map_err(self.failed(OPERATION))?;
        let Some((uid, acknowledge, is_retired, is_verified, mut entries, installation, validity)) = found else {
            return Ok(None);
        };
        let uid = parse_uid(OPERATION, &uid)?;
        let installation = parse_installation(installation);
        let acknowledge = Acknowledge::from_name(&acknowledge).ok_or_else(|| invalid_value(OPERATION, &acknowledge))?;
        let validity = parse_validity(OPERATION, validity.as_deref())?;
        entries.resize(users.len(), None);
        let lookup = |(user, entry): (&UserId, Option<Vec<u8>>)| {
            let entry = entry.map(|entry| IssuedEntry::parse(OPERATION, user.clone(), &entry)).transpose()?;
            let validity = validity.clone();
            Ok(Lookup { uid, installation, acknowledge, validity, is_retired, is_verified, entry })
        };
        Ok(Some(users.iter().zip(entries).map(lookup).collect()))
    }
}
