//! Takes one step: the only place that writes to the stores. Each step may be cut off anywhere and taken again, by whomever.

use std::{
    iter,
    ops::Range,
    pin::pin,
    time::{Duration, Instant},
};

use couponry_domain::{Coupon, Lot, Uuid, Window};
use couponry_postgres::{Database, DatabaseError, NewEvent};
use couponry_redis::Loaded;
use tokio::{
    sync::{mpsc, watch},
    time::{self, MissedTickBehavior},
};

use super::{LONGEST_LOOK, Progress, ReconcileError, Reporter, Seen, Step, Wanted, recover};
use crate::context::Context;

/// How many coupons are copied from Postgres to Redis at a time: what one script can take.
const CHUNK: u32 = 5000;
/// How many chunks are read before Redis has taken those before them.
const READ_AHEAD: usize = 2;
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
    let Context { database, stock, .. } = context;
    let Wanted { uid, name, .. } = wanted;
    couponry_failpoint::crash("operator.before-step");
    match step {
        Step::Register => {
            let Wanted { uid, name, policy_name, format, generation, .. } = wanted.clone();
            database.register(&NewEvent { uid, name, policy_name, format, generation }).await?;
        }
        Step::MakeStock(lot) => make_stock(&lot, wanted, seen, context, reporter).await?,
        Step::Prepare => {
            stock.prepare(name, *uid, seen.stored()?.stock_epoch).await?;
        }
        Step::Adopt => {
            if let Some(own) = seen.own(wanted) {
                stock.adopt(name, own, None).await?;
            }
        }
        Step::Recover => recover::recover(wanted, seen, context, reporter).await?,
        Step::Load { from, to } => load(from, to, wanted, seen, context, reporter).await?,
        Step::ScheduleOpening { at } => unless_overtaken(database.schedule_opening(seen.stored()?, at).await)?,
        Step::WithdrawOpening => database.withdraw_opening(*uid).await?,
        Step::SetGate(opening) => {
            if let Loaded::Here(gate) = stock.set_gate(name, *uid, &opening).await? {
                let Window { start, end } = opening.window;
                tracing::info!(event = %name, gate = gate.as_str(), start, end, "the gate is set");
            }
        }
        Step::CloseForeign(uid, opening) => {
            stock.set_gate(name, uid, &opening).await?;
        }
        Step::RemoveStockEpoch(stock_epoch) => {
            let removed = stock.remove_stock_epoch(name, *uid, stock_epoch).await?;
            tracing::info!(event = %name, stock_epoch, removed, "an earlier stock epoch removed from Redis");
        }
        Step::RemoveForeign(uid) => {
            let removed = stock.remove(name, uid).await?;
            tracing::info!(event = %name, %uid, removed, "an earlier event removed from Redis");
        }
        Step::Retire => {
            let retired = stock.retire(name, *uid, seen.stored()?.stock_epoch, wanted.generation).await?;
            tracing::info!(event = %name, ?retired, "the event is over: its coupons leave Redis");
        }
        Step::DiscardStock => {
            database.discard_stock(seen.stored()?).await?;
            tracing::info!(event = %name, "coupons removed from Postgres, to be made anew");
        }
    }
    couponry_failpoint::crash("operator.after-step");
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
    let mut preload = pin!(context.database.preload(seen.stored()?, lot, move |made| {
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
            context.metrics.coupons_generated.inc_by(lot.len());
            tracing::info!(event = %wanted.name, coupons = lot.len(), seconds = begun.elapsed().as_secs_f32(), "coupons are in Postgres");
            Ok(())
        }
        Err(error) => unless_overtaken(Err(error)),
    }
}

/// That another operator was faster is no error: the next glance shows what is there.
fn unless_overtaken(done: Result<(), DatabaseError>) -> Result<(), ReconcileError> {
    match done {
        Err(DatabaseError::StockChanged { .. } | DatabaseError::StockEpochChanged(_)) => Ok(()),
        done => Ok(done?),
    }
}

/// Copies until all is copied, or until this look has lasted long enough. While Redis takes a chunk, the next ones are read.
async fn load(
    from: u64,
    to: u64,
    wanted: &Wanted,
    seen: &Seen,
    context: &Context,
    reporter: &mut Reporter<'_>,
) -> Result<(), ReconcileError> {
    let stock_epoch = seen.stored()?.stock_epoch;
    let begun = Instant::now();
    let mut said = begun;
    let mut next = from;
    let (sender, mut chunks) = mpsc::channel(READ_AHEAD);
    // Ends with the receiver.
    tokio::spawn(read(context.database.clone(), wanted.uid, from..to, sender));
    while let Some(chunk) = chunks.recv().await {
        let chunk = chunk?;
        let Loaded::Here(loaded) = context.stock.load(&wanted.name, wanted.uid, stock_epoch, &chunk).await? else {
            return Ok(());
        };
        context.metrics.coupons_loaded.inc_by(loaded.saturating_sub(next).min(chunk.len() as u64));
        let behind = next + chunk.len() as u64;
        next = loaded;
        couponry_failpoint::crash("operator.after-chunk");
        if said.elapsed() > PROGRESS_INTERVAL {
            said = Instant::now();
            let progress = Progress::Working(copied(next, to));
            reporter.report_progress(wanted, &seen.with_loaded(next), progress).await;
        }
        // Elsewhere only when another operator loads as well: the next look goes on there.
        if next != behind || begun.elapsed() > LONGEST_LOOK {
            break;
        }
    }
    tracing::info!(event = %wanted.name, "{}", copied(next, to));
    Ok(())
}

/// Sends the coupons of these ordinals in chunks, until there are no more, there is an error, or nobody wants them. What is read
/// proves that Postgres has it: every number, none twice.
async fn read(
    database: Database,
    uid: Uuid,
    ordinals: Range<u64>,
    chunks: mpsc::Sender<Result<Vec<Coupon>, ReconcileError>>,
) {
    let mut next = ordinals.start;
    while next < ordinals.end {
        let wished = u32::try_from(ordinals.end - next).unwrap_or(CHUNK).min(CHUNK);
        let expected = next..next + u64::from(wished);
        next = expected.end;
        let chunk = database.coupons(uid, expected.start, wished).await.map_err(ReconcileError::from);
        let chunk = chunk.and_then(|chunk| {
            let found = chunk.iter().map(|coupon| Some(coupon.ordinal)).chain(iter::repeat(None));
            match expected.zip(found).find(|(expected, found)| Some(*expected) != *found) {
                Some((missing, _)) => Err(ReconcileError::Gap(missing)),
                None => Ok(chunk),
            }
        });
        let is_last = chunk.is_err();
        if chunks.send(chunk).await.is_err() || is_last {
            return;
        }
    }
}
