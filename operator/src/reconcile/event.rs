//! One reconciliation of an event: the order of the steps.

use std::time::{Duration, Instant};

use couponry_crds::{CouponEvent, status::reason};
use couponry_runtime::error_chain;
use kube::runtime::controller::Action;

use crate::{
    blocker::Blocker,
    context::Context,
    metrics::ReconcileResult,
    reconcile::{
        balance::CountMismatch,
        desired_state::{DesiredState, retire_at},
        error::ReconcileError,
        execute, finalizer,
        idle::IdleEvent,
        manifest_change::is_changed,
        observe::{ObservedState, may_issue, observe, observe_redis},
        plan::plan,
        progress::Progress,
        state::reported_state,
        status_writer::StatusWriter,
        step::Plan,
        timing::{self, ACTIVE_INTERVAL, AWAITING_CODES_INTERVAL, MAX_DURATION, UNVERIFIED_INTERVAL, next_check},
        void_comparisons::VoidDifference,
        voids,
    },
};

/// Upper bound of steps per reconciliation; exceeding it means that the plan does not converge.
const MAX_STEPS: u32 = 100;

pub(crate) async fn reconcile_event(
    event: CouponEvent,
    context: &Context,
) -> Result<(ReconcileResult, Action), ReconcileError> {
    let event = finalizer::add(event, context).await?;
    let generation = event.metadata.generation.unwrap_or_default();
    let desired = match DesiredState::from_manifest(&event) {
        Ok(desired) => desired,
        Err(error) => {
            let message = format!("The event cannot be reconciled: {}. Correct the manifest.", error_chain(&error));
            let blocker = Blocker::new(reason::INVALID_OBJECT, message);
            StatusWriter::new(context, event).report_blocked(generation, &blocker, None).await?;
            return Ok((ReconcileResult::Blocked, Action::await_change()));
        }
    };
    let mut writer = StatusWriter::new(context, event);
    let reconciled = run_steps(&desired, context, &mut writer).await;
    // A first failure is often a connection that is about to be re-established, so only repeated failures are
    // reported.
    if let Err(error) = &reconciled
        && let Some(blocker) = error.blocker()
        && context.transient.has_failed(&desired.uid.to_string())
        && let Err(error) =
            writer.report_blocked(generation, &blocker, observe_state(error, &desired, context).await).await
    {
        tracing::warn!(error = error_chain(&error), "cannot report the failure");
    }
    reconciled
}

/// The state of the event in Redis after a reconciliation failed with this error. None: it is not known.
async fn observe_state(error: &ReconcileError, desired: &DesiredState, context: &Context) -> Option<&'static str> {
    if matches!(error, ReconcileError::RedisStore(_)) {
        return None;
    }
    let in_redis = context.redis_store.observe(&desired.name).await.ok().flatten();
    let in_redis = in_redis.filter(|redis| redis.uid == desired.uid && redis.is_verified)?;
    Some(reported_state(Some(&in_redis), desired.hold.as_deref()))
}

/// Applies steps until nothing is left to do or [`MAX_DURATION`] has passed.
async fn run_steps(
    desired: &DesiredState,
    context: &Context,
    writer: &mut StatusWriter<'_>,
) -> Result<(ReconcileResult, Action), ReconcileError> {
    if let Some(interval) = check_idle(desired, context).await? {
        return Ok((ReconcileResult::Done, Action::requeue(interval)));
    }
    let started = Instant::now();
    let mut voids_difference = VoidDifference::default();
    for steps in 0.. {
        let observation_started = Instant::now();
        let observed = observe(context, desired).await?;
        voids::set_pseudonym_key(desired, &observed, context).await?;
        if steps == 0 {
            // Not a step of the plan: a void whose coupon Redis does not have would be applied without end.
            voids_difference = voids::apply_missing(desired, &observed, context).await;
        }
        let min_interval = timing::delay_after_observation(observation_started.elapsed());
        context.metrics.set_oldest_unrecorded(desired.name.as_str(), observed.recording.oldest);
        let is_balanced = writer.check_balance(desired, &observed, voids_difference);
        let planned = plan(desired, &observed);
        if !matches!(planned, Plan::Apply(_)) {
            context.preloads.leave(desired.uid);
        }
        let step = match planned {
            Plan::Apply(step) => step,
            Plan::Done | Plan::AwaitCodes(_) => {
                let blocker = writer.confirmed_mismatch().map(CountMismatch::blocker);
                let (result, progress) = match (blocker, &planned) {
                    (Some(blocker), _) => (ReconcileResult::Blocked, Progress::Blocked(blocker)),
                    (None, Plan::AwaitCodes(batch)) => {
                        (ReconcileResult::Waiting, Progress::awaiting_codes(&desired.name, batch))
                    }
                    (None, _) => (ReconcileResult::Done, Progress::Done),
                };
                // The end of the outage changes the status, although the stores stay as they are.
                let is_kafka_available = context.kafka_outage(desired.acknowledge).is_none();
                writer.report(desired, &observed, &progress).await?;
                // The status that was just written may mark the event as finished.
                let retire_at = retire_at(writer.event());
                let in_redis = observed.redis_event(desired);
                let next_scaling_report = writer.next_scaling_report();
                let mut interval = next_check(in_redis, &observed, retire_at);
                interval = next_scaling_report.map_or(interval, |next| interval.min(next));
                if result == ReconcileResult::Waiting {
                    interval = interval.min(AWAITING_CODES_INTERVAL);
                }
                // A stale operator could open the gate again, because a hold does not change the generation.
                let is_held = desired.hold.is_some();
                if writer.is_behind || !is_balanced || is_held || retire_at != desired.retire_at {
                    interval = interval.min(ACTIVE_INTERVAL);
                } else if result == ReconcileResult::Done && next_scaling_report.is_none() && is_kafka_available {
                    remember_idle(desired, &observed, observation_started, retire_at, context);
                }
                return Ok((result, Action::requeue(interval.max(min_interval))));
            }
            Plan::Blocked(blocker) => {
                if blocker.reason == reason::DRIFT_FOUND {
                    writer.confirm_mismatch();
                }
                let interval = match blocker.reason {
                    reason::REDIS_UNVERIFIED => UNVERIFIED_INTERVAL,
                    _ => ACTIVE_INTERVAL.max(min_interval),
                };
                writer.report(desired, &observed, &Progress::Blocked(blocker)).await?;
                return Ok((ReconcileResult::Blocked, Action::requeue(interval)));
            }
        };
        if steps >= MAX_STEPS {
            return Err(ReconcileError::TooManySteps { last_step: step.name() });
        }
        let _permit = match context.preloads.try_acquire(desired.uid, step.preload_size()) {
            Ok(permit) => permit,
            Err(delay) => {
                report_preload(desired, &observed, &Progress::waiting(), context, writer).await?;
                return Ok((ReconcileResult::Waiting, Action::requeue(delay.max(min_interval))));
            }
        };
        if let Some(progress) = Progress::before(&step) {
            report_preload(desired, &observed, &progress, context, writer).await?;
        }
        // The manifest was read before this waited for other events, for Postgres, or for the end of a preload.
        let opens = step.opens();
        if opens && is_changed(desired, context, writer).await {
            break;
        }
        execute::execute(step, desired, &observed, context, writer).await?;
        if opens {
            couponry_failpoint::crash("operator.after-opening");
        }
        if started.elapsed() > MAX_DURATION {
            break;
        }
    }
    Ok((ReconcileResult::Progressing, Action::requeue(Duration::ZERO)))
}

/// Reports the progress of a preload. After a failure the status stays as it is until a step succeeds; otherwise the
/// condition `Stalled` would change twice with each attempt.
async fn report_preload(
    desired: &DesiredState,
    observed: &ObservedState,
    progress: &Progress,
    context: &Context,
    writer: &mut StatusWriter<'_>,
) -> Result<(), ReconcileError> {
    if context.transient.has_failed(&desired.uid.to_string()) {
        return Ok(());
    }
    writer.report(desired, observed, progress).await
}

/// When to check the event again, if it is still in the state in which no step was left. None: a complete observation
/// is required.
async fn check_idle(desired: &DesiredState, context: &Context) -> Result<Option<Duration>, ReconcileError> {
    let Some(idle) = context.idle_events.take(desired.uid, desired.generation) else { return Ok(None) };
    if desired.hold.is_some() || context.kafka_outage(desired.acknowledge).is_some() {
        return Ok(None);
    }
    let (in_redis, redis_blocker) = observe_redis(context, desired, may_issue(&idle.redis)).await?;
    let interval = in_redis.filter(|_| redis_blocker.is_none()).and_then(|in_redis| idle.next_check(&in_redis));
    if interval.is_some() {
        context.idle_events.insert(idle);
    }
    Ok(interval)
}

/// Remembers that the stores match the manifest and nothing is left to record.
fn remember_idle(
    desired: &DesiredState,
    observed: &ObservedState,
    observed_at: Instant,
    retire_at: Option<i64>,
    context: &Context,
) {
    let Some(in_redis) = observed.redis_event(desired) else { return };
    if timing::is_recorded_and_marked(in_redis, observed.recorded) {
        let interval = timing::interval(in_redis, observed.recorded);
        let changes_at = timing::changes_at(in_redis, retire_at);
        let idle = IdleEvent::new(desired.generation, in_redis.clone(), interval, changes_at, observed_at);
        context.idle_events.insert(idle);
    }
}
