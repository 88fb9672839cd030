//! Applies a step. Only this module, [`recover`], [`crate::reconcile::stranded_issuances`],
//! [`crate::reconcile::topic_records`], [`crate::reconcile::voids`] and [`crate::reconcile::restrict_gate`] change an
//! event in the stores during a reconciliation; [`crate::reconcile::observe`] lists and marks it in Redis,
//! [`crate::reconcile::finalizer`] removes it.
//!
//! # Guarantees
//! Every step is idempotent and may be interrupted anywhere. A step that another operator has already applied is not
//! an error.

use std::{iter, ops::Range, pin::pin, time::Instant};

use couponry_domain::{Coupon, CouponBatch, Uuid, Window};
use couponry_postgres::{Database, DatabaseError, NewEvent};
use couponry_redis::FencedWrite;
use tokio::{
    sync::{mpsc, watch},
    time::{self, MissedTickBehavior},
};

use crate::{
    context::Context,
    reconcile::{
        desired_state::DesiredState,
        error::ReconcileError,
        manifest_change::{is_changed, is_superseded},
        observe::ObservedState,
        progress::{Progress, REPORT_INTERVAL},
        recover,
        status_writer::StatusWriter,
        step::Step,
        timing::{MANIFEST_INTERVAL, MAX_DURATION},
    },
};

/// Coupons per Redis script call.
const CHUNK_LEN: u32 = 5000;
/// Chunks that are read from Postgres before Redis has accepted the previous ones.
const READ_AHEAD: usize = 2;

#[tracing::instrument(skip_all, fields(step = step.name()))]
pub(super) async fn execute(
    step: Step,
    desired: &DesiredState,
    observed: &ObservedState,
    context: &Context,
    writer: &mut StatusWriter<'_>,
) -> Result<(), ReconcileError> {
    let Context { database, redis_store, .. } = context;
    let DesiredState { uid, name, .. } = desired;
    tracing::debug!(?step, "applying step");
    couponry_failpoint::crash("operator.before-step");
    match step {
        Step::Register => {
            let DesiredState { uid, name, policy_name, format, terms, release, generation, .. } = desired.clone();
            if let Some(replaced) = desired.replaces {
                database.mark_resource_deleted(replaced, &name).await?;
            }
            database.register(&NewEvent { uid, name, policy_name, format, terms, release, generation }).await?;
        }
        Step::GenerateStock(batch) => generate_stock(&batch, desired, observed, context, writer).await?,
        Step::Prepare => {
            redis_store.prepare(name, *uid, observed.stored()?.stock_epoch).await?;
        }
        Step::MarkVerified => {
            if let Some(in_redis) = observed.redis_event(desired) {
                redis_store.mark_verified(name, in_redis, None).await?;
            }
        }
        Step::Recover => recover::recover(desired, observed, context, writer).await?,
        Step::Load { from, to } => load(from, to, desired, observed, context, writer).await?,
        Step::ScheduleOpening { at, start, is_final } => {
            ignore_stale(database.schedule_opening(observed.stored()?, at, start, is_final).await)?;
        }
        Step::WithdrawOpening => withdraw_opening(desired, observed, context).await?,
        Step::RecordStranded => recover::record_and_report_stranded(desired, observed, context, writer).await?,
        Step::SetGate(settings) => {
            // A closed gate stays closed, and an older generation has no effect.
            if redis_store.set_gate(name, *uid, &settings).await? == FencedWrite::Applied(settings.gate) {
                let Window { start, end } = settings.window;
                tracing::info!(gate = settings.gate.as_str(), start, end, "gate set");
            }
        }
        Step::ClosePredecessor(uid, settings) => {
            redis_store.set_gate(name, uid, &settings).await?;
        }
        Step::RemoveStockEpoch(stock_epoch) => {
            if redis_store.remove_stock_epoch(name, *uid, stock_epoch).await? {
                tracing::info!(stock_epoch, "previous stock epoch removed from Redis");
            }
        }
        Step::RemovePredecessor(uid) => {
            if redis_store.remove(name, uid).await? {
                tracing::info!(predecessor = %uid, "deleted event of the same name removed from Redis");
            }
        }
        Step::Retire => {
            let retired = redis_store.retire(name, *uid, observed.stored()?.stock_epoch, desired.generation).await?;
            if retired == FencedWrite::Applied(true) {
                tracing::info!("coupons of the finished event removed from Redis");
            }
        }
        Step::DiscardStock => {
            database.discard_stock(observed.stored()?).await?;
            tracing::info!("stock discarded in Postgres, to be generated again");
        }
    }
    couponry_failpoint::crash("operator.after-step");
    Ok(())
}

/// First Redis, so that no coupon can be issued once the opening is withdrawn.
async fn withdraw_opening(
    desired: &DesiredState,
    observed: &ObservedState,
    context: &Context,
) -> Result<(), ReconcileError> {
    let Some(in_redis) = observed.redis_event(desired) else { return Ok(()) };
    let reset = context.redis_store.reset_gate(&desired.name, in_redis, desired.generation).await?;
    couponry_failpoint::crash("operator.before-withdrawal");
    if reset == FencedWrite::Applied(true) {
        let withdrawn = context.database.withdraw_opening(observed.stored()?).await?;
        tracing::info!(withdrawn, "opening withdrawn because the manifest has changed");
    }
    Ok(())
}

/// Generates the coupons and reports the progress every second.
async fn generate_stock(
    batch: &CouponBatch,
    desired: &DesiredState,
    observed: &ObservedState,
    context: &Context,
    writer: &mut StatusWriter<'_>,
) -> Result<(), ReconcileError> {
    let started = Instant::now();
    let (sender, done) = watch::channel(0);
    let mut generation = pin!(context.database.generate_coupons(observed.stored()?, batch, move |generated| {
        sender.send_replace(generated);
    }));
    let ticks = |period| {
        let mut ticks = time::interval_at(time::Instant::now() + period, period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    };
    let (mut reports, mut checks) = (ticks(REPORT_INTERVAL), ticks(MANIFEST_INTERVAL));
    // While the previous attempt has failed, the status reports its error.
    let is_reported = !context.transient.has_failed(&desired.uid.to_string());
    let result = loop {
        tokio::select! {
            result = &mut generation => break result,
            _ = reports.tick(), if is_reported => {
                let progress = Progress::generated(*done.borrow(), batch.len());
                writer.report_progress(desired, observed, progress).await;
            }
            _ = checks.tick() => {
                if is_superseded(desired, observed, context, writer).await {
                    tracing::info!("generation of coupons cancelled because the manifest has changed");
                    return Ok(());
                }
            }
        }
    };
    if result.is_ok() {
        let (count, seconds) = (batch.len(), started.elapsed().as_secs_f32());
        context.metrics.coupons_generated.inc_by(count);
        tracing::info!(count, seconds, "coupons generated in Postgres");
    }
    ignore_stale(result).map_err(|error| match error {
        ReconcileError::Database(error) => ReconcileError::Generation(error),
        other => other,
    })
}

/// Another operator has applied the step already, or begun another stock epoch; the next observation shows it.
fn ignore_stale(applied: Result<(), DatabaseError>) -> Result<(), ReconcileError> {
    match applied {
        Err(DatabaseError::StockChanged { .. } | DatabaseError::EventChanged(_)) => Ok(()),
        applied => Ok(applied?),
    }
}

/// Loads coupons until all are loaded or [`MAX_DURATION`] has passed. Reads the next chunks while Redis stores one.
async fn load(
    from: u64,
    to: u64,
    desired: &DesiredState,
    observed: &ObservedState,
    context: &Context,
    writer: &mut StatusWriter<'_>,
) -> Result<(), ReconcileError> {
    let stock_epoch = observed.stored()?.stock_epoch;
    let started = Instant::now();
    let (mut reported_at, mut checked_at) = (started, started);
    let mut next = from;
    let (sender, mut chunks) = mpsc::channel(READ_AHEAD);
    // Ends when the receiver is dropped.
    tokio::spawn(read_chunks(context.database.clone(), desired.uid, from..to, sender));
    while let Some(chunk) = chunks.recv().await {
        let chunk = chunk?;
        let FencedWrite::Applied(loaded) =
            context.redis_store.load(&desired.name, desired.uid, stock_epoch, &chunk).await?
        else {
            return Ok(());
        };
        context.metrics.coupons_loaded.inc_by(loaded.saturating_sub(next).min(chunk.len() as u64));
        let expected = next + chunk.len() as u64;
        next = loaded;
        couponry_failpoint::crash("operator.after-chunk");
        if reported_at.elapsed() > REPORT_INTERVAL {
            reported_at = Instant::now();
            let progress = Progress::loaded(next, to);
            writer.report_progress(desired, &observed.with_loaded(next), progress).await;
        }
        if checked_at.elapsed() > MANIFEST_INTERVAL {
            checked_at = Instant::now();
            if is_changed(desired, context, writer).await {
                break;
            }
        }
        // A different count means that another operator is loading, too. The next reconciliation continues there.
        if next != expected || started.elapsed() > MAX_DURATION {
            break;
        }
    }
    tracing::info!(count = next, total = to, "coupons loaded into Redis");
    Ok(())
}

/// Sends the coupons with these ordinals in chunks. Fails if an ordinal is missing, so that every loaded coupon exists
/// in Postgres.
async fn read_chunks(
    database: Database,
    uid: Uuid,
    ordinals: Range<u64>,
    chunks: mpsc::Sender<Result<Vec<Coupon>, ReconcileError>>,
) {
    let mut next = ordinals.start;
    while next < ordinals.end {
        let len = u32::try_from(ordinals.end - next).unwrap_or(CHUNK_LEN).min(CHUNK_LEN);
        let expected = next..next + u64::from(len);
        next = expected.end;
        let chunk = database.coupons(uid, expected.start, len).await.map_err(ReconcileError::from);
        let chunk = chunk.and_then(|chunk| {
            let found = chunk.iter().map(|coupon| Some(coupon.ordinal)).chain(iter::repeat(None));
            match expected.zip(found).find(|(expected, found)| Some(*expected) != *found) {
                Some((missing, _)) => Err(ReconcileError::MissingCoupon(missing)),
                None => Ok(chunk),
            }
        });
        let is_last = chunk.is_err();
        if chunks.send(chunk).await.is_err() || is_last {
            return;
        }
    }
}
