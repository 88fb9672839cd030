//! Takes one step: the only place that writes to the stores. Each step may be cut off anywhere and taken again, by whomever.

use std::{
    iter,
    ops::Range,
    pin::pin,
    time::{Duration, Instant},
};

use domain::{Coupon, Lot, Window};
use ledger::{LedgerError, NewEvent};
use stock::Loaded;
use tokio::{
    sync::watch,
    time::{self, MissedTickBehavior},
};

use super::{LONGEST_LOOK, Progress, ReconcileError, Reporter, Seen, Step, Wanted, recover};
use crate::context::Context;

/// How many coupons are copied from Postgres to Redis at a time: what one script can take.
const CHUNK: u32 = 5000;
/// How often a long step says how far it is.
pub(super) const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// How far the stock is, for the steps that make it.
pub(super) fn progress(step: &Step) -> Option<String> {
    match step {
        Step::MakeStock(lot) => Some(made(0, lot.len())),
        Step::Load { from, to } => Some(copied(*from, *to)),
        _ => None,
    }
}

fn made(done: u64, of: u64) -> String {
    format!("{done} of {of} coupons written to Postgres")
}

fn copied(done: u64, of: u64) -> String {
    format!("{done} of {of} coupons copied from Postgres to Redis")
}

/// Takes the step. That someone else has taken it first is no error: the next glance shows what is there.
pub(super) async fn execute(
    step: Step,
    wanted: &Wanted,
    seen: &Seen,
    context: &Context,
    reporter: &mut Reporter<'_>,
) -> Result<(), ReconcileError> {
    let Context { ledger, stock, .. } = context;
    let Wanted { uid, name, .. } = wanted;
    failpoint::crash("operator.before-step");
    match step {
        Step::Register => {
            let Wanted { uid, name, policy_name, format, generation, .. } = wanted.clone();
            ledger.register(&NewEvent { uid, name, policy_name, format, generation }).await?;
        }
        Step::MakeStock(lot) => make_stock(&lot, wanted, seen, context, reporter).await?,
        Step::Prepare => {
            stock.prepare(name, *uid, seen.stored()?.edition).await?;
        }
        Step::Adopt => {
            if let Some(own) = seen.own(wanted) {
                stock.adopt(name, own, None).await?;
            }
        }
        Step::Recover => recover::recover(wanted, seen, context, reporter).await?,
        Step::Load { from, to } => load(from, to, wanted, seen, context, reporter).await?,
        Step::ScheduleOpening { at } => unless_overtaken(ledger.schedule_opening(seen.stored()?, at).await)?,
        Step::WithdrawOpening => ledger.withdraw_opening(*uid).await?,
        Step::SetGate(opening) => {
            if let Loaded::Here(gate) = stock.set_gate(name, *uid, &opening).await? {
                let Window { start, end } = opening.window;
                tracing::info!(event = %name, gate = gate.as_str(), start, end, "the gate is set");
            }
        }
        Step::CloseForeign(uid, opening) => {
            stock.set_gate(name, uid, &opening).await?;
        }
        Step::RemoveEdition(edition) => {
            let removed = stock.remove_edition(name, *uid, edition).await?;
            tracing::info!(event = %name, edition, removed, "an earlier edition removed from Redis");
        }
        Step::RemoveForeign(uid) => {
            let removed = stock.remove(name, uid).await?;
            tracing::info!(event = %name, %uid, removed, "an earlier event removed from Redis");
        }
        Step::Retire => {
            let retired = stock.retire(name, *uid, seen.stored()?.edition, wanted.generation).await?;
            tracing::info!(event = %name, ?retired, "the event is over: its coupons leave Redis");
        }
        Step::DiscardStock => {
            ledger.discard_stock(seen.stored()?).await?;
            tracing::info!(event = %name, "coupons removed from Postgres, to be made anew");
        }
    }
    failpoint::crash("operator.after-step");
    Ok(())
}

async fn make_stock(
    lot: &Lot,
    wanted: &Wanted,
    seen: &Seen,
    context: &Context,
    reporter: &mut Reporter<'_>,
) -> Result<(), ReconcileError> {
    let begun = Instant::now();
    let (sender, done) = watch::channel(0);
    let mut preload = pin!(context.ledger.preload(seen.stored()?, lot, move |made| {
        sender.send_replace(made);
    }));
    let mut ticks = time::interval(PROGRESS_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    let preloaded = loop {
        tokio::select! {
            preloaded = &mut preload => break preloaded,
            _ = ticks.tick() => {
                let how_far = made(*done.borrow(), lot.len());
                reporter.report_progress(wanted, seen, Progress::Working(how_far)).await;
            }
        }
    };
    match preloaded {
        Ok(()) => {
            context.metrics.coupons_made.inc_by(lot.len());
            tracing::info!(event = %wanted.name, coupons = lot.len(), seconds = begun.elapsed().as_secs_f32(), "coupons are in Postgres");
            Ok(())
        }
        Err(error) => unless_overtaken(Err(error)),
    }
}

/// That another operator was faster is no error: the next glance shows what is there.
fn unless_overtaken(done: Result<(), LedgerError>) -> Result<(), ReconcileError> {
    match done {
        Err(LedgerError::StockChanged { .. } | LedgerError::EditionChanged(_)) => Ok(()),
        done => Ok(done?),
    }
}

/// Copies until all is copied, or until this look has lasted long enough. While Redis takes one chunk, Postgres reads the next.
async fn load(
    from: u64,
    to: u64,
    wanted: &Wanted,
    seen: &Seen,
    context: &Context,
    reporter: &mut Reporter<'_>,
) -> Result<(), ReconcileError> {
    let edition = seen.stored()?.edition;
    let begun = Instant::now();
    let mut said = begun;
    let mut next = from;
    let read = async |from: u64| read_chunk(from..to.min(from + u64::from(CHUNK)), wanted, context).await;
    let mut chunk = read(next).await?;
    while next < to && begun.elapsed() < LONGEST_LOOK {
        let behind = next + chunk.len() as u64;
        let (loaded, following) =
            tokio::join!(context.stock.load(&wanted.name, wanted.uid, edition, &chunk), read(behind));
        let Loaded::Here(loaded) = loaded? else { return Ok(()) };
        context.metrics.coupons_loaded.inc_by(loaded.saturating_sub(next).min(chunk.len() as u64));
        next = loaded;
        // Elsewhere only when another operator loads as well.
        chunk = if next == behind { following? } else { read(next).await? };
        failpoint::crash("operator.after-chunk");
        if said.elapsed() > PROGRESS_INTERVAL {
            said = Instant::now();
            let progress = Progress::Working(copied(next, to));
            reporter.report_progress(wanted, &seen.with_loaded(next), progress).await;
        }
    }
    tracing::info!(event = %wanted.name, "{}", copied(next, to));
    Ok(())
}

/// The coupons of these ordinals. What is copied proves that Postgres has it: every number, none twice.
async fn read_chunk(ordinals: Range<u64>, wanted: &Wanted, context: &Context) -> Result<Vec<Coupon>, ReconcileError> {
    let length = u32::try_from(ordinals.end.saturating_sub(ordinals.start)).unwrap_or(CHUNK);
    if length == 0 {
        return Ok(Vec::new());
    }
    let chunk = context.ledger.coupons(wanted.uid, ordinals.start, length).await?;
    let found = chunk.iter().map(|coupon| Some(coupon.ordinal)).chain(iter::repeat(None));
    match ordinals.zip(found).find(|(expected, found)| Some(*expected) != *found) {
        Some((missing, _)) => Err(ReconcileError::Gap(missing)),
        None => Ok(chunk),
    }
}
