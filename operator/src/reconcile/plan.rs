//! What to do next about an event: one step at a time, decided from what the stores hold alone, so that an operator that was
//! killed anywhere, or works beside another one, goes on from what is there.
//!
//! # Guarantees
//! - The gate opens only when Redis holds as many coupons as Postgres, and Postgres as many as the manifest asks for.
//! - Before it does, Postgres has noted from when on coupons may be given out. From that time on the stock is never made anew in
//!   Postgres: whoever holds a coupon keeps it. In Redis it is restored with its holders when Redis may have lost something; until
//!   then nobody gets a coupon.
//!
//! # Caveats
//! Between a glance and its step, another operator may act on another version of the manifest, and a step may arrive long after
//! its operator is dead. Each step is therefore checked again where it takes effect: lots by their first ordinal, chunks by
//! theirs, the gate by the count and the generation of the manifest, discarding by the opening, and all of them by the stock epoch of
//! the stock: to make it anew, the next stock epoch is begun in Postgres before anything else.
//! Who sees a newer generation than their own, or a later event of the same name, has been overtaken and leaves it alone.

use couponry_crds::{Issuance, status::reason};
use couponry_domain::{Discount, Gate, Lot, Uuid, Window};
use couponry_postgres::StoredEvent;
use couponry_redis::{Observed, Opening};

use super::{Balance, Rival, Seen, Wanted, arrival::Arrival, recover, status};

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
    /// Let coupons be given from this Redis, as nothing was given before.
    Adopt,
    /// Find out that Redis has lost nothing, or restore it from Postgres.
    Recover,
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
    /// Remove the keys of an earlier stock epoch from Redis.
    RemoveStockEpoch(u32),
    /// Remove the keys of an earlier event of this name from Redis.
    RemoveForeign(Uuid),
    /// Remove the coupons from Postgres, and begin the next stock epoch.
    DiscardStock,
    /// Take the coupons of an event that is over out of Redis.
    Retire,
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
    match follow(wanted, seen) {
        Plan::Rest if is_to_retire(wanted, seen) => Plan::Do(Step::Retire),
        plan => plan,
    }
}

/// Whether the event is over for good and has been for long enough, and nothing is left to do or to clear up.
fn is_to_retire(wanted: &Wanted, seen: &Seen) -> bool {
    let (Some(own), Some(stored)) = (seen.own(wanted), &seen.stored) else { return false };
    let is_over = match status::state(Some(own)) {
        reason::ENDED | reason::CLOSED => true,
        reason::SOLD_OUT => own.window.end.is_none(),
        _ => false,
    };
    let is_recorded = own.outbox == 0 && own.completed >= own.issued && seen.recorded >= own.issued;
    is_over
        && is_recorded
        && own.retired.is_none()
        && stored.generation == wanted.generation
        && wanted.retire_at.is_some_and(|at| at <= own.now)
        && Balance::of(wanted, seen).is_some_and(|balance| balance.difference().is_none())
}

fn follow(wanted: &Wanted, seen: &Seen) -> Plan {
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
    if let Some(own) = seen.redis.as_ref().filter(|own| own.stock_epoch != stored.stock_epoch) {
        let is_earlier = own.stock_epoch < stored.stock_epoch && own.issued == 0 && stored.opened_at.is_none();
        return if is_earlier {
            Plan::Do(Step::RemoveStockEpoch(own.stock_epoch))
        } else {
            let (has, knows) = (own.stock_epoch, stored.stock_epoch);
            stuck(
                reason::DRIFT_FOUND,
                format!(
                    "Redis has stock_epoch {has} of the stock, Postgres stock epoch {knows}: one of them was restored from a backup"
                ),
            )
        };
    }
    if let Some(own) = seen.redis.as_ref().filter(|own| !own.is_verified) {
        return unverified(stored, own, seen);
    }
    match (stored.opened_at, seen.redis.as_ref()) {
        // To be recovered.
        (Some(at), None) if at <= seen.now + CLOCK_TOLERANCE => Plan::Do(Step::Prepare),
        // Nothing can have been given out yet, so the stock can be loaded again.
        (Some(_), None) => Plan::Do(Step::WithdrawOpening),
        (None, own) => before_opening(wanted, stored, own, seen),
        (Some(at), Some(own)) if own.now < at => waiting_for_start(wanted, stored, own, at),
        (Some(_), Some(own)) => after_opening(wanted, stored, own, seen),
    }
}

/// Redis has restarted or changed since it was known to be whole, and may have lost something; or it was only just prepared.
fn unverified(stored: &StoredEvent, own: &Observed, seen: &Seen) -> Plan {
    let may_be_given =
        stored.opened_at.is_some_and(|at| at <= seen.now + CLOCK_TOLERANCE) || own.issued > 0 || seen.recorded > 0;
    if !may_be_given || own.retired.is_some() {
        return Plan::Do(Step::Adopt);
    }
    match &seen.arrival {
        Some(Arrival::Complete) => Plan::Do(Step::Recover),
        Some(Arrival::Awaited(what)) => Plan::Stuck(recover::obstacle(what)),
        None => Plan::Stuck(recover::obstacle("waiting for what is on its way")),
    }
}

/// Another event of this name holds the keys in Redis. Kubernetes knows only this one, so the other is gone; but what its users
/// were told must reach Postgres first.
fn make_room(wanted: &Wanted, other: &Observed, rival: Option<Rival>) -> Plan {
    let uid = other.uid;
    if rival != Some(Rival::Earlier) {
        return stuck(
            reason::NAME_CONFLICT,
            format!(
                "Redis has another event named {} (uid {uid}) that this installation does not know: give each installation its \
                 own --redis-key-prefix, or remove the old keys",
                wanted.name
            ),
        );
    }
    if other.gate != Gate::Closed {
        let window = other.window;
        return Plan::Do(Step::CloseForeign(uid, opening(wanted, Gate::Closed, window, other.stock_epoch, other.loaded)));
    }
    if other.outbox > 0 {
        return stuck(
            reason::NAME_CONFLICT,
            format!(
                "an earlier event of this name (uid {uid}) still has coupons on their way to Kafka: waiting for them"
            ),
        );
    }
    Plan::Do(Step::RemoveForeign(uid))
}

/// No coupon can have been given out.
fn before_opening(wanted: &Wanted, stored: &StoredEvent, own: Option<&Observed>, seen: &Seen) -> Plan {
    let now = seen.now;
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
        return drift(wanted, seen).unwrap_or(Plan::Do(Step::MakeStock(Lot { first_ordinal: 0, counts: target })));
    }
    if let Some(load) = load(own, len) {
        return load;
    }
    if let Some(drift) = given_too_early(own).or_else(|| drift(wanted, seen)) {
        return drift;
    }
    if wanted.issuance == Issuance::Paused {
        return settle_gate(own, opening(wanted, Gate::Paused, wanted.window, stored.stock_epoch, len))
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
        return settle_gate(own, opening(wanted, Gate::Open, wanted.window, stored.stock_epoch, len)).unwrap_or(Plan::Rest);
    }
    if own.gate == Gate::Open {
        // With the window that is in force: the start must not come nearer than Postgres knows.
        return Plan::Do(Step::SetGate(opening(wanted, Gate::Loading, own.window, stored.stock_epoch, len)));
    }
    given_too_early(own).unwrap_or(Plan::Do(Step::WithdrawOpening))
}

/// Coupons may be with users.
fn after_opening(wanted: &Wanted, stored: &StoredEvent, own: &Observed, seen: &Seen) -> Plan {
    let len = stored.stock_len();
    if let Some(plan) = closed(wanted, stored, Some(own)) {
        return plan;
    }
    // Redis may be older than Postgres. To open it would give the same coupons once more.
    let opens = own.gate != Gate::Open && wanted.issuance == Issuance::Auto;
    if opens && Balance::of(wanted, seen).is_some_and(|balance| balance.gives_too_much()) {
        return drift(wanted, seen).unwrap_or(Plan::Rest);
    }
    if own.gate == Gate::Loading
        && let Some(plan) = drift(wanted, seen).or_else(|| load(own, len))
    {
        return plan;
    }
    let opening = opening_now(wanted, stored, own, own.issued > 0 || seen.recorded > 0);
    let start = opening.window.start;
    if let Some(plan) = settle_gate(own, opening) {
        return plan;
    }
    match wanted.top_up(&stored.stock) {
        Err(message) => return stuck(reason::CHANGE_NOT_POSSIBLE, message),
        Ok(counts) if counts.iter().any(|(_, count)| *count > 0) => {
            return Plan::Do(Step::MakeStock(Lot { first_ordinal: len, counts }));
        }
        Ok(_) => {}
    }
    // A Redis that says it has loaded less than it has would be given the same coupons once more.
    if let Some(load) = load(own, len) {
        return drift(wanted, seen).unwrap_or(load);
    }
    if start != wanted.window.start {
        return stuck(reason::CHANGE_NOT_POSSIBLE, "the event has opened: put startTime back as it was");
    }
    Plan::Rest
}

/// Copies what of `len` coupons Redis does not have yet.
fn load(own: &Observed, len: u64) -> Option<Plan> {
    (own.loaded < len).then_some(Plan::Do(Step::Load { from: own.loaded, to: len }))
}

/// What to do when the event is over for good; None when it is not.
fn closed(wanted: &Wanted, stored: &StoredEvent, own: Option<&Observed>) -> Option<Plan> {
    match own {
        Some(own) if own.retired.is_some() && asks_for_more(wanted, stored, own) => Some(stuck(
            reason::CHANGE_NOT_POSSIBLE,
            "the event is over and its coupons have left Redis, so it cannot go on: make another event, and set issuance to \
             Closed in this one",
        )),
        Some(own) if own.gate == Gate::Closed => Some(Plan::Rest),
        _ if wanted.issuance != Issuance::Closed => None,
        None => Some(Plan::Do(Step::Prepare)),
        Some(_) => Some(Plan::Do(Step::SetGate(opening(
            wanted,
            Gate::Closed,
            wanted.window,
            stored.stock_epoch,
            stored.stock_len(),
        )))),
    }
}

/// Whether the manifest wants to go on with an event that is over.
fn asks_for_more(wanted: &Wanted, stored: &StoredEvent, own: &Observed) -> bool {
    let goes_on = wanted.total > stored.stock_len() || wanted.window.end != own.window.end;
    goes_on && wanted.issuance != Issuance::Closed
}

/// The stores do not add up: no step would make it better, and some would make it worse.
fn drift(wanted: &Wanted, seen: &Seen) -> Option<Plan> {
    let difference = Balance::of(wanted, seen)?.difference()?;
    Some(Plan::Stuck(difference.obstacle()))
}

fn given_too_early(own: &Observed) -> Option<Plan> {
    let given = own.issued;
    (given > 0).then(|| {
        stuck(
            reason::DRIFT_FOUND,
            format!("Redis has given {given} coupons of an event that Postgres does not know to have opened: compare the stores"),
        )
    })
}

/// The step that puts `opening` in force, unless it is.
fn settle_gate(own: &Observed, opening: Opening) -> Option<Plan> {
    let in_force = own.gate == opening.gate
        && own.window == opening.window
        && own.acknowledge == opening.acknowledge
        && own.generation == opening.generation;
    (!in_force).then_some(Plan::Do(Step::SetGate(opening)))
}

fn opening(wanted: &Wanted, gate: Gate, window: Window, stock_epoch: u32, total: u64) -> Opening {
    Opening { gate, window, acknowledge: wanted.acknowledge, generation: wanted.generation, stock_epoch, total }
}

/// What is to be in force when the opening is noted and its time has come. Where users may have got coupons, the start stays as it
/// was; elsewhere it may move.
pub(super) fn opening_now(wanted: &Wanted, stored: &StoredEvent, own: &Observed, given: bool) -> Opening {
    let gate = match wanted.issuance {
        Issuance::Auto => Gate::Open,
        Issuance::Paused => Gate::Paused,
        Issuance::Closed => Gate::Closed,
    };
    let start = match own.gate {
        Gate::Open => own.window.start,
        _ if !given => wanted.window.start,
        // Redis has forgotten it, but Postgres knows from when on coupons were given.
        Gate::Loading => wanted.window.start.min(stored.opened_at.or(wanted.window.start)),
        Gate::Paused | Gate::Closed => own.window.start,
    };
    let window = Window { start, end: wanted.window.end };
    opening(wanted, gate, window, stored.stock_epoch, stored.stock_len())
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
