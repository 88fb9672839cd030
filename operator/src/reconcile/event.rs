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
        balance::Imbalance,
        desired_state::DesiredState,
        error::ReconcileError,
        execute, finalizer,
        observe::observe,
        plan::plan,
        progress::Progress,
        status_writer::StatusWriter,
        step::Plan,
        timing::{ACTIVE_INTERVAL, MAX_DURATION, MAX_OBSERVATION_SHARE, UNVERIFIED_INTERVAL, next_check},
    },
};

/// Far more steps than any event needs: the plan does not converge.
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
            let blocker = Blocker::new(reason::CHANGE_NOT_POSSIBLE, message);
            StatusWriter::new(context, event).report_blocked(generation, &blocker).await?;
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
        && let Err(error) = writer.report_blocked(generation, &blocker).await
    {
        tracing::warn!(error = error_chain(&error), "cannot report the failure");
    }
    reconciled
}

/// Applies steps until nothing is left to do or [`MAX_DURATION`] has passed.
async fn run_steps(
    desired: &DesiredState,
    context: &Context,
    writer: &mut StatusWriter<'_>,
) -> Result<(ReconcileResult, Action), ReconcileError> {
    let started = Instant::now();
    for steps in 0.. {
        let observation_started = Instant::now();
        let observed = observe(context, desired).await?;
        let min_interval = observation_started.elapsed() * MAX_OBSERVATION_SHARE;
        context.metrics.set_oldest_unrecorded(desired.name.as_str(), observed.recording.oldest);
        let is_balanced = writer.check_balance(desired, &observed);
        let step = match plan(desired, &observed) {
            Plan::Apply(step) => step,
            Plan::Done => {
                let blocker = writer.confirmed_imbalance().map(Imbalance::blocker);
                let result = if blocker.is_some() { ReconcileResult::Blocked } else { ReconcileResult::Done };
                let progress = blocker.map_or(Progress::Done, Progress::Blocked);
                writer.report(desired, &observed, &progress).await?;
                let is_active = writer.is_behind || !is_balanced;
                let interval = next_check(desired, &observed, is_active).min(writer.next_scaling_report());
                return Ok((result, Action::requeue(interval.max(min_interval))));
            }
            Plan::Blocked(blocker) => {
                if blocker.reason == reason::DRIFT_FOUND {
                    writer.confirm_imbalance();
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
        if let Some(progress) = Progress::before(&step) {
            writer.report(desired, &observed, &progress).await?;
        }
        execute::execute(step, desired, &observed, context, writer).await?;
        if started.elapsed() > MAX_DURATION {
            break;
        }
    }
    Ok((ReconcileResult::Progressing, Action::requeue(Duration::ZERO)))
}
