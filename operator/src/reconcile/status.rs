//! What to report about an event: computed from the last report and from what the stores hold, without a client.

use couponry_crds::{
    CouponEventStatus,
    status::{condition, reason},
};
use couponry_domain::{Gate, Verdict};
use couponry_redis::Observed;
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};

use super::{Balance, Obstacle, Seen, Wanted};
use crate::scaling::{Asked, Scaled};

/// How the work on an event is going.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// The stock is being made. The text says how far it is.
    Working(String),
    /// All is as the manifest says.
    Settled,
    /// Something stands in the way.
    Stuck(Obstacle),
}

impl Progress {
    /// How far the work is.
    pub(super) fn words(&self) -> &str {
        match self {
            Self::Working(words) | Self::Stuck(Obstacle { message: words, .. }) => words,
            Self::Settled => "",
        }
    }
}

/// What is to be reported beside what the stores hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Beside<'a> {
    /// What was found at the start and is not as it should be.
    pub(crate) remarks: &'a [String],
    /// What does not add up, and has not for a while.
    pub(crate) difference: Option<&'a str>,
    /// Whether there are as many issuers as the event asks for.
    pub(crate) scaling: &'a Asked,
}

/// One condition, without what follows from the last report.
struct Finding {
    type_: &'static str,
    holds: bool,
    reason: &'static str,
    message: String,
}

/// The status to report at `now`.
pub(crate) fn report(
    old: &CouponEventStatus,
    wanted: &Wanted,
    seen: &Seen,
    progress: &Progress,
    beside: Beside<'_>,
    now: Timestamp,
) -> CouponEventStatus {
    if let Progress::Stuck(obstacle) = progress
        && obstacle.reason == reason::REDIS_CHANGED
    {
        // What Redis says may be of yesterday.
        let known = unavailable(old, wanted.generation, obstacle, now);
        return CouponEventStatus { observed_generation: Some(wanted.generation), ..known };
    }
    let Beside { remarks, difference, scaling } = beside;
    let balance = Balance::of(wanted, seen);
    let own = seen.own(wanted);
    let state = state(own);
    let issued = own.map_or(old.issued.unwrap_or_default(), |own| own.issued);
    let caught_up = seen.recorded >= issued && own.is_none_or(|own| own.outbox == 0);
    let is_over = matches!(state, reason::ENDED | reason::CLOSED | reason::SOLD_OUT);
    let opened = own.is_some_and(|own| own.gate == Gate::Open);
    let opened_at = seen.stored.as_ref().and_then(|stored| stored.opened_at).filter(|at| opened && *at <= seen.now);
    let mut findings = vec![
        ready(wanted, seen, progress, state, remarks),
        preloaded(wanted, seen, progress),
        Finding {
            type_: condition::OPEN,
            holds: state == reason::OPEN,
            reason: state,
            message: describe(state).to_owned(),
        },
        recorded(issued, caught_up),
        stalled(progress),
    ];
    findings.extend(balance.map(|_| balanced(difference)));
    findings.extend(match scaling {
        Asked::Known(Scaled { holds, reason, message }) => {
            Some(Finding { type_: condition::SCALED, holds: *holds, reason, message: message.clone() })
        }
        Asked::Unknown | Asked::Nothing => None,
    });
    let stays = |type_: &str| match type_ {
        condition::BALANCED => true,
        condition::SCALED => matches!(scaling, Asked::Unknown),
        _ => false,
    };
    CouponEventStatus {
        observed_generation: Some(wanted.generation),
        conditions: conditions(&old.conditions, findings, stays, wanted.generation, now),
        balance: balance.as_ref().map(Balance::status).or(old.balance),
        loaded: Some(own.map_or(0, |own| own.loaded)),
        issued: Some(issued),
        recorded: Some(seen.recorded),
        available: Some(own.map_or(0, |own| own.available)),
        opened_at: old.opened_at.clone().or_else(|| opened_at.and_then(seconds)),
        sold_out_at: first(old.sold_out_at.as_ref(), own.is_some_and(is_sold_out), now),
        finished_at: first(old.finished_at.as_ref(), is_over && caught_up, now),
    }
}

/// The status to report when the stores could not be asked: what was known, and that it cannot be kept up now.
pub(crate) fn unavailable(
    old: &CouponEventStatus,
    generation: i64,
    obstacle: &Obstacle,
    now: Timestamp,
) -> CouponEventStatus {
    let Obstacle { reason, message } = obstacle;
    let finding = |type_, holds| Finding { type_, holds, reason, message: message.clone() };
    let mut findings = vec![finding(condition::READY, false), finding(condition::STALLED, true)];
    let is_open = old.condition(condition::OPEN).is_some_and(|open| open.status == "True");
    if is_open && *reason == reason::REDIS_CHANGED {
        findings.push(finding(condition::OPEN, false));
    }
    if old.condition(condition::OPEN).is_none() {
        let message = describe(reason::LOADING).to_owned();
        findings.push(Finding { type_: condition::OPEN, holds: false, reason: reason::LOADING, message });
    }
    let all = conditions(&old.conditions, findings, |_| true, generation, now);
    CouponEventStatus { conditions: all, ..old.clone() }
}

/// Whether two statuses differ in more than counts and words, so that the new one must not wait.
pub(crate) fn is_transition(old: &CouponEventStatus, new: &CouponEventStatus) -> bool {
    let CouponEventStatus { observed_generation, conditions, opened_at, sold_out_at, finished_at, .. } = new;
    let marks = |conditions: &[Condition]| {
        conditions.iter().map(|c| (c.type_.clone(), c.status.clone(), c.reason.clone())).collect::<Vec<_>>()
    };
    observed_generation != &old.observed_generation
        || marks(conditions) != marks(&old.conditions)
        || (opened_at, sold_out_at, finished_at) != (&old.opened_at, &old.sold_out_at, &old.finished_at)
}

/// The event's state, as the reason of the condition Open. The same order as [`couponry_domain::Window::verdict`], but that a pause
/// is told before the start as well.
pub(crate) fn state(own: Option<&Observed>) -> &'static str {
    let Some(own) = own else { return reason::LOADING };
    // When the coupons leave Redis, that changes nothing of how the event has ended.
    let gate = own.retired.unwrap_or(own.gate);
    match own.window.verdict(gate, own.now) {
        Verdict::Ended if gate == Gate::Closed => reason::CLOSED,
        Verdict::Ended => reason::ENDED,
        _ if gate == Gate::Loading => reason::LOADING,
        _ if gate == Gate::Paused => reason::PAUSED,
        Verdict::NotStarted => reason::SCHEDULED,
        Verdict::Open | Verdict::Paused if is_sold_out(own) => reason::SOLD_OUT,
        Verdict::Open | Verdict::Paused => reason::OPEN,
    }
}

fn is_sold_out(own: &Observed) -> bool {
    own.gate != Gate::Loading && own.available == 0 && own.loaded > 0
}

const fn describe(state: &'static str) -> &'static str {
    match state.as_bytes() {
        b"Loading" => "Users get coupons when all of them are loaded",
        b"Scheduled" => "Users get coupons from startTime on",
        b"Open" => "Users get coupons",
        b"Paused" => "Held by issuance Paused",
        b"SoldOut" => "Every coupon is with a user",
        b"Ended" => "endTime is past",
        b"Closed" => "Ended by issuance Closed",
        _ => "",
    }
}

fn ready(wanted: &Wanted, seen: &Seen, progress: &Progress, state: &'static str, remarks: &[String]) -> Finding {
    let finding = |holds, reason, message: String| Finding { type_: condition::READY, holds, reason, message };
    match progress {
        Progress::Working(how_far) => finding(false, work(seen), how_far.clone()),
        Progress::Stuck(Obstacle { reason, message }) => finding(false, reason, message.clone()),
        Progress::Settled if seen.own(wanted).is_some_and(|own| own.retired.is_some()) => {
            finding(true, reason::RETIRED, "The event is over, and its coupons have left Redis".to_owned())
        }
        Progress::Settled if state == reason::CLOSED => finding(true, reason::CLOSED, describe(state).to_owned()),
        Progress::Settled => {
            let mut words = vec![format!("All {} coupons are in place", wanted.total)];
            words.extend_from_slice(remarks);
            finding(true, reason::STOCK_COMPLETE, words.join("; but "))
        }
    }
}

fn preloaded(wanted: &Wanted, seen: &Seen, progress: &Progress) -> Finding {
    let finding = |holds, reason, message: String| Finding { type_: condition::PRELOADED, holds, reason, message };
    let len = seen.stock_len();
    let own = seen.own(wanted);
    let loaded = own.map_or(0, |own| own.loaded);
    match progress {
        Progress::Working(how_far) => finding(false, work(seen), how_far.clone()),
        _ if own.is_some_and(|own| own.retired.is_some()) => {
            finding(true, reason::RETIRED, format!("Postgres holds {len} coupons; they have left Redis"))
        }
        _ if len > 0 && loaded == len => {
            finding(true, reason::STOCK_COMPLETE, format!("Postgres and Redis hold the same {len} coupons"))
        }
        Progress::Stuck(Obstacle { reason, message }) => finding(false, reason, message.clone()),
        Progress::Settled => {
            finding(false, reason::CLOSED, "The event was closed before its coupons were made".to_owned())
        }
    }
}

/// The reason to report while the stock is being made.
fn work(seen: &Seen) -> &'static str {
    let opened = seen.stored.as_ref().and_then(|stored| stored.opened_at).is_some_and(|at| at <= seen.now);
    let was_whole = seen.redis.as_ref().is_some_and(|redis| redis.gate != Gate::Loading);
    if opened && was_whole { reason::TOPPING_UP } else { reason::PRELOADING }
}

fn recorded(issued: u64, caught_up: bool) -> Finding {
    let (reason, message) = match (issued, caught_up) {
        (0, true) => (reason::NOTHING_ISSUED, "No coupon was issued yet"),
        (_, true) => (reason::ALL_RECORDED, "Every issued coupon is recorded in Postgres"),
        (_, false) => (reason::RECORDING, "Issued coupons are on their way to Postgres"),
    };
    Finding { type_: condition::RECORDED, holds: caught_up, reason, message: message.to_owned() }
}

fn balanced(difference: Option<&str>) -> Finding {
    let (reason, message) =
        difference.map_or((reason::COUNTS_MATCH, "Every coupon is accounted for"), |words| (reason::DRIFT_FOUND, words));
    Finding { type_: condition::BALANCED, holds: difference.is_none(), reason, message: message.to_owned() }
}

fn stalled(progress: &Progress) -> Finding {
    let (holds, reason, message) = match progress {
        Progress::Stuck(Obstacle { reason, message }) => (true, *reason, message.clone()),
        Progress::Working(_) | Progress::Settled => {
            (false, reason::NOT_STALLED, "Nothing stands in the way".to_owned())
        }
    };
    Finding { type_: condition::STALLED, holds, reason, message }
}

/// The conditions that were found, and of the others those that are to stay as they were.
fn conditions(
    old: &[Condition],
    findings: impl IntoIterator<Item = Finding>,
    stays: impl Fn(&str) -> bool,
    generation: i64,
    now: Timestamp,
) -> Vec<Condition> {
    let since = |type_: &str, status: &str| {
        let same = old.iter().find(|old| old.type_ == type_ && old.status == status);
        same.map_or_else(|| whole_second(now), |old| old.last_transition_time.clone())
    };
    let found = findings.into_iter().map(|Finding { type_, holds, reason, message }| {
        let status = if holds { "True" } else { "False" };
        Condition {
            last_transition_time: since(type_, status),
            message,
            observed_generation: Some(generation),
            reason: reason.to_owned(),
            status: status.to_owned(),
            type_: type_.to_owned(),
        }
    });
    let mut all: Vec<_> = found.collect();
    let is_found = |old: &&Condition| all.iter().any(|new| new.type_ == old.type_);
    let kept: Vec<_> = old.iter().filter(|old| stays(&old.type_) && !is_found(old)).cloned().collect();
    all.extend(kept);
    all.sort_by_key(|one| condition::ALL.iter().position(|type_| *type_ == one.type_));
    all
}

/// Since when something holds.
fn first(since: Option<&Time>, holds: bool, now: Timestamp) -> Option<Time> {
    holds.then(|| since.cloned().unwrap_or_else(|| whole_second(now)))
}

/// Kubernetes keeps whole seconds: anything finer would look like a change at every comparison.
pub(super) fn whole_second(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).unwrap_or(time))
}

fn seconds(milliseconds: i64) -> Option<Time> {
    Timestamp::from_millisecond(milliseconds).ok().map(whole_second)
}

#[cfg(test)]
mod tests;
