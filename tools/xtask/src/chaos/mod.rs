//! `cargo xtask chaos`.
//!
//! Two operators, three issuers and three consumers, each of whose ways to Redis, Kafka and Postgres leads through a proxy,
//! serve round after round. A [`round`] is an event with users who ask, while [`fault`]s drawn from a seed strike one after
//! the other; then all is healed, and `loadgen check` compares every answer with what the stores have.
//!
//! [`deed`] is how a fault begins and ends, [`stage`] what it strikes, [`links`] the proxies, [`silence`] how long users heard nothing,
//! [`tally`] the sum.

mod deed;
mod dice;
mod event;
mod fault;
mod links;
mod round;
mod silence;
mod stage;
mod tally;

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use clap::Args;
use couponry_testbed::progress::human;

use crate::{cargo, signals};
use dice::Dice;
use fault::{Fault, KINDS, Kind};
use round::Round;
use stage::Stage;
use tally::Tally;

/// What `cargo xtask test` plays.
const SEED_OF_THE_TESTS: u64 = 2;
/// How many faults a round has.
const FAULTS: std::ops::RangeInclusive<u64> = 3..=6;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Decides the faults and who asks when; drawn and printed when not given.
    #[arg(long)]
    seed: Option<u64>,

    /// How long new rounds are begun.
    #[arg(long, default_value_t = 10)]
    minutes: u64,

    /// How many asks a second are sent.
    #[arg(long, default_value_t = 200, value_name = "PER_SECOND", value_parser = clap::value_parser!(u64).range(1..))]
    rate: u64,

    /// Only faults of this kind; may be given several times.
    #[arg(long = "fault", value_name = "NAME")]
    faults: Vec<Kind>,

    /// Each kind of fault once, briefly, in any order, instead of so many minutes.
    #[arg(long)]
    once: bool,

    /// Tells the names of the faults, and does nothing else.
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
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seed = options.seed.unwrap_or_else(|| Dice::new(u64::from(since_1970.subsec_nanos())).any() >> 32);
    let kept = play(options, seed)?;
    Ok(if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Each kind of fault once, as the tests do it: always in the same order. The programs must be built. Whether every promise
/// held.
pub(crate) fn once() -> Result<bool> {
    play(&Options { seed: None, minutes: 0, rate: 200, faults: Vec::new(), once: true, list: false }, SEED_OF_THE_TESTS)
}

/// Plays all rounds on an installation of their own. Whether every promise held.
fn play(options: &Options, seed: u64) -> Result<bool> {
    println!("seed {seed}");
    let dir = cargo::built("chaos")?.join(seed.to_string());
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let mut stage = Stage::start(&dir)?;
    let mut tally = Tally::default();
    let begun = Instant::now();
    let played = rounds(options, seed, &mut stage, &dir, &mut tally);
    signals::yield_to_shutdown();
    println!("\nseed {seed}, {}\n{tally}", human(begun.elapsed()));
    if let Ok(true) = played {
        fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    } else {
        stage.keep_logs(&dir)?;
        eprintln!("the histories of the rounds that failed, and all logs, are in {}", dir.display());
    }
    played
}

/// Whether every promise held.
fn rounds(options: &Options, seed: u64, stage: &mut Stage, dir: &Path, tally: &mut Tally) -> Result<bool> {
    let mut dice = Dice::new(seed);
    let kinds =
        if options.faults.is_empty() { KINDS.iter().map(|(_, kind)| *kind).collect() } else { options.faults.clone() };
    if options.once {
        let mut kinds = kinds;
        dice.shuffle(&mut kinds);
        let faults = kinds.into_iter().map(|kind| Fault::draw(kind, true, &mut dice)).collect();
        return Round::draw(1, faults, options.rate, &mut dice).play(stage, dir, tally);
    }
    let deadline = Instant::now() + Duration::from_secs(60 * options.minutes);
    let mut kept = true;
    for number in 1.. {
        if Instant::now() >= deadline {
            break;
        }
        let count = dice.between(*FAULTS.start(), *FAULTS.end());
        let faults = (0..count).map(|_| Fault::draw(*dice.pick(&kinds), false, &mut dice)).collect();
        kept &= Round::draw(number, faults, options.rate, &mut dice).play(stage, dir, tally)?;
    }
    Ok(kept)
}
