//! Cargo and the workspace.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitStatus;

use anyhow::{Context, Result, bail};
use couponry_testbed::process::Launch;
use couponry_testbed::progress::Step;
use couponry_testbed::{Process, programs};

/// The workspace's root.
pub(crate) fn root() -> PathBuf {
    // Cargo tells a program that it runs where its package is now; the compiler's word may be of another clone.
    let package = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let package = PathBuf::from(package);
    package.ancestors().nth(2).unwrap_or(&package).to_owned()
}

/// The Cargo that runs us.
pub(crate) fn program() -> PathBuf {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()).into()
}

/// The directory of the programs built in this profile: `debug` or `release`.
pub(crate) fn built(profile: &str) -> Result<PathBuf> {
    let ours = std::env::current_exe().context("cannot tell where this program is")?;
    let debug = ours.parent().context("this program is in no directory")?;
    Ok(debug.with_file_name(profile))
}

/// What tests build all programs with: the places where they can be made to end.
pub(crate) const FOR_TESTS: [&str; 2] = ["--features", "couponry-failpoint/failpoints"];

/// Builds all our programs as the tests use them, and returns their directory.
pub(crate) fn build_programs() -> Result<PathBuf> {
    // Without ourselves: this program is running.
    run(["build", "--workspace", "--bins", "--exclude", "xtask"].into_iter().chain(FOR_TESTS))?;
    built("debug")
}

/// Runs Cargo on our terminal; fails when it does.
pub(crate) fn run<S: Into<OsString>>(args: impl IntoIterator<Item = S>) -> Result<()> {
    let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
    let described = args.iter().map(|a| a.to_string_lossy()).collect::<Vec<_>>().join(" ");
    let status = in_foreground(Launch::in_foreground("cargo", program()).args(args).dir(root()))?;
    if !status.success() {
        bail!("cargo {described} failed");
    }
    Ok(())
}

/// A program of crates.io in this version, kept beside the other programs that are installed.
pub(crate) fn tool(name: &str, version: &str) -> Result<PathBuf> {
    let root = programs::cache()?.join(format!("{name}-{version}"));
    let program = root.join("bin").join(name);
    if !program.is_file() {
        let step = Step::start(format!("building {name} {version} (once)"));
        // Not optimized: it only starts the compiler.
        run(["install", "--quiet", "--locked", "--debug"].map(OsString::from).into_iter().chain([
            "--root".into(),
            root.into_os_string(),
            format!("{name}@{version}").into(),
        ]))?;
        step.done();
    }
    Ok(program)
}

/// Runs a program on our terminal to its end.
pub(crate) fn in_foreground(launch: Launch) -> Result<ExitStatus> {
    Process::start(launch)?.wait()
}
