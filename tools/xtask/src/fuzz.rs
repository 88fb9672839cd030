//! `cargo xtask fuzz`.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use couponry_testbed::process::Launch;
use couponry_testbed::programs;

use crate::{cargo, signals};

/// The version of cargo-fuzz.
const CARGO_FUZZ: &str = "0.13.1";

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only this reader. Without it: all, one after the other.
    target: Option<Target>,

    /// How long each of them is tried.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    minutes: u32,
}

/// What reads bytes from outside: `fuzz/targets`.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Target {
    /// The codes of coupons, and the names of users and events.
    Code,
    /// The messages on the topic.
    Record,
    /// The body of `POST /coupons/issue`.
    Request,
    /// What Redis holds.
    Stored,
}

impl Target {
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let rustup = rustup_with_nightly()?;
    programs::install()?;
    let cargo_fuzz = cargo::tool("cargo-fuzz", CARGO_FUZZ)?;
    let all = Target::value_variants();
    for target in options.target.as_ref().map_or(all, std::slice::from_ref) {
        let target = target.name();
        let fuzz = cargo::root().join("fuzz");
        // What is found goes into the first directory; the second is only read.
        let (corpus, seeds) = (fuzz.join("corpus").join(&target), fuzz.join("seeds").join(&target));
        fs::create_dir_all(&corpus).with_context(|| format!("cannot make {}", corpus.display()))?;
        let launch = cargo::as_typed_by_user(Launch::in_foreground("cargo fuzz", &rustup))
            .args(["run", "nightly"])
            .args([cargo_fuzz.as_os_str(), "fuzz".as_ref(), "run".as_ref(), "--target-dir".as_ref()])
            .args([cargo::built("fuzz")?.into_os_string(), OsString::from(&target), corpus.into(), seeds.into()])
            .args(["--".to_owned(), format!("-max_total_time={}", u64::from(options.minutes) * 60)])
            .args(["-print_final_stats=1"])
            .dir(cargo::root());
        let status = cargo::in_foreground(launch)?;
        signals::yield_to_shutdown();
        if !status.success() {
            bail!(
                "{target} does not build, or something broke it: then the input is in fuzz/artifacts/{target}. Copy it into \
                 fuzz/seeds/{target}, and `cargo xtask test` fails until it is mended"
            );
        }
        println!("{target}: nothing broke it in {} min", options.minutes);
    }
    Ok(ExitCode::SUCCESS)
}

/// rustup, if it has the compiler that fuzzing takes: only a nightly one can watch which way a program goes.
fn rustup_with_nightly() -> Result<PathBuf> {
    let Some(rustup) = programs::on_path("rustup") else {
        bail!("fuzzing takes a nightly compiler, and rustup to choose it: install it as https://rustup.rs says");
    };
    let asked = Command::new(&rustup)
        .args(["run", "nightly", "rustc", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .context("cannot run rustup")?;
    if !asked.success() {
        bail!("fuzzing takes a nightly compiler; type: rustup toolchain install nightly --profile minimal");
    }
    Ok(rustup)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_is_offered_and_has_seeds() {
        let fuzz = cargo::root().join("fuzz");
        let mut there: Vec<_> = fs::read_dir(fuzz.join("targets")).unwrap().map(|file| file.unwrap().path()).collect();
        there.sort();
        let there: Vec<_> = there.iter().map(|file| file.file_stem().unwrap().to_str().unwrap()).collect();
        let offered: Vec<_> = Target::value_variants().iter().map(|target| target.name()).collect();
        assert_eq!(there, offered);
        for target in offered {
            assert!(fs::read_dir(fuzz.join("seeds").join(&target)).unwrap().next().is_some(), "{target}");
        }
    }
}
