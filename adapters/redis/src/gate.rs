//! Setting the gate and the window of an event.

use couponry_domain::{Acknowledge, AdmissionKey, EventName, Gate, Release, Uuid, Validity, Window};

use crate::{
    error::{RedisStoreError, invalid_value},
    fenced_write::FencedWrite,
    observe::RedisEvent,
    redis_store::RedisStore,
};

/// The gate of an event as its manifest specifies it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateSettings {
    /// The gate.
    pub gate: Gate,
    /// The window.
    pub window: Window,
    /// When an issued coupon may be returned to its user.
    pub acknowledge: Acknowledge,
    /// How long the coupons are valid. It must not change once the event may have opened. [`Gate::Closed`] keeps the
    /// previous value.
    pub validity: Option<Validity>,
    /// How the coupons are released. It is kept like the validity.
    pub release: Release,
    /// The key of the tickets, if users are admitted over a ramp.
    pub admission_key: Option<AdmissionKey>,
    /// The generation of the manifest. An older generation than the current one has no effect.
    pub generation: i64,
    /// The stock epoch. A different epoch makes the call stale, except for closing the gate.
    pub stock_epoch: u32,
    /// How many coupons must be loaded before the gate leaves [`Gate::Loading`].
    pub total: u64,
}

impl GateSettings {
    /// The arguments of the scripts that set the gate: gate, start, end, acknowledge, generation, validity, ramp, key
    /// of the tickets, drops.
    pub(crate) fn arguments(&self) -> [String; 9] {
        let Self {
            gate,
            window: Window { start, end },
            acknowledge,
            validity,
            release: Release { ramp_seconds, drops },
            admission_key,
            generation,
            stock_epoch: _,
            total: _,
        } = self;
        let time = |time: &Option<i64>| time.map_or_else(String::new, |time| time.to_string());
        [
            gate.as_str().to_owned(),
            time(start),
            time(end),
            acknowledge.as_str().to_owned(),
            generation.to_string(),
            validity.as_ref().map_or_else(String::new, Validity::to_string),
            ramp_seconds.as_ref().map_or_else(String::new, u32::to_string),
            admission_key.as_ref().map_or_else(String::new, |key| key.as_str().to_owned()),
            drops.to_string(),
        ]
    }
}

impl RedisStore {
    /// Sets the window and the gate, and returns the resulting gate: a closed gate stays closed.
    ///
    /// # Errors
    /// Also returns an error if the gate would leave [`Gate::Loading`] while the counts of the stock do not match.
    pub async fn set_gate(
        &self,
        event: &EventName,
        uid: Uuid,
        settings: &GateSettings,
    ) -> Result<FencedWrite<Gate>, RedisStoreError> {
        const OPERATION: &str = "cannot set the gate in Redis";
        if settings.gate == Gate::Open {
            self.ensure_in_event_list(event).await;
        }
        let keys = self.keys(event);
        let gate: Option<String> = (self.scripts.set_gate)
            .key(keys.meta)
            .key(keys.queue)
            .key(keys.issued)
            .arg(uid.to_string())
            .arg(settings.stock_epoch)
            .arg(settings.total)
            .args(settings.arguments())
            .invoke_async(&mut self.connection())
            .await
            .map_err(self.failed(OPERATION))?;
        let Some(name) = gate else { return Ok(FencedWrite::Stale) };
        Gate::from_name(&name).map(FencedWrite::Applied).ok_or_else(|| invalid_value(OPERATION, &name))
    }

    /// Sets the gate back to [`Gate::Loading`] if the event certainly has not opened: this Redis is verified, has
    /// issued no coupon of the event, and by its own clock the window has not begun. Returns whether the gate is
    /// loading now.
    pub async fn reset_gate(
        &self,
        event: &EventName,
        observed: &RedisEvent,
        generation: i64,
    ) -> Result<FencedWrite<bool>, RedisStoreError> {
        let keys = self.keys(event);
        let reset: Option<bool> = (self.scripts.reset_gate)
            .key(keys.meta)
            .key(keys.issued)
            .arg(observed.uid.to_string())
            .arg(observed.stock_epoch)
            .arg(generation)
            .invoke_async(&mut self.connection())
            .await
            .map_err(self.failed("cannot reset the gate in Redis"))?;
        Ok(reset.into())
    }
}
