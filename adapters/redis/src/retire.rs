//! Taking the coupons of an event that is over out of Redis.

use couponry_domain::{EventName, Uuid};

use crate::{
    connection::{Stock, StockError, failed},
    load::Loaded,
};

impl Stock {
    /// Removes the queue and what users hold, and keeps the event's counts and its window behind a closed gate, for good.
    /// Repeating it changes nothing.
    ///
    /// False: the event is not over, or not all that was given is recorded, or a newer manifest than that of `generation` is in
    /// force. Then nothing was changed.
    pub async fn retire(
        &self,
        event: &EventName,
        uid: Uuid,
        stock_epoch: u32,
        generation: i64,
    ) -> Result<Loaded<bool>, StockError> {
        let keys = self.keys(event);
        let retired: Option<bool> = (self.scripts.retire)
            .key(keys.meta)
            .key(keys.queue)
            .key(keys.issued)
            .key(keys.outbox)
            .key(keys.sweeper)
            .arg(uid.to_string())
            .arg(stock_epoch)
            .arg(generation)
            .invoke_async(&mut self.connection())
            .await
            .map_err(failed("take the coupons of an event that is over out of Redis"))?;
        Ok(retired.into())
    }
}
