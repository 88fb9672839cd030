//! Filling the stock, and opening its gate.

use domain::{Coupon, EventId, Gate, Uuid, Window};

use crate::{
    connection::{Stock, StockError, failed},
    holding::{parse_uid, unreadable},
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
    /// The generation of the manifest.
    pub generation: i64,
    /// How many coupons must be loaded before the gate leaves [`Gate::Loading`].
    pub total: u64,
}

/// Whether a change reached the event that was meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loaded<T> {
    /// It did.
    Here(T),
    /// Redis knows no such event, or another one of the same name.
    OtherEvent,
}

impl<T> From<Option<T>> for Loaded<T> {
    fn from(reply: Option<T>) -> Self {
        reply.map_or(Self::OtherEvent, Self::Here)
    }
}

impl Stock {
    /// Makes the event known, with its gate at [`Gate::Loading`]. Changes nothing when it is known already.
    pub async fn prepare(&self, event: &EventId, uid: Uuid) -> Result<Loaded<()>, StockError> {
        const OPERATION: &str = "prepare the event";
        let keys = self.keys(event);
        let owner: String = (self.scripts.prepare)
            .key(keys.meta)
            .key(keys.queue)
            .key(keys.issued)
            .key(keys.outbox)
            .arg(uid.to_string())
            .invoke_async(&mut self.connection())
            .await
            .map_err(failed(OPERATION))?;
        if parse_uid(OPERATION, &owner)? != uid {
            return Ok(Loaded::OtherEvent);
        }
        // Not in the script: the set lives in another hash slot. A crash in between is mended by the next `prepare`.
        redis::cmd("SADD")
            .arg(self.events_key())
            .arg(event.as_str())
            .query_async::<()>(&mut self.connection())
            .await
            .map_err(failed(OPERATION))?;
        Ok(Loaded::Here(()))
    }

    /// Adds a chunk of coupons (at most 6,000, without gaps) to the stock if it begins where the stock ends, and returns how
    /// many are loaded. Repeating a call does not add its coupons again.
    pub async fn load(&self, event: &EventId, uid: Uuid, chunk: &[Coupon]) -> Result<Loaded<u64>, StockError> {
        let keys = self.keys(event);
        let mut call = self.scripts.load.prepare_invoke();
        call.key(keys.meta).key(keys.queue).arg(uid.to_string()).arg(chunk.first().map_or(0, |coupon| coupon.ordinal));
        for Coupon { ordinal: _, code, discount } in chunk {
            call.arg(format!("{code}:{discount}"));
        }
        let loaded: Option<u64> =
            call.invoke_async(&mut self.connection()).await.map_err(failed("load a chunk of the stock"))?;
        Ok(loaded.into())
    }

    /// Puts window and gate in force and returns the gate that now holds: a closed one stays closed.
    ///
    /// # Errors
    /// Also when the gate would leave [`Gate::Loading`] and the stock is not whole.
    pub async fn set_gate(&self, event: &EventId, uid: Uuid, opening: &Opening) -> Result<Loaded<Gate>, StockError> {
        const OPERATION: &str = "set the gate";
        let Opening { gate, window: Window { start, end }, acknowledge, generation, total } = opening;
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
            .invoke_async(&mut self.connection())
            .await
            .map_err(failed(OPERATION))?;
        let Some(name) = gate else { return Ok(Loaded::OtherEvent) };
        Gate::from_name(&name).map(Loaded::Here).ok_or_else(|| unreadable(OPERATION, &name))
    }

    /// Removes everything that Redis holds of the event. Whether there was something to remove.
    pub async fn remove(&self, event: &EventId, uid: Uuid) -> Result<bool, StockError> {
        const OPERATION: &str = "remove the event";
        let keys = self.keys(event);
        let removed: bool = (self.scripts.remove)
            .key(keys.meta)
            .key(keys.queue)
            .key(keys.issued)
            .key(keys.outbox)
            .key(keys.sweeper)
            .arg(uid.to_string())
            .invoke_async(&mut self.connection())
            .await
            .map_err(failed(OPERATION))?;
        if removed {
            redis::cmd("SREM")
                .arg(self.events_key())
                .arg(event.as_str())
                .query_async::<()>(&mut self.connection())
                .await
                .map_err(failed(OPERATION))?;
        }
        Ok(removed)
    }
}
