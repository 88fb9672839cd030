//! Filling the stock, and opening its gate.

use std::ops::Range;

use couponry_domain::{Coupon, EventName, Gate, UserId, Uuid, Window};

use crate::{
    connection::{Stock, StockError, failed},
    holding::{Holding, parse_uid, unreadable},
};

/// When a user may be told of their coupon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acknowledge {
    /// After the atomic step.
    Redis,
    /// After the broker has the record as well.
    Kafka,
}

impl Acknowledge {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Redis => "Redis",
            Self::Kafka => "Kafka",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        [Self::Redis, Self::Kafka].into_iter().find(|acknowledge| acknowledge.as_str() == name)
    }
}

/// What the manifest says of the window and the gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// What to let through.
    pub gate: Gate,
    /// When.
    pub window: Window,
    /// When a user may be told.
    pub acknowledge: Acknowledge,
    /// The generation of the manifest. An older one than that in force changes nothing.
    pub generation: i64,
    /// Which making of the stock this is about.
    pub stock_epoch: u32,
    /// How many coupons must be loaded before the gate leaves [`Gate::Loading`].
    pub total: u64,
}

/// Whether a change reached the event that was meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loaded<T> {
    /// It did.
    Here(T),
    /// Redis knows no such event, or another one of the same name, or another stock epoch of its stock; or another Redis answers, or
    /// one that is not known to be whole.
    OtherEvent,
}

impl<T> From<Option<T>> for Loaded<T> {
    fn from(reply: Option<T>) -> Self {
        reply.map_or(Self::OtherEvent, Self::Here)
    }
}

impl Stock {
    /// Makes the event known, with its gate at [`Gate::Loading`]. Changes nothing when it is known already. Nothing can be loaded or
    /// given before [`Stock::adopt`].
    ///
    /// `stock epoch` says which making of the stock is to be loaded: what is meant for another one will not get in, however late
    /// it comes.
    pub async fn prepare(&self, event: &EventName, uid: Uuid, stock_epoch: u32) -> Result<Loaded<()>, StockError> {
        const OPERATION: &str = "prepare the event";
        self.list(OPERATION, event).await?;
        let keys = self.keys(event);
        let (owner, loading): (String, String) = (self.scripts.prepare)
            .key(keys.meta)
            .key(keys.queue)
            .key(keys.issued)
            .key(keys.outbox)
            .arg(uid.to_string())
            .arg(stock_epoch)
            .arg(Uuid::new_v4().to_string())
            .invoke_async(&mut self.connection())
            .await
            .map_err(failed(OPERATION))?;
        let is_ours = parse_uid(OPERATION, &owner)? == uid && loading == stock_epoch.to_string();
        Ok(if is_ours { Loaded::Here(()) } else { Loaded::OtherEvent })
    }

    /// Puts the event among those whose outbox is swept. The set lives in another hash slot than the event's keys, so no script
    /// can do both; instead this comes before everything that a coupon could be given out after.
    pub(crate) async fn list(&self, operation: &'static str, event: &EventName) -> Result<(), StockError> {
        redis::cmd("SADD")
            .arg(self.events_key())
            .arg(event.as_str())
            .query_async(&mut self.connection())
            .await
            .map_err(failed(operation))
    }

    /// Adds a chunk of coupons (at most 6,000, without gaps) to the stock if it begins where the stock ends, and returns how
    /// many are loaded. Repeating a call does not add its coupons again.
    pub async fn load(
        &self,
        event: &EventName,
        uid: Uuid,
        stock_epoch: u32,
        chunk: &[Coupon],
    ) -> Result<Loaded<u64>, StockError> {
        let first = chunk.first().map_or(0, |coupon| coupon.ordinal);
        self.load_chunk(event, (uid, stock_epoch), "", first..first + chunk.len() as u64, chunk, &[]).await
    }

    /// With the token of a recovery, also what users hold.
    pub(crate) async fn load_chunk(
        &self,
        event: &EventName,
        (uid, stock_epoch): (Uuid, u32),
        token: &str,
        ordinals: Range<u64>,
        available: &[Coupon],
        held: &[(UserId, Holding)],
    ) -> Result<Loaded<u64>, StockError> {
        let keys = self.keys(event);
        let mut call = (self.scripts.load)
            .key(keys.meta)
            .key(keys.queue)
            .key(keys.issued)
            .arg(uid.to_string())
            .arg(stock_epoch)
            .arg(token)
            .arg(ordinals.start)
            .arg(ordinals.end)
            .arg(available.len());
        for Coupon { ordinal: _, code, discount } in available {
            call.push(format!("{code}:{discount}"));
        }
        for (user, holding) in held {
            call.push((user.as_str(), holding.to_entry()));
        }
        let loaded: Option<u64> =
            call.invoke_async(&mut self.connection()).await.map_err(failed("load a chunk of the stock"))?;
        Ok(loaded.into())
    }

    /// Puts window and gate in force and returns the gate that now holds: a closed one stays closed.
    ///
    /// # Errors
    /// Also when the gate would leave [`Gate::Loading`] and the stock is not whole.
    pub async fn set_gate(&self, event: &EventName, uid: Uuid, opening: &Opening) -> Result<Loaded<Gate>, StockError> {
        const OPERATION: &str = "set the gate";
        let Opening { gate, window: Window { start, end }, acknowledge, generation, stock_epoch, total } = opening;
        self.list(OPERATION, event).await?;
        let time = |time: &Option<i64>| time.map_or_else(String::new, |time| time.to_string());
        let keys = self.keys(event);
        let gate: Option<String> = (self.scripts.gate)
            .key(keys.meta)
            .key(keys.queue)
            .key(keys.issued)
            .arg(uid.to_string())
            .arg(gate.as_str())
            .arg(time(start))
            .arg(time(end))
            .arg(acknowledge.as_str())
            .arg(*generation)
            .arg(*total)
            .arg(*stock_epoch)
            .invoke_async(&mut self.connection())
            .await
            .map_err(failed(OPERATION))?;
        let Some(name) = gate else { return Ok(Loaded::OtherEvent) };
        Gate::from_name(&name).map(Loaded::Here).ok_or_else(|| unreadable(OPERATION, &name))
    }

    /// Removes everything that Redis holds of the event. Whether there was something to remove.
    pub async fn remove(&self, event: &EventName, uid: Uuid) -> Result<bool, StockError> {
        self.remove_if(event, uid, "").await
    }

    /// The same for one stock epoch: a newer one stays, however late this comes.
    pub async fn remove_stock_epoch(&self, event: &EventName, uid: Uuid, stock_epoch: u32) -> Result<bool, StockError> {
        self.remove_if(event, uid, &stock_epoch.to_string()).await
    }

    async fn remove_if(&self, event: &EventName, uid: Uuid, stock_epoch: &str) -> Result<bool, StockError> {
        const OPERATION: &str = "remove the event";
        let keys = self.keys(event);
        let removed: bool = (self.scripts.remove)
            .key(&keys.meta)
            .key(keys.queue)
            .key(keys.issued)
            .key(keys.outbox)
            .key(keys.sweeper)
            .arg(uid.to_string())
            .arg(stock_epoch)
            .invoke_async(&mut self.connection())
            .await
            .map_err(failed(OPERATION))?;
        // Also when an earlier call removed it, whose answer was lost.
        if removed || !self.is_there(OPERATION, &keys.meta).await? {
            redis::cmd("SREM")
                .arg(self.events_key())
                .arg(event.as_str())
                .query_async::<()>(&mut self.connection())
                .await
                .map_err(failed(OPERATION))?;
            // Someone may have made the event again in between.
            if self.is_there(OPERATION, &keys.meta).await? {
                self.list(OPERATION, event).await?;
            }
        }
        Ok(removed)
    }

    async fn is_there(&self, operation: &'static str, key: &str) -> Result<bool, StockError> {
        redis::cmd("EXISTS").arg(key).query_async(&mut self.connection()).await.map_err(failed(operation))
    }
}
