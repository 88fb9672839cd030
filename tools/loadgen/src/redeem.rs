//! The command `loadgen redeem`.

use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use couponry_domain::EventName;
use couponry_loadgen::checkout::history::UseEntry;
use couponry_loadgen::checkout::{Checkout, HeldCoupon, IssuedCoupons, Statistics, drive};
use couponry_loadgen::connection::Target;
use couponry_loadgen::history;
use couponry_output::Stdout;
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio::time::sleep;

/// How often a history that is being written is read.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Redeemer, as http://host:port. Repeatable.
    #[arg(long = "target", required = true, value_name = "URL")]
    targets: Vec<Target>,
    /// Name of the event.
    #[arg(long)]
    event: EventName,
    /// History of `run`, with the coupons that users have received.
    #[arg(long, value_name = "FILE")]
    issued: PathBuf,
    /// Use coupons as soon as users receive them, until Ctrl-C, while `run` writes the history.
    #[arg(long)]
    follow: bool,
    /// Use only this percentage of the coupons.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=100))]
    percent: u64,
    /// Maximum number of coupons to use.
    #[arg(long, default_value_t = u64::MAX)]
    coupons: u64,
    /// Maximum number of coupons in use at the same time.
    #[arg(long, default_value_t = 16)]
    shops: usize,
    /// Decides what happens to each coupon. Default: random.
    #[arg(long)]
    seed: Option<u64>,
    /// File for the history: a line of JSON before each attempt is sent, and one when it has ended.
    #[arg(long, value_name = "FILE")]
    history: PathBuf,
}

pub(crate) async fn redeem(args: Args) -> Result<ExitCode> {
    let seed = args.seed.unwrap_or_else(|| rand::random_range(0..=u64::from(u32::MAX)));
    let file = File::create(&args.history).with_context(|| format!("cannot create {}", args.history.display()))?;
    let (sender, receiver) = mpsc::unbounded_channel();
    let checkout = Checkout { seed, shops: args.shops, ..Checkout::new(args.targets.clone(), args.event.clone()) };
    let log = move |entry: &UseEntry| history::write(&file, entry);
    // The sender is dropped when the coupons end, so that the shops end too.
    let (statistics, ()) = tokio::try_join!(drive(checkout, receiver, log), send_coupons(&args, sender))?;
    writeln!(Stdout, "redemptions of event {}, seed {seed}\n{statistics}", args.event)?;
    let Statistics { undecided, .. } = statistics;
    Ok(if undecided > 0 || statistics.done() == 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Sends the coupons to the shops.
async fn send_coupons(args: &Args, sender: UnboundedSender<HeldCoupon>) -> Result<()> {
    let mut issued = IssuedCoupons::open(args.issued.clone());
    let mut count = 0;
    let mut is_interrupted = false;
    let mut interrupt = Box::pin(tokio::signal::ctrl_c());
    while !is_interrupted {
        let coupons = issued.read()?;
        ensure!(coupons.is_some() || args.follow, "the history {} does not exist", args.issued.display());
        for held in coupons.into_iter().flatten().filter(|held| held.number % 100 < args.percent) {
            if count == args.coupons || sender.send(held).is_err() {
                return Ok(());
            }
            count += 1;
        }
        if !args.follow {
            break;
        }
        tokio::select! {
            _ = &mut interrupt => is_interrupted = true,
            () = sleep(POLL_INTERVAL) => {}
        }
    }
    Ok(())
}
