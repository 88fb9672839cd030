//! Loading the stock.

use std::ops::Range;

use couponry_domain::{Coupon, EventName, Uuid};

use crate::{
    error::RedisStoreError,
    fenced_write::FencedWrite,
    issued_entry::{IssuedEntry, parse_uid},
    redis_store::RedisStore,
};

impl RedisStore {
    /// Creates the event with its gate at [`Gate::Loading`](couponry_domain::Gate::Loading). Idempotent. Nothing can
    /// be loaded or issued before [`RedisStore::mark_verified`].
    ///
    /// Later calls that carry another stock epoch are stale.
    pub async fn prepare(
        &self,
        event: &EventName,
        uid: Uuid,
        stock_epoch: u32,
    ) -> Result<FencedWrite<()>, RedisStoreError> {
        const OPERATION: &str = "cannot prepare the event in Redis";
        self.ensure_in_event_list(event).await;
        let keys = self.keys(event);
        let (found_uid, found_epoch): (String, String) = (self.scripts.prepare)
            .key(keys.meta)
            .key(keys.queue)
            .key(keys.issued)
            .key(keys.outbox)
            .arg(uid.to_string())
            .arg(stock_epoch)
            .arg(Uuid::new_v4().to_string())
            .arg(self.installation.map(|id| id.to_string()).unwrap_or_default())
            .invoke_async(&mut self.connection())
            .await
            .map_err(self.failed(OPERATION))?;
        let matches = parse_uid(OPERATION, &found_uid)? == uid && found_epoch == stock_epoch.to_string();
        Ok(if matches { FencedWrite::Applied(()) } else { FencedWrite::Stale })
    }

    /// Adds a chunk of at most 6,000 consecutive coupons to the stock, if it begins where the stock ends, and returns
    /// how many coupons are loaded. Idempotent.
    pub async fn load(
        &self,
        event: &EventName,
        uid: Uuid,
        stock_epoch: u32,
        chunk: &[Coupon],
    ) -> Result<FencedWrite<u64>, RedisStoreError> {
        let first = chunk.first().map_or(0, |coupon| coupon.ordinal);
        self.load_chunk(event, (uid, stock_epoch), "", first..first + chunk.len() as u64, chunk, &[]).await
    }

    /// Loads a chunk. During a recovery (`recovery_id` is set), issued coupons are loaded as well.
    pub(crate) async fn load_chunk(
        &self,
        event: &EventName,
        (uid, stock_epoch): (Uuid, u32),
        recovery_id: &str,
        ordinals: Range<u64>,
        available: &[Coupon],
        issued: &[IssuedEntry],
    ) -> Result<FencedWrite<u64>, RedisStoreError> {
        let keys = self.keys(event);
        let mut call = (self.scripts.load)
            .key(keys.meta)
            .key(keys.queue)
            .key(keys.issued)
            .arg(uid.to_string())
            .arg(stock_epoch)
            .arg(recovery_id)
            .arg(ordinals.start)
            .arg(ordinals.end)
            .arg(available.len());
        for Coupon { ordinal: _, code, discount } in available {
            call.push(format!("{code}:{discount}"));
        }
        for entry in issued {
            call.push((entry.issued.user_id.as_str(), entry.to_value()));
        }
        let loaded: Option<u64> =
            call.invoke_async(&mut self.connection()).await.map_err(self.failed("cannot load coupons into Redis"))?;
        Ok(loaded.into())
    }
}
