//! The command `loadgen run`.

use std::fs::File;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use couponry_domain::{EventName, UserId};
use couponry_loadgen::connection::Target;
use couponry_loadgen::driver::{Load, drive};
use couponry_loadgen::history::{self, Entry, Pairing};
use couponry_loadgen::progress::{self, Progress};
use couponry_loadgen::summary::Summary;
use couponry_loadgen::workload::Workload;
use couponry_output::{Stderr, Stdout};
use indicatif::HumanCount;
use tokio_util::sync::CancellationToken;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Issuer, as http://host:port. Repeatable.
    #[arg(long = "target", required = true, value_name = "URL")]
    targets: Vec<Target>,
    /// Name of the event.
    #[arg(long)]
    event: EventName,
    /// Number of users.
    #[arg(long, default_value_t = 120_000)]
    users: u32,
    /// A user's name is this prefix and a number.
    #[arg(long, default_value = "user-")]
    user_prefix: String,
    /// Percentage of users with two requests.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=100))]
    twice_percent: u32,
    /// Percentage of users with three requests.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=100))]
    thrice_percent: u32,
    /// Maximum number of requests in progress, over all issuers.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Requests per second. Default: unlimited.
    #[arg(long, value_name = "PER_SECOND")]
    rate: Option<NonZeroU32>,
    /// Determines the order of requests, and which users repeat theirs. Default: random.
    #[arg(long)]
    seed: Option<u64>,
    /// File for the history: a line of JSON before each attempt is sent, and one when it has ended.
    #[arg(long)]
    history: PathBuf,
    /// Maximum number of attempts at a request (after status 503 or 429, a timeout, or a broken connection).
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    max_attempts: u32,
    /// Maximum delay before a retry. Limits Retry-After.
    #[arg(long, default_value_t = 5)]
    max_retry_delay_seconds: u64,
    /// Maximum time that a user waits for the admission, or for more coupons.
    #[arg(long, default_value_t = 300)]
    max_wait_seconds: u64,
    /// Maximum duration of the run.
    #[arg(long)]
    max_seconds: Option<u64>,
    /// Exit with 1 if any attempt was not answered, even if a retry was.
    #[arg(long)]
    strict: bool,
}

pub(crate) async fn run(args: Args) -> Result<ExitCode> {
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
        max_attempts,
        max_retry_delay_seconds,
        max_wait_seconds,
        max_seconds,
        strict,
    } = args;
    UserId::try_from(format!("{prefix}0")).context("--user-prefix is not valid in a user id")?;
    ensure!(twice_percent + thrice_percent <= 100, "--twice-percent and --thrice-percent sum up to more than 100");
    let seed = seed.unwrap_or_else(rand::random);
    let workload = Workload { users, prefix, seed, twice_percent, thrice_percent };
    let max_retry_delay = Duration::from_secs(max_retry_delay_seconds);
    let max_wait = Duration::from_secs(max_wait_seconds);
    let load =
        Load { connections, rate, max_attempts, max_retry_delay, max_wait, ..Load::new(targets, event, workload) };
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    writeln!(
        Stdout,
        "event {}, {} users, {connections} connections, seed {seed}",
        load.event,
        HumanCount(users.into())
    )?;

    let stop = CancellationToken::new();
    let progress: Arc<Progress> = Arc::default();
    let written = Arc::<Mutex<(Pairing, Summary)>>::default();
    let log = {
        let written = written.clone();
        move |entry: Entry| {
            history::write(&file, &entry)?;
            let (pairing, summary) = &mut *written.lock().unwrap_or_else(PoisonError::into_inner);
            pairing.add(entry).iter().for_each(|attempt| summary.add(attempt));
            Ok(())
        }
    };
    tokio::select! {
        result = drive(&load, log, &progress, &stop) => result?,
        () = progress::display(&progress) => {}
        () = stop_early(max_seconds, &stop) => {}
    }
    let (_, summary) = &*written.lock().unwrap_or_else(PoisonError::into_inner);
    write!(Stdout, "\n{summary}")?;
    writeln!(Stdout, "\n{}; history in {}", result_line(&progress), path.display())?;
    let unanswered = summary.attempts() - summary.answered();
    if strict && unanswered > 0 {
        writeln!(Stderr, "{} attempts were not answered, and --strict is set", HumanCount(unanswered));
        return Ok(ExitCode::FAILURE);
    }
    Ok(if summary.answered() == 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Stops the load at the maximum duration or on Ctrl-C. A second Ctrl-C exits at once. Never returns: the load does.
async fn stop_early(max_seconds: Option<u64>, stop: &CancellationToken) {
    let max_duration = async {
        match max_seconds {
            Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = max_duration => writeln!(Stderr, "stopping after the maximum duration"),
        _ = tokio::signal::ctrl_c() => writeln!(Stderr, "interrupted; waiting for the requests in progress"),
    }
    stop.cancel();
    if tokio::signal::ctrl_c().await.is_ok() {
        std::process::exit(130);
    }
    std::future::pending::<()>().await;
}

fn result_line(progress: &Progress) -> String {
    let (requests, answered, unanswered) = (progress.requests(), progress.answered(), progress.unanswered());
    let mut parts = vec![format!("{} of {} requests were answered", HumanCount(answered), HumanCount(requests))];
    if unanswered > 0 {
        parts.push(format!("{} were not answered", HumanCount(unanswered)));
    }
    if requests > answered + unanswered {
        parts.push(format!("{} were not sent", HumanCount(requests - answered - unanswered)));
    }
    parts.join(", ")
}
