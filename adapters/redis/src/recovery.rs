//! The steps of a recovery in a Redis that may have lost data. The operator decides when to take them, and whether
//! Redis is complete (`operator/src/reconcile/recover.rs`).
//!
//! Redis identifies itself by its `master_replid`, the replication id. It changes with each restart and failover, and
//! with the replicas (see the glossary). `couponMeta` has the replication id of the Redis that was verified last
//! ([`RedisStore::mark_verified`]), and the scripts that issue, load or look up coupons compare the two: an unverified
//! Redis issues nothing.
//!
//! # Guarantees
//! Each recovery writes its own recovery id ([`RedisStore::begin_recovery`]), which fences the steps of earlier
//! recoveries.

use std::ops::Range;

use couponry_domain::{Coupon, EventName, Uuid};

use crate::{
    error::RedisStoreError,
    fenced_write::FencedWrite,
    gate::GateSettings,
    issued_entry::{IssuedEntry, to_records},
    observe::RedisEvent,
    redis_store::RedisStore,
};

/// How many coupons one call of [`RedisStore::restore`] may have.
pub const MAX_RESTORED: usize = 3000;
/// How many records [`RedisStore::add_to_outbox`] puts into one outbox entry.
const RECORDS_PER_ENTRY: usize = 500;

/// A recovery in progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    recovery_id: String,
    /// When it began, by the clock of Redis, in milliseconds since the Unix epoch.
    pub begun_at: i64,
}

/// The result of a recovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The recovery.
    pub recovery: Recovery,
    /// From now on, no coupon is issued with an earlier time than this, in milliseconds since the Unix epoch.
    pub issued_at_min: i64,
    /// How many coupons are loaded.
    pub total: u64,
    /// The gate, which is set in the same step.
    pub settings: GateSettings,
}

impl RedisStore {
    /// Marks the `observed` Redis as verified, after which it issues coupons. After a recovery this also sets the gate,
    /// unless it is closed.
    ///
    /// Returns [`FencedWrite::Stale`] also if the gate follows a newer generation.
    ///
    /// # Errors
    /// Also returns an error if the counts in Redis do not match those of the recovery.
    pub async fn mark_verified(
        &self,
        event: &EventName,
        observed: &RedisEvent,
        recovered: Option<&Recovered>,
    ) -> Result<FencedWrite<()>, RedisStoreError> {
        const OPERATION: &str = "cannot store the verification in Redis";
        self.ensure_in_event_list(event).await;
        let keys = self.keys(event);
        let recovery_id = recovered.map_or(&observed.recovery_id, |recovered| &recovered.recovery.recovery_id);
        let mut call = (self.scripts.mark_verified)
            .key(keys.meta)
            .key(keys.queue)
            .key(keys.issued)
            .arg(observed.uid.to_string())
            .arg(observed.stock_epoch)
            .arg(&observed.replication_id)
            .arg(recovery_id);
        if let Some(Recovered { recovery: _, issued_at_min, total, settings }) = recovered {
            call = call.arg(*issued_at_min).arg(*total).args(settings.arguments());
        }
        let verified: Option<u8> = call.invoke_async(&mut self.connection()).await.map_err(self.failed(OPERATION))?;
        Ok(verified.map(drop).into())
    }

    /// Begins a recovery in the `observed` Redis. `clear` removes its available and issued coupons first.
    ///
    /// Returns [`FencedWrite::Stale`] also if this Redis is verified, or its outbox is not empty.
    pub async fn begin_recovery(
        &self,
        event: &EventName,
        observed: &RedisEvent,
        clear: bool,
    ) -> Result<FencedWrite<Recovery>, RedisStoreError> {
        let keys = self.keys(event);
        let recovery_id = Uuid::new_v4().to_string();
        let begun: Option<i64> = (self.scripts.begin_recovery)
            .key(keys.meta)
            .key(keys.queue)
            .key(keys.issued)
            .key(keys.outbox)
            .arg(observed.uid.to_string())
            .arg(observed.stock_epoch)
            .arg(&observed.replication_id)
            .arg(&recovery_id)
            .arg(u8::from(clear))
            .invoke_async(&mut self.connection())
            .await
            .map_err(self.failed("cannot begin a recovery in Redis"))?;
        Ok(begun.map(|begun_at| Recovery { recovery_id, begun_at }).into())
    }

    /// Requests that the operator restores a verified Redis from Postgres. It issues nothing until it is verified
    /// again.
    pub async fn request_restore(
        &self,
        event: &EventName,
        observed: &RedisEvent,
    ) -> Result<FencedWrite<()>, RedisStoreError> {
        let requested: Option<u8> = (self.scripts.request_restore)
            .key(self.keys(event).meta)
            .arg(observed.uid.to_string())
            .arg(observed.stock_epoch)
            .arg(&observed.replication_id)
            .invoke_async(&mut self.connection())
            .await
            .map_err(self.failed("cannot request the restore of Redis"))?;
        Ok(requested.map(drop).into())
    }

    /// Loads the coupons with these ordinals, at most [`MAX_RESTORED`]: `available` into the queue, `issued` with
    /// their holders. Returns how many coupons are loaded. Idempotent.
    pub async fn restore(
        &self,
        event: &EventName,
        observed: &RedisEvent,
        recovery: &Recovery,
        ordinals: Range<u64>,
        available: &[Coupon],
        issued: &[IssuedEntry],
    ) -> Result<FencedWrite<u64>, RedisStoreError> {
        let target = (observed.uid, observed.stock_epoch);
        self.load_chunk(event, target, &recovery.recovery_id, ordinals, available, issued).await
    }

    /// Adds the records of issued coupons to the outbox again; the issuers then send them to Kafka.
    pub async fn add_to_outbox(
        &self,
        event: &EventName,
        uid: Uuid,
        issued: &[IssuedEntry],
    ) -> Result<(), RedisStoreError> {
        self.mark_active(event).await;
        for chunk in issued.chunks(RECORDS_PER_ENTRY) {
            let keys = self.keys(event);
            (self.scripts.add_to_outbox)
                .key(keys.meta)
                .key(keys.outbox)
                .arg(uid.to_string())
                .arg(to_records(chunk))
                .invoke_async::<u8>(&mut self.connection())
                .await
                .map_err(self.failed("cannot add issued coupons to the outbox in Redis"))?;
        }
        Ok(())
    }
}
