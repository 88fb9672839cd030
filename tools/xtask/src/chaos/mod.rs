//! `cargo xtask chaos`.
//!
//! An installation of two operators, three issuers, three consumers and two redeemers, with a proxy on each connection
//! to Redis, Kafka and Postgres, serves one event after the other. In each [`round`], random [`fault`]s are injected
//! one after the other while users request coupons and shops use them. Then all faults are removed, and `loadgen check`
//! compares all responses with the stores.
//!
//! [`inject`] injects and removes faults, [`installation`] starts and restarts programs, [`links`] has the proxies,
//! [`load`] sends requests and checks their responses, [`voids`] voids coupons that shops use, [`outage`] computes how
//! long no request was answered, and [`statistics`] sums up all rounds. [`recorder`] records the metrics of
//! [`recorded_cases`].
//!
//! With `--indicators`, [`indicators`] injects each kind of fault once and writes what is reported about it:
//! [`indications`] reads conditions, probes and metrics, and [`users`] notes whether users receive coupons.

mod event;
mod fault;
mod indications;
mod indicators;
mod inject;
mod installation;
mod links;
mod load;
mod outage;
mod recorded_cases;
mod recorder;
mod redis_keys;
mod rng;
mod round;
mod statistics;
mod users;
mod voids;

use std::fs;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use clap::Args;
use couponry_testbed::progress::format_duration;

use crate::{cargo, signals};
use fault::{Fault, KINDS, Kind};
use installation::Installation;
use rng::Rng;
use round::Round;
use statistics::Statistics;

/// The seed of `cargo xtask test`.
const TEST_SEED: u64 = 2;
/// Number of faults in a round.
const FAULTS: std::ops::RangeInclusive<u64> = 3..=6;

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(crate) struct Options {
    /// Determines faults and workloads. Default: random.
    #[arg(long)]
    seed: Option<u64>,

    /// Start new rounds for this long.
    #[arg(long, default_value_t = 10)]
    minutes: u64,

    /// Requests per second.
    #[arg(long, default_value_t = 200, value_name = "PER_SECOND", value_parser = clap::value_parser!(u64).range(1..))]
    rate: u64,

    /// Inject only faults of this kind. Repeatable.
    #[arg(long = "fault", value_name = "NAME")]
    faults: Vec<Kind>,

    /// Inject each kind of fault once, briefly, in one round.
    #[arg(long)]
    once: bool,

    /// Record the metrics of these cases, or of all, for the tests of the alerts, instead of random faults.
    #[arg(long, value_name = "CASE", num_args = 0..)]
    record: Option<Vec<String>>,

    /// Inject each kind of fault once, and write which indicators report it to docs/operate/fault-indicators.md.
    #[arg(long, conflicts_with = "once")]
    indicators: bool,

    /// Run on a Redis Cluster of three masters, with the faults that are possible there.
    #[arg(long, conflicts_with_all = ["record", "once"])]
    redis_cluster: bool,

    /// List the kinds of faults and exit.
    #[arg(long)]
    list: bool,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    if options.list {
        for (name, _) in KINDS {
            println!("{name}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    couponry_testbed::programs::install()?;
    cargo::build_programs()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seed = options.seed.unwrap_or_else(|| Rng::new(u64::from(now.subsec_nanos())).next() >> 32);
    let passed = run_with_seed(options, seed)?;
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Injects each kind of fault once, for the tests: always in the same order. The programs must be built. Returns
/// whether all checks passed.
pub(crate) fn once() -> Result<bool> {
    run_with_seed(
        &Options {
            seed: None,
            minutes: 0,
            rate: 200,
            faults: Vec::new(),
            once: true,
            record: None,
            indicators: false,
            redis_cluster: false,
            list: false,
        },
        TEST_SEED,
    )
}

/// Runs all rounds on a new installation. Returns whether all checks passed.
fn run_with_seed(options: &Options, seed: u64) -> Result<bool> {
    println!("seed {seed}");
    let dir = cargo::built("chaos")?.join(seed.to_string());
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let mut installation = Installation::start(&dir, options.redis_cluster)?;
    let mut statistics = Statistics::default();
    let start = Instant::now();
    let result = run_rounds(options, seed, &mut installation, &mut statistics);
    signals::block_if_interrupted();
    println!("\nseed {seed}, {}\n{statistics}", format_duration(start.elapsed()));
    if let Ok(true) = result {
        fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    } else {
        installation.keep_logs()?;
        eprintln!("histories of the failed rounds and all logs: {}", dir.display());
    }
    result
}

/// Returns whether all checks passed.
fn run_rounds(
    options: &Options,
    seed: u64,
    installation: &mut Installation,
    statistics: &mut Statistics,
) -> Result<bool> {
    if let Some(cases) = &options.record {
        return recorded_cases::record(installation, cases).map(|()| true);
    }
    if options.indicators {
        return indicators::run(installation, &options.faults);
    }
    let mut rng = Rng::new(seed);
    let mut kinds =
        if options.faults.is_empty() { KINDS.iter().map(|(_, kind)| *kind).collect() } else { options.faults.clone() };
    kinds.retain(|kind| kind.is_possible(options.redis_cluster));
    ensure!(!kinds.is_empty(), "none of these faults is possible here; `cluster-node` requires --redis-cluster");
    if options.once {
        rng.shuffle(&mut kinds);
        let faults = kinds.into_iter().map(|kind| Fault::draw(kind, true, &mut rng)).collect();
        return Round::draw(1, faults, options.rate, &mut rng).run(installation, statistics);
    }
    let deadline = Instant::now() + Duration::from_secs(60 * options.minutes);
    let (mut passed, mut undrawn) = (true, Vec::new());
    for number in 1.. {
        if Instant::now() >= deadline {
            break;
        }
        let count = rng.between(*FAULTS.start(), *FAULTS.end());
        let mut faults = Vec::new();
        for _ in 0..count {
            // Each kind occurs once before one of them is repeated.
            if undrawn.is_empty() {
                undrawn.clone_from(&kinds);
                rng.shuffle(&mut undrawn);
            }
            faults.extend(undrawn.pop().map(|kind| Fault::draw(kind, false, &mut rng)));
        }
        passed &= Round::draw(number, faults, options.rate, &mut rng).run(installation, statistics)?;
    }
    Ok(passed)
}
