//! Looking at the stock without changing it.

use std::collections::HashMap;

use couponry_domain::{Discount, EventName, Gate, UserId, Uuid, Window, code::CouponCode};

use crate::{
    connection::{Stock, StockError, failed},
    holding::{Holding, parse_item, parse_uid, unreadable},
    load::Acknowledge,
};

/// An event in Redis, at one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// Which event it is.
    pub uid: Uuid,
    /// Which making of its stock.
    pub stock_epoch: u32,
    /// What is let through.
    pub gate: Gate,
    /// When.
    pub window: Window,
    /// When a user may be told.
    pub acknowledge: Acknowledge,
    /// The generation of the manifest that the gate follows; 0 before it was first set.
    pub generation: i64,
    /// How many coupons were put into the stock so far.
    pub loaded: u64,
    /// How many coupons are left to give, or were when they left Redis.
    pub available: u64,
    /// How many users hold a coupon, or did when that left Redis.
    pub issued: u64,
    /// How many of them are recorded in the database.
    pub completed: u64,
    /// How many users were told of a coupon that could not be recorded.
    pub cancelled: u64,
    /// How many coupons left the stock and are with nobody: given, cancelled and not put back. At every instant, `loaded` is the
    /// sum of `available`, `issued` and this. It is below zero while coupons are in two
    /// places: for a moment, while two users were told of the same one.
    pub voided: i64,
    /// Whether the coupons have left Redis, since the event is over; then, what its gate was before. The gate is closed now.
    pub retired: Option<Gate>,
    /// How many batches are not yet known to be in Kafka.
    pub outbox: u64,
    /// Redis's clock, in milliseconds since the Unix epoch.
    pub now: i64,
    /// Which Redis has answered: its `master_replid`, another one after each restart and each failover.
    pub server: String,
    /// Whether this Redis is known to hold all of the event: only then it gives coupons.
    pub is_verified: bool,
    /// Who began to fill it last.
    pub token: String,
}

/// What an event has for a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// Which event it is.
    pub uid: Uuid,
    /// When a user may be told.
    pub acknowledge: Acknowledge,
    /// Whether what users held has left Redis. It is in the database only.
    pub is_retired: bool,
    /// Whether this Redis is known to hold all of the event.
    pub is_verified: bool,
    /// What the user holds, or held; None when they never got a coupon.
    pub holding: Option<Holding>,
}

type RawLookup = (String, String, bool, bool, Option<String>);
type RawObserved = (HashMap<String, String>, u64, u64, u64, i64, String);

impl Stock {
    /// The event as Redis has it, or None when it knows no such event.
    pub async fn observe(&self, event: &EventName) -> Result<Option<Observed>, StockError> {
        const OPERATION: &str = "observe the event";
        let keys = self.keys(event);
        let observed: Option<RawObserved> = (self.scripts.observe)
            .key(keys.meta)
            .key(keys.queue)
            .key(keys.issued)
            .key(keys.outbox)
            .invoke_async(&mut self.connection())
            .await
            .map_err(failed(OPERATION))?;
        let Some((meta, mut available, mut entries, outbox, now, server)) = observed else { return Ok(None) };

        let text = |field: &str| meta.get(field).map_or("", String::as_str);
        let number = |field: &'static str| text(field).parse::<u64>().map_err(|_| unreadable(OPERATION, text(field)));
        let cancelled = number("cancelled")?;
        let retired = match text("retired") {
            "" => None,
            gate => Some(Gate::from_name(gate).ok_or_else(|| unreadable(OPERATION, gate))?),
        };
        if retired.is_some() {
            (available, entries) = (number("available")?, number("entries")?);
        }
        Ok(Some(Observed {
            uid: parse_uid(OPERATION, text("uid"))?,
            stock_epoch: text("stockEpoch").parse().map_err(|_| unreadable(OPERATION, text("stockEpoch")))?,
            gate: Gate::from_name(text("gate")).ok_or_else(|| unreadable(OPERATION, text("gate")))?,
            window: Window { start: text("start").parse().ok(), end: text("end").parse().ok() },
            acknowledge: Acknowledge::from_name(text("acknowledge"))
                .ok_or_else(|| unreadable(OPERATION, text("acknowledge")))?,
            generation: text("generation").parse().map_err(|_| unreadable(OPERATION, text("generation")))?,
            loaded: number("loaded")?,
            available,
            issued: entries.saturating_sub(cancelled),
            completed: number("completed")?,
            cancelled,
            // An event that was prepared by an earlier version has none before the first coupon is voided.
            voided: text("voided").parse().unwrap_or_default(),
            retired,
            outbox,
            now,
            is_verified: text("server") == server,
            server,
            token: text("token").to_owned(),
        }))
    }

    /// What a user holds, or held. None when Redis knows no such event.
    pub async fn lookup(&self, event: &EventName, user: &UserId) -> Result<Option<Lookup>, StockError> {
        const OPERATION: &str = "look up a user";
        let keys = self.keys(event);
        let found: Option<RawLookup> = (self.scripts.lookup)
            .key(keys.meta)
            .key(keys.issued)
            .arg(user.as_str())
            .invoke_async(&mut self.connection())
            .await
            .map_err(failed(OPERATION))?;
        let Some((uid, acknowledge, is_retired, is_verified, entry)) = found else { return Ok(None) };
        Ok(Some(Lookup {
            uid: parse_uid(OPERATION, &uid)?,
            acknowledge: Acknowledge::from_name(&acknowledge).ok_or_else(|| unreadable(OPERATION, &acknowledge))?,
            is_retired,
            is_verified,
            holding: entry.map(|entry| Holding::from_entry(OPERATION, &entry)).transpose()?,
        }))
    }

    /// The names of all events that Redis knows.
    pub async fn events(&self) -> Result<Vec<EventName>, StockError> {
        let names: Vec<String> = redis::cmd("SMEMBERS")
            .arg(self.events_key())
            .query_async(&mut self.connection())
            .await
            .map_err(failed("list the events"))?;
        Ok(names.into_iter().filter_map(|name| name.try_into().ok()).collect())
    }

    /// Everyone who holds or held a coupon: for audits, page by page. Users that are added meanwhile may be missing.
    pub async fn scan_issued(&self, event: &EventName) -> Result<HashMap<UserId, Holding>, StockError> {
        let mut all = HashMap::new();
        self.each_issued(event, |user, holding| drop(all.insert(user, holding))).await?;
        Ok(all)
    }

    /// The coupons left to give, in order: for audits, page by page. Exact only while nothing is issued.
    pub async fn scan_queue(&self, event: &EventName) -> Result<Vec<(CouponCode, Discount)>, StockError> {
        const OPERATION: &str = "scan the queue";
        const PAGE: isize = 5000;
        let key = self.keys(event).queue;
        let mut all = Vec::new();
        loop {
            let from = isize::try_from(all.len()).unwrap_or(isize::MAX);
            let page: Vec<String> = redis::cmd("LRANGE")
                .arg(&key)
                .arg(from)
                .arg(from + PAGE - 1)
                .query_async(&mut self.connection())
                .await
                .map_err(failed(OPERATION))?;
            if page.is_empty() {
                return Ok(all);
            }
            for item in page {
                all.push(parse_item(&item).ok_or_else(|| unreadable(OPERATION, &item))?);
            }
        }
    }
}
