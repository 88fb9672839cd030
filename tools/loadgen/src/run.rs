//! The command `loadgen run`.

use std::fs::File;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use couponry_domain::{EventName, UserId};
use couponry_loadgen::client::Target;
use couponry_loadgen::crowd::Crowd;
use couponry_loadgen::drive::{Load, drive};
use couponry_loadgen::history::{self, Entry, Pairing};
use couponry_loadgen::progress::{self, Tally};
use couponry_loadgen::summary::Summary;
use tokio_util::sync::CancellationToken;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// An issuer, as http://host:port; may be given several times.
    #[arg(long = "target", required = true, value_name = "URL")]
    targets: Vec<Target>,
    /// The event: the name of its resource.
    #[arg(long)]
    event: EventName,
    /// How many users ask.
    #[arg(long, default_value_t = 120_000)]
    users: u32,
    /// What the users' names begin with. Another prefix makes other users.
    #[arg(long, default_value = "user-")]
    user_prefix: String,
    /// How many percent of the users ask twice.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=100))]
    twice_percent: u32,
    /// How many percent of the users ask three times.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=100))]
    thrice_percent: u32,
    /// How many requests are under way at the same time, over all targets.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// How many asks a second are sent at most; without it, as many as are answered.
    #[arg(long, value_name = "PER_SECOND")]
    rate: Option<NonZeroU32>,
    /// Decides the order of the users and who asks more than once; drawn and printed when not given.
    #[arg(long)]
    seed: Option<u64>,
    /// The file for the history: a line of JSON before a request is sent, and one when it has ended.
    #[arg(long)]
    history: PathBuf,
    /// How often an ask is sent, in all, that gets no answer: 503, 429, timeout, no connection.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    max_tries: u32,
    /// The longest pause in seconds before an attempt is repeated, whatever Retry-After says.
    #[arg(long, default_value_t = 5)]
    max_pause: u64,
    /// Ends the run after so many seconds, whoever has not asked yet.
    #[arg(long)]
    max_seconds: Option<u64>,
    /// Ends with 1 when a single request got no answer, though its repetition did.
    #[arg(long)]
    strict: bool,
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    // One thread does it all, and leaves the other processors to the system under test.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(run_load(args))
}

async fn run_load(args: Args) -> Result<ExitCode> {
    let Args {
        targets,
        event,
        users,
        user_prefix: prefix,
        twice_percent,
        thrice_percent,
        connections,
        rate,
        seed,
        history: path,
        max_tries,
        max_pause,
        max_seconds,
        strict,
    } = args;
    UserId::try_from(format!("{prefix}0")).context("--user-prefix")?;
    ensure!(twice_percent + thrice_percent <= 100, "more than 100 percent of the users would ask more than once");
    let seed = seed.unwrap_or_else(rand::random);
    let crowd = Crowd { users, prefix, seed, twice_percent, thrice_percent };
    let longest_pause = Duration::from_secs(max_pause);
    let load = Load { connections, rate, max_tries, longest_pause, ..Load::new(targets, event, crowd) };
    let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    println!("{users} users ask for {} over {connections} connections, seed {seed}", load.event);

    let stop = CancellationToken::new();
    let tally: Arc<Tally> = Arc::default();
    let written = Arc::<Mutex<(Pairing, Summary)>>::default();
    let log = {
        let written = written.clone();
        move |entry: Entry| {
            history::write(&file, &entry)?;
            let (pairing, summary) = &mut *written.lock().unwrap_or_else(PoisonError::into_inner);
            pairing.take(entry).iter().for_each(|attempt| summary.add(attempt));
            Ok(())
        }
    };
    tokio::select! {
        driven = drive(&load, log, &tally, &stop) => driven?,
        () = progress::show(&tally) => {}
        () = interrupt(max_seconds, &stop) => {}
    }
    let (_, summary) = &*written.lock().unwrap_or_else(PoisonError::into_inner);
    print!("\n{summary}");
    println!("\n{}; history in {}", ending(&tally), path.display());
    let unanswered = summary.attempts() - summary.answered();
    if strict && unanswered > 0 {
        eprintln!("{unanswered} requests got no answer, and --strict allows none");
        return Ok(ExitCode::FAILURE);
    }
    Ok(if summary.answered() == 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Stops the load on Ctrl-C or when its time is over; the next Ctrl-C does not wait for what is under way. Never ends: the
/// load itself does.
async fn interrupt(max_seconds: Option<u64>, stop: &CancellationToken) {
    let time_over = async {
        match max_seconds {
            Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = time_over => eprintln!("the time is over"),
        _ = tokio::signal::ctrl_c() => eprintln!("interrupted"),
    }
    stop.cancel();
    if tokio::signal::ctrl_c().await.is_ok() {
        std::process::exit(130);
    }
    std::future::pending::<()>().await;
}

fn ending(tally: &Tally) -> String {
    let (asks, settled, given_up) = (tally.asks(), tally.asks_settled(), tally.asks_given_up());
    let mut parts = vec![format!("{settled} of {asks} asks were answered")];
    if given_up > 0 {
        parts.push(format!("{given_up} got no answer"));
    }
    if asks > settled + given_up {
        parts.push(format!("{} were not sent", asks - settled - given_up));
    }
    parts.join(", ")
}
