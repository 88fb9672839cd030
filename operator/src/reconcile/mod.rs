//! From what a manifest asks for to what the stores hold: [`observe`] reads, [`plan`](mod@plan) decides on the next step,
//! [`execute`] takes it, until nothing is left to do; [`status`] reports. [`balance`] looks whether every coupon is in one place.
//! When Redis may have lost something, [`arrival`] waits, and [`recover`] makes it whole.
//!
//! It is level-based: each look starts from what is there, remembers nothing, and may be cut off anywhere.

pub(crate) mod arrival;
mod balance;
mod execute;
pub(crate) mod observe;
mod plan;
mod recover;
mod reporter;
mod status;
pub(crate) mod unreadable;
mod wanted;

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use couponry_crds::{CouponEvent, status::reason};
use couponry_postgres::DatabaseError;
use couponry_redis::{Observed, StockError};
use k8s_openapi::jiff::Timestamp;
use kube::{ResourceExt as _, core::DeserializeGuard, runtime::controller::Action};

pub(crate) use self::{
    balance::Balance,
    observe::{Rival, Seen},
    plan::{Obstacle, Plan, Step},
    reporter::{FIELD_MANAGER, Reporter},
    status::Progress,
    wanted::Wanted,
};
use crate::{context::Context, finalizer, metrics::Outcome};

/// How often the counts of an event are refreshed while something happens to it.
const ACTIVE: Duration = Duration::from_secs(2);
/// How often an event is looked at though nothing is expected to happen to it.
const IDLE: Duration = Duration::from_secs(30);
/// How often an event is looked at while nobody gets a coupon of it, since Redis may have lost something.
const WAITING: Duration = Duration::from_millis(500);
/// How soon an event is looked at again that was changed while we looked.
pub(crate) const AT_ONCE: Duration = Duration::from_millis(100);
/// After that long, a look ends in the middle of its work: the next one sees a manifest that was changed meanwhile.
const LONGEST_LOOK: Duration = Duration::from_secs(2);
/// More steps than any event needs in one look: more of them lead nowhere.
const MOST_STEPS: u32 = 100;
/// Counting what is recorded takes time in proportion to it. Refreshing takes at most one part in so many of the time.
const REFRESH_SHARE: u32 = 20;

/// Why a look at an event ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReconcileError {
    /// Postgres failed, or refused.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// Redis failed.
    #[error(transparent)]
    Stock(#[from] StockError),
    /// Postgres does not hold the coupons that it says it holds.
    #[error("reading the stock: Postgres has no coupon number {0}")]
    Gap(u64),
    /// The API server failed, or refused.
    #[error("{operation}: {source}")]
    Kubernetes {
        /// What was asked for.
        operation: &'static str,
        /// What the API server or the connection said.
        source: Box<kube::Error>,
    },
    /// The object was changed since we read it.
    #[error("the event was changed in the meantime")]
    Outdated,
    /// A store took too long for a removal.
    #[error("removing the event: no answer in time")]
    TooSlow,
    /// A mistake of ours.
    #[error("no end of steps, the last was {0:?}")]
    NoEnd(Step),
}

impl ReconcileError {
    /// What to report about it; None: nothing, for the reason that there is nobody to report to.
    fn obstacle(&self) -> Option<Obstacle> {
        let reason = match self {
            Self::Database(
                DatabaseError::Corrupt { .. } | DatabaseError::InvalidCodeFormat(_) | DatabaseError::AlreadyOpened(_),
            )
            | Self::NoEnd(_) => reason::PRELOAD_FAILED,
            Self::Stock(StockError::Unreadable { .. }) | Self::Gap(_) => reason::DRIFT_FOUND,
            Self::Database(_) | Self::Stock(_) | Self::TooSlow => reason::BACKEND_UNAVAILABLE,
            Self::Kubernetes { .. } | Self::Outdated => return None,
        };
        Some(Obstacle { reason, message: self.to_string() })
    }
}

/// Looks at one event, does what is to be done, and says when to look again.
pub(crate) async fn reconcile(
    guard: Arc<DeserializeGuard<CouponEvent>>,
    context: Arc<Context>,
) -> Result<Action, Infallible> {
    let event = match &guard.0 {
        Ok(event) => event.clone(),
        Err(invalid) => {
            let event = invalid.metadata.name.as_deref().unwrap_or_default();
            tracing::warn!(event, error = %invalid.error, "the object cannot be read");
            return Ok(unreadable::look(invalid, &context).await);
        }
    };
    let name = event.name_any();
    let key = event.uid().unwrap_or_default();
    let looked = if event.metadata.deletion_timestamp.is_some() {
        finalizer::clean_up(event, &context, context.drain_timeout).await
    } else {
        look(event, &context).await
    };
    match looked {
        Ok(action) => {
            context.memory.succeeded(&key);
            Ok(action)
        }
        Err(ReconcileError::Outdated) => Ok(Action::requeue(AT_ONCE)),
        Err(error) => {
            context.metrics.reconciled(Outcome::Failed);
            let pause = context.memory.failed(&key).pause();
            tracing::warn!(event = name, %error, "trying again in {pause:?}");
            Ok(Action::requeue(pause))
        }
    }
}

async fn look(event: CouponEvent, context: &Context) -> Result<Action, ReconcileError> {
    let event = finalizer::ensure(event, context).await?;
    let generation = event.metadata.generation.unwrap_or_default();
    let wanted = match Wanted::of(&event) {
        Ok(wanted) => wanted,
        Err(error) => {
            let obstacle = Obstacle { reason: reason::CHANGE_NOT_POSSIBLE, message: error.to_string() };
            Reporter::new(context, event).unavailable(generation, &obstacle).await?;
            context.metrics.reconciled(Outcome::Stuck);
            return Ok(Action::await_change());
        }
    };
    let mut reporter = Reporter::new(context, event);
    let done = follow(&wanted, context, &mut reporter).await;
    // The first failure may be a connection that is about to come back: it is not worth a story.
    if let Err(error) = &done
        && let Some(obstacle) = error.obstacle()
        && context.memory.has_failed(&wanted.uid.to_string())
        && let Err(error) = reporter.unavailable(generation, &obstacle).await
    {
        tracing::warn!(event = %wanted.name, %error, "cannot report");
    }
    done
}

/// Takes steps until nothing is left to do, or until this look has lasted long enough.
async fn follow(wanted: &Wanted, context: &Context, reporter: &mut Reporter<'_>) -> Result<Action, ReconcileError> {
    let begun = Instant::now();
    for steps in 0.. {
        let asked = Instant::now();
        let seen = observe::observe(context, wanted).await?;
        let cost = asked.elapsed();
        let is_balanced = reporter.balance(wanted, &seen);
        let step = match plan::plan(wanted, &seen) {
            Plan::Do(step) => step,
            Plan::Rest => {
                let (progress, outcome) = match reporter.lasting_difference() {
                    Some(difference) => (Progress::Stuck(difference.obstacle()), Outcome::Stuck),
                    None => (Progress::Settled, Outcome::Settled),
                };
                reporter.report(wanted, &seen, &progress).await?;
                context.metrics.reconciled(outcome);
                let is_active = reporter.is_behind || !is_balanced;
                let wait = next_look(wanted, &seen, is_active).min(reporter.next_scaling());
                return Ok(Action::requeue(wait.max(cost * REFRESH_SHARE)));
            }
            Plan::Stuck(obstacle) => {
                if obstacle.reason == reason::DRIFT_FOUND {
                    reporter.believe();
                }
                let wait = match obstacle.reason {
                    reason::REDIS_CHANGED => WAITING,
                    _ => ACTIVE.max(cost * REFRESH_SHARE),
                };
                reporter.report(wanted, &seen, &Progress::Stuck(obstacle)).await?;
                context.metrics.reconciled(Outcome::Stuck);
                return Ok(Action::requeue(wait));
            }
        };
        if steps >= MOST_STEPS {
            return Err(ReconcileError::NoEnd(step));
        }
        if let Some(how_far) = execute::progress(&step) {
            reporter.report(wanted, &seen, &Progress::Working(how_far)).await?;
        }
        tracing::debug!(event = %wanted.name, ?step, "next");
        execute::execute(step, wanted, &seen, context, reporter).await?;
        if begun.elapsed() > LONGEST_LOOK {
            break;
        }
    }
    context.metrics.reconciled(Outcome::Working);
    Ok(Action::requeue(Duration::ZERO))
}

/// When to look at an event again that is as its manifest says.
fn next_look(wanted: &Wanted, seen: &Seen, is_active: bool) -> Duration {
    let Some(own) = seen.own(wanted) else { return IDLE };
    let Observed { window, now, issued, completed, outbox, .. } = own;
    let state = status::state(Some(own));
    let is_flowing = *outbox > 0 || seen.recorded < *issued || completed < issued;
    let interval = if is_active || is_flowing || state == reason::OPEN { ACTIVE } else { IDLE };
    // A millisecond late, so that Redis's clock has passed it.
    let until = |time: i64| u64::try_from(time - now + 1).ok().filter(|wait| *wait > 0).map(Duration::from_millis);
    let turns = [window.start, window.end, wanted.retire_at].into_iter().flatten().filter_map(until);
    turns.fold(interval, Duration::min)
}

/// Now, for a report.
fn now() -> Timestamp {
    Timestamp::now()
}
