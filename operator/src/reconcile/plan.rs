//! What to do next about an event: one step at a time, decided from what the stores hold alone, so that an operator that was
//! killed anywhere, or works beside another one, goes on from what is there.
//!
//! # Guarantees
//! - The gate opens only when Redis holds as many coupons as Postgres, and Postgres as many as the manifest asks for.
//! - Before it does, Postgres has noted from when on coupons may be given out. From that time on the stock is never made anew,
//!   neither in Postgres nor in Redis: whoever holds a coupon keeps it.
//!
//! # Caveats
//! Between a glance and its step, another operator may act on another version of the manifest, and a step may arrive long after
//! its operator is dead. Each step is therefore checked again where it takes effect: lots by their first ordinal, chunks by
//! theirs, the gate by the count and the generation of the manifest, discarding by the opening, and all of them by the edition of
//! the stock: to make it anew, the next edition is begun in Postgres before anything else.
//! Who sees a newer generation than their own, or a later event of the same name, has been overtaken and leaves it alone.

use crds::{Issuance, status::reason};
use domain::{Discount, Gate, Lot, Uuid, Window};
use ledger::StoredEvent;
use stock::{Observed, Opening};

use super::{Rival, Seen, Wanted};

/// Clocks of this machine and of Redis may differ by this much (milliseconds).
const CLOCK_TOLERANCE: i64 = 60_000;

/// A change to a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Make the event known to Postgres, or tell it the manifest's words.
    Register,
    /// Make these coupons in Postgres.
    MakeStock(Lot),
    /// Make the event known to Redis.
    Prepare,
    /// Copy coupons from Postgres to Redis, from this ordinal up to that.
    Load { from: u64, to: u64 },
    /// Note in Postgres from when on coupons may be given out.
    ScheduleOpening { at: i64 },
    /// Take that note back.
    WithdrawOpening,
    /// Put gate and window in force.
    SetGate(Opening),
    /// Close the gate of an earlier event of this name.
    CloseForeign(Uuid, Opening),
    /// Remove the keys of an earlier edition of the stock from Redis.
    RemoveEdition(u32),
    /// Remove the keys of an earlier event of this name from Redis.
    RemoveForeign(Uuid),
    /// Remove the coupons from Postgres, and begin the next edition.
    DiscardStock,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// This.
    Do(Step),
    /// Nothing: all is as the manifest says.
    Rest,
    /// Nothing, though not all is as the manifest says.
    Stuck(Obstacle),
}

/// What stands in the way, and what a person can do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Obstacle {
    /// The reason of the condition Stalled.
    pub(crate) reason: &'static str,
    /// What is wrong and what to do.
    pub(crate) message: String,
}

fn stuck(reason: &'static str, message: impl Into<String>) -> Plan {
    Plan::Stuck(Obstacle { reason, message: message.into() })
}

/// What to do next.
pub(crate) fn plan(wanted: &Wanted, seen: &Seen) -> Plan {
    let other = seen.redis.as_ref().filter(|redis| redis.uid != wanted.uid);
    if seen.rival == Some(Rival::Later) {
        return Plan::Rest;
    }
    let Some(stored) = &seen.stored else { return Plan::Do(Step::Register) };
    if stored.generation > wanted.generation {
        return Plan::Rest;
    }
    let format_can_follow = stored.stock.is_empty() && stored.format != wanted.format;
    if format_can_follow || stored.policy_name != wanted.policy_name || stored.generation < wanted.generation {
        return Plan::Do(Step::Register);
    }
    if let Some(other) = other {
        return make_room(wanted, other, seen.rival);
    }
    if let Some(own) = seen.redis.as_ref().filter(|own| own.edition != stored.edition) {
        let is_earlier = own.edition < stored.edition && own.issued == 0 && stored.opened_at.is_none();
        return if is_earlier { Plan::Do(Step::RemoveEdition(own.edition)) } else { drift(own, stored.stock_len()) };
    }
    match (stored.opened_at, seen.redis.as_ref()) {
        (Some(at), None) if at <= seen.now + CLOCK_TOLERANCE => stuck(
            reason::REDIS_DATA_LOST,
            "Redis no longer has this event, though coupons of it may be with users: restore Redis from its append-only file \
             or a replica, or delete this event and make another one under a new name (what Postgres has recorded stays)",
        ),
        // Nothing can have been given out yet, so the stock can be loaded again.
        (Some(_), None) => Plan::Do(Step::WithdrawOpening),
        (None, own) => before_opening(wanted, stored, own, seen.now),
        (Some(at), Some(own)) if own.now < at => waiting_for_start(wanted, stored, own, at),
        (Some(_), Some(own)) => after_opening(wanted, stored, own, seen.persisted),
    }
}

/// Another event of this name holds the keys in Redis. Kubernetes knows only this one, so the other is gone; but what its users
/// were told must reach Postgres first.
fn make_room(wanted: &Wanted, other: &Observed, rival: Option<Rival>) -> Plan {
    let uid = other.uid;
    if rival != Some(Rival::Earlier) {
        return stuck(
            reason::NAME_TAKEN,
            format!(
                "Redis has another event named {} (uid {uid}) that this installation does not know: give each installation its \
                 own --redis-key-prefix, or remove the old keys",
                wanted.name
            ),
        );
    }
    if other.gate != Gate::Closed {
        let window = other.window;
        return Plan::Do(Step::CloseForeign(uid, opening(wanted, Gate::Closed, window, other.edition, other.loaded)));
    }
    if other.outbox > 0 {
        return stuck(
            reason::NAME_TAKEN,
            format!(
                "an earlier event of this name (uid {uid}) still has coupons on their way to Kafka: waiting for them"
            ),
        );
    }
    Plan::Do(Step::RemoveForeign(uid))
}

/// No coupon can have been given out.
fn before_opening(wanted: &Wanted, stored: &StoredEvent, own: Option<&Observed>, now: i64) -> Plan {
    if let Some(own) = own.filter(|own| own.gate == Gate::Open) {
        // Two operators crossed each other. Note it before anything else, as if it had been noted first.
        return Plan::Do(Step::ScheduleOpening { at: opens_at(own.window, now) });
    }
    if let Some(plan) = closed(wanted, stored, own) {
        return plan;
    }
    let target = match wanted.whole_stock() {
        Ok(target) => target,
        Err(message) => return stuck(reason::PRELOAD_FAILED, message),
    };
    if !stored.stock.is_empty() && !same(&stored.stock, &target) {
        return Plan::Do(Step::DiscardStock);
    }
    let Some(own) = own else {
        return Plan::Do(if stored.stock.is_empty() {
            Step::MakeStock(Lot { first_ordinal: 0, counts: target })
        } else {
            Step::Prepare
        });
    };
    let len = stored.stock_len();
    if len == 0 {
        return if own.loaded > 0 {
            drift(own, len)
        } else {
            Plan::Do(Step::MakeStock(Lot { first_ordinal: 0, counts: target }))
        };
    }
    if own.loaded < len {
        return Plan::Do(Step::Load { from: own.loaded, to: len });
    }
    if own.loaded > len || own.queued != len || own.issued > 0 {
        return drift(own, len);
    }
    if wanted.issuance == Issuance::Paused {
        return settle_gate(own, opening(wanted, Gate::Paused, wanted.window, stored.edition, len))
            .unwrap_or(Plan::Rest);
    }
    Plan::Do(Step::ScheduleOpening { at: opens_at(wanted.window, now) })
}

/// The stock is whole, the gate is open or about to be, and the start is still to come: everything may still change.
fn waiting_for_start(wanted: &Wanted, stored: &StoredEvent, own: &Observed, at: i64) -> Plan {
    let len = stored.stock_len();
    if let Some(plan) = closed(wanted, stored, Some(own)) {
        return plan;
    }
    let as_wanted = wanted.issuance == Issuance::Auto
        && wanted.window.start == Some(at)
        && own.loaded == len
        && wanted.whole_stock().is_ok_and(|target| same(&stored.stock, &target));
    if as_wanted {
        return settle_gate(own, opening(wanted, Gate::Open, wanted.window, stored.edition, len)).unwrap_or(Plan::Rest);
    }
    if own.gate == Gate::Open {
        // With the window that is in force: the start must not come nearer than Postgres knows.
        return Plan::Do(Step::SetGate(opening(wanted, Gate::Loading, own.window, stored.edition, len)));
    }
    if own.issued > 0 {
        return drift(own, len);
    }
    Plan::Do(Step::WithdrawOpening)
}

/// Coupons may be with users.
fn after_opening(wanted: &Wanted, stored: &StoredEvent, own: &Observed, persisted: u64) -> Plan {
    let len = stored.stock_len();
    if let Some(plan) = closed(wanted, stored, Some(own)) {
        return plan;
    }
    if persisted > own.issued {
        // Redis is older than Postgres. To open it would give the same coupons once more.
        return drift(own, len);
    }
    if own.gate == Gate::Loading && own.loaded < len {
        return Plan::Do(Step::Load { from: own.loaded, to: len });
    }
    // Where users may have got coupons, the start stays. Elsewhere it may move: the gate opens at the one of the manifest.
    let begun = own.gate == Gate::Open || own.issued > 0;
    let start = if begun { own.window.start } else { wanted.window.start };
    let gate = if wanted.issuance == Issuance::Paused { Gate::Paused } else { Gate::Open };
    let window = Window { start, end: wanted.window.end };
    if let Some(plan) = settle_gate(own, opening(wanted, gate, window, stored.edition, len)) {
        return plan;
    }
    match wanted.top_up(&stored.stock) {
        Err(message) => return stuck(reason::CHANGE_NOT_POSSIBLE, message),
        Ok(counts) if counts.iter().any(|(_, count)| *count > 0) => {
            return Plan::Do(Step::MakeStock(Lot { first_ordinal: len, counts }));
        }
        Ok(_) => {}
    }
    if own.loaded < len {
        return Plan::Do(Step::Load { from: own.loaded, to: len });
    }
    let held = own.queued + own.issued;
    if own.loaded > len || held > own.loaded || held + own.cancelled < own.loaded {
        return drift(own, len);
    }
    if start != wanted.window.start {
        return stuck(reason::CHANGE_NOT_POSSIBLE, "the event has opened: put startTime back as it was");
    }
    Plan::Rest
}

/// What to do when the event is over for good; None when it is not.
fn closed(wanted: &Wanted, stored: &StoredEvent, own: Option<&Observed>) -> Option<Plan> {
    match own {
        Some(own) if own.gate == Gate::Closed => Some(Plan::Rest),
        _ if wanted.issuance != Issuance::Closed => None,
        None => Some(Plan::Do(Step::Prepare)),
        Some(_) => Some(Plan::Do(Step::SetGate(opening(
            wanted,
            Gate::Closed,
            wanted.window,
            stored.edition,
            stored.stock_len(),
        )))),
    }
}

fn drift(own: &Observed, len: u64) -> Plan {
    stuck(
        reason::DRIFT_FOUND,
        format!(
            "Postgres has {len} coupons, and Redis loaded {} of them, but now holds {} to give and {} given ({} cancelled): Redis \
             may have lost writes or been changed by hand; set issuance to Paused and compare the stores",
            own.loaded, own.queued, own.issued, own.cancelled
        ),
    )
}

/// The step that puts `opening` in force, unless it is.
fn settle_gate(own: &Observed, opening: Opening) -> Option<Plan> {
    let in_force = own.gate == opening.gate
        && own.window == opening.window
        && own.acknowledge == opening.acknowledge
        && own.generation == opening.generation;
    (!in_force).then_some(Plan::Do(Step::SetGate(opening)))
}

fn opening(wanted: &Wanted, gate: Gate, window: Window, edition: u32, total: u64) -> Opening {
    Opening { gate, window, acknowledge: wanted.acknowledge, generation: wanted.generation, edition, total }
}

/// From when on a gate that is opened now gives out coupons.
fn opens_at(window: Window, now: i64) -> i64 {
    window.start.map_or(now, |start| start.max(now))
}

/// Whether two stocks are the same but for their order.
fn same(one: &[(Discount, u64)], other: &[(Discount, u64)]) -> bool {
    one.len() == other.len() && one.iter().all(|entry| other.contains(entry))
}

#[cfg(test)]
mod tests;
