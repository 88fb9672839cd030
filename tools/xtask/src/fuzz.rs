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

const CARGO_FUZZ: &str = "0.13.1";

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Fuzz only this target. Default: all, one after the other.
    target: Option<Target>,

    /// The duration for each target.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    minutes: u32,
}

/// A parser of external data: `fuzz/targets`.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Target {
    /// Codes of coupons, and names of users and events.
    Code,
    /// Records on the topic.
    Record,
    /// The body of `POST /coupons/issue`.
    Request,
    /// Values in Redis.
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
        // New inputs are added to the first directory; the second one is not changed.
        let (corpus, seeds) = (fuzz.join("corpus").join(&target), fuzz.join("seeds").join(&target));
        fs::create_dir_all(&corpus).with_context(|| format!("cannot create {}", corpus.display()))?;
        let launch = cargo::as_typed_by_user(Launch::in_foreground("cargo fuzz", &rustup))
            .args(["run", "nightly"])
            .args([cargo_fuzz.as_os_str(), "fuzz".as_ref(), "run".as_ref(), "--target-dir".as_ref()])
            .args([cargo::built("fuzz")?.into_os_string(), OsString::from(&target), corpus.into(), seeds.into()])
            .args(["--".to_owned(), format!("-max_total_time={}", u64::from(options.minutes) * 60)])
            .args(["-print_final_stats=1"])
            .dir(cargo::root());
        let status = cargo::in_foreground(launch)?;
        signals::block_if_interrupted();
        if !status.success() {
            bail!(
                "fuzzing {target} failed. A failing input is in fuzz/artifacts/{target}: copy it to fuzz/seeds/{target}, so that \
                 `cargo xtask test` reproduces the failure"
            );
        }
        println!("{target}: no failures in {} min", options.minutes);
    }
    Ok(ExitCode::SUCCESS)
}

/// rustup, if it has a nightly compiler: coverage instrumentation is not available in a stable one.
fn rustup_with_nightly() -> Result<PathBuf> {
    let Some(rustup) = programs::on_path("rustup") else {
        bail!("fuzzing requires a nightly compiler and rustup, which selects it: see https://rustup.rs");
    };
    let version = Command::new(&rustup)
        .args(["run", "nightly", "rustc", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .context("cannot run rustup")?;
    if !version.success() {
        bail!("fuzzing requires a nightly compiler: run `rustup toolchain install nightly --profile minimal`");
    }
    Ok(rustup)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fuzz_target_is_an_option_and_has_seeds() {
        let fuzz = cargo::root().join("fuzz");
        let mut targets: Vec<_> =
            fs::read_dir(fuzz.join("targets")).unwrap().map(|file| file.unwrap().path()).collect();
        targets.sort();
        let targets: Vec<_> = targets.iter().map(|file| file.file_stem().unwrap().to_str().unwrap()).collect();
        let options: Vec<_> = Target::value_variants().iter().map(|target| target.name()).collect();
        assert_eq!(targets, options);
        for target in options {
            assert!(fs::read_dir(fuzz.join("seeds").join(&target)).unwrap().next().is_some(), "{target}");
        }
    }
}
