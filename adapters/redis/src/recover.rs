//! A Redis that may have lost something: after a restart or a failover it gives no coupon, until somebody has found out that it
//! holds everything, or has filled it again.
//!
//! Which Redis it is, its `master_replid` tells: it changes with each restart, and each time a replica becomes the master.
//! `couponMeta` names the one that is known to be whole ([`Stock::adopt`]), and the scripts compare the two. Whoever fills it
//! carries a token that the next one to begin replaces ([`Stock::recover`]).

use std::ops::Range;

use couponry_domain::{Coupon, EventName, UserId, Uuid};

use crate::{
    connection::{Stock, StockError, failed},
    holding::{Holding, to_records},
    load::Loaded,
    observe::Observed,
};

/// How many coupons one call of [`Stock::restore`] may have.
pub const MAX_RESTORED: usize = 3000;
/// How many records go into one entry of the outbox.
const RESENT: usize = 500;

/// A recovery that has begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// Nothing of an earlier recovery has an effect any more.
    token: String,
    /// When it began, by Redis's clock, in milliseconds since the Unix epoch.
    pub begun_at: i64,
}

/// What a recovery has found or made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The recovery.
    pub recovery: Recovery,
    /// No coupon is issued with an earlier time than this from now on (milliseconds since the Unix epoch).
    pub since: i64,
    /// How many coupons are loaded.
    pub total: u64,
}

impl Stock {
    /// Lets coupons be given from the Redis that was `seen`. What a recovery has found must add up.
    ///
    /// # Errors
    /// Also when it does not add up.
    pub async fn adopt(
        &self,
        event: &EventName,
        seen: &Observed,
        recovered: Option<&Recovered>,
    ) -> Result<Loaded<()>, StockError> {
        const OPERATION: &str = "adopt what Redis holds";
        self.list(OPERATION, event).await?;
        let keys = self.keys(event);
        let (token, since, total) = match recovered {
            Some(Recovered { recovery, since, total }) => (&recovery.token, since.to_string(), total.to_string()),
            None => (&seen.token, String::new(), String::new()),
        };
        let adopted: Option<u8> = (self.scripts.adopt)
            .key(keys.meta)
            .key(keys.queue)
            .key(keys.issued)
            .arg(seen.uid.to_string())
            .arg(seen.stock_epoch)
            .arg(&seen.server)
            .arg(token)
            .arg(since)
            .arg(total)
            .invoke_async(&mut self.connection())
            .await
            .map_err(failed(OPERATION))?;
        Ok(adopted.map(drop).into())
    }

    /// Begins a recovery in the Redis that was `seen`: with what it holds, or with nothing.
    ///
    /// [`Loaded::OtherEvent`] also when the Redis is another one by now or known to be whole, or when its outbox is not empty.
    pub async fn recover(
        &self,
        event: &EventName,
        seen: &Observed,
        from_nothing: bool,
    ) -> Result<Loaded<Recovery>, StockError> {
        let keys = self.keys(event);
        let token = Uuid::new_v4().to_string();
        let begun: Option<i64> = (self.scripts.recover)
            .key(keys.meta)
            .key(keys.queue)
            .key(keys.issued)
            .key(keys.outbox)
            .arg(seen.uid.to_string())
            .arg(seen.stock_epoch)
            .arg(&seen.server)
            .arg(&token)
            .arg(u8::from(from_nothing))
            .invoke_async(&mut self.connection())
            .await
            .map_err(failed("begin a recovery"))?;
        Ok(begun.map(|begun_at| Recovery { token, begun_at }).into())
    }

    /// Puts the coupons with these ordinals (at most [`MAX_RESTORED`]) back: those that are with nobody into the queue, the others
    /// into the hands of their users. Returns how many are loaded; repeating a call does not add its coupons again.
    pub async fn restore(
        &self,
        event: &EventName,
        seen: &Observed,
        recovery: &Recovery,
        ordinals: Range<u64>,
        available: &[Coupon],
        held: &[(UserId, Holding)],
    ) -> Result<Loaded<u64>, StockError> {
        self.load_chunk(event, (seen.uid, seen.stock_epoch), &recovery.token, ordinals, available, held).await
    }

    /// Puts what users hold into the outbox once more, for the issuers to send it.
    pub async fn resend(&self, event: &EventName, uid: Uuid, held: &[(UserId, Holding)]) -> Result<(), StockError> {
        for chunk in held.chunks(RESENT) {
            let keys = self.keys(event);
            (self.scripts.resend)
                .key(keys.meta)
                .key(keys.outbox)
                .arg(uid.to_string())
                .arg(to_records(chunk))
                .invoke_async::<u8>(&mut self.connection())
                .await
                .map_err(failed("put what users hold into the outbox again"))?;
        }
        Ok(())
    }
}
