//! Cargo, the workspace, and the programs which Cargo builds.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use anyhow::{Context, Result, bail};
use couponry_testbed::process::Launch;
use couponry_testbed::progress::Step;
use couponry_testbed::{Process, programs};

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    // The value at run time comes first: a compiled-in path may belong to another clone with the same target directory.
    let package = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let package = PathBuf::from(package);
    package.ancestors().nth(2).unwrap_or(&package).to_owned()
}

/// Cargo in the root of the workspace, on our terminal. `name` is for messages.
pub(crate) fn launch(name: &str) -> Launch {
    as_typed_by_user(Launch::in_foreground(name, program()).dir(root()))
}

/// The Cargo which runs this program.
pub(crate) fn program() -> PathBuf {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()).into()
}

/// Removes the variables which `cargo run` adds for the program that it runs. Build scripts watch some of them, so a
/// Cargo which inherits them rebuilds what a plain `cargo build` has built, and the reverse.
pub(crate) fn as_typed_by_user(cargo: Launch) -> Launch {
    cargo.remove_env(std::env::vars_os().map(|(key, _)| key).filter(|key| is_set_by_cargo_run(key)))
}

fn is_set_by_cargo_run(key: &OsStr) -> bool {
    let Some(key) = key.to_str() else { return false };
    let prefixes = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CFG_", "CARGO_FEATURE_"];
    let names = ["CARGO_CRATE_NAME", "CARGO_PRIMARY_PACKAGE", "CARGO_TARGET_TMPDIR", "OUT_DIR"];
    names.contains(&key) || prefixes.iter().any(|prefix| key.starts_with(prefix))
}

/// The directory of the programs built in this profile: `debug` or `release`.
pub(crate) fn built(profile: &str) -> Result<PathBuf> {
    let xtask = std::env::current_exe().context("cannot determine the path of this program")?;
    let debug = xtask.parent().context("this program has no parent directory")?;
    Ok(debug.with_file_name(profile))
}

/// Arguments with which tests build all programs: failpoints are enabled.
pub(crate) const FOR_TESTS: [&str; 2] = ["--features", "couponry-failpoint/failpoints"];

/// Builds all programs of the workspace as the tests use them, and returns their directory.
pub(crate) fn build_programs() -> Result<PathBuf> {
    // A running program cannot be replaced, so xtask is excluded.
    run(["build", "--workspace", "--bins", "--exclude", "xtask"].into_iter().chain(FOR_TESTS))?;
    built("debug")
}

/// Runs Cargo on our terminal; fails if it fails.
pub(crate) fn run<S: Into<OsString>>(args: impl IntoIterator<Item = S>) -> Result<()> {
    let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
    let described = args.iter().map(|a| a.to_string_lossy()).collect::<Vec<_>>().join(" ");
    let status = in_foreground(launch("cargo").args(args))?;
    if !status.success() {
        bail!("cargo {described} failed");
    }
    Ok(())
}

/// Installs a program from crates.io in this version, unless it is in the cache.
pub(crate) fn tool(name: &str, version: &str) -> Result<PathBuf> {
    let root = programs::cache()?.join(format!("{name}-{version}"));
    let program = root.join("bin").join(name);
    if !program.is_file() {
        let step = Step::start(format!("building {name} {version} (once)"));
        // The debug profile builds faster, and these programs only start the compiler.
        run(["install", "--quiet", "--locked", "--debug"].map(OsString::from).into_iter().chain([
            "--root".into(),
            root.into_os_string(),
            format!("{name}@{version}").into(),
        ]))?;
        step.done();
    }
    Ok(program)
}

/// `PATH` with the directory of this program in front, so that Cargo finds it as a subcommand.
pub(crate) fn path_with(program: &Path) -> Result<OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directory = program.parent().map(Path::to_owned);
    Ok(std::env::join_paths(directory.into_iter().chain(std::env::split_paths(&path)))?)
}

/// Runs a program on our terminal to its end.
pub(crate) fn in_foreground(launch: Launch) -> Result<ExitStatus> {
    Process::start(launch)?.wait()
}

#[cfg(test)]
mod tests {
    use super::is_set_by_cargo_run;

    #[test]
    fn variables_set_by_cargo_run_are_removed() {
        for key in [
            "CARGO_MANIFEST_DIR",
            "CARGO_MANIFEST_PATH",
            "CARGO_PKG_NAME",
            "CARGO_PKG_VERSION_MAJOR",
            "CARGO_CRATE_NAME",
        ] {
            assert!(is_set_by_cargo_run(key.as_ref()), "{key}");
        }
    }

    /// `cargo test` sets the same variables for this test as `cargo run` for xtask, and a newer Cargo may set more.
    #[test]
    fn nested_cargo_inherits_only_variables_of_users() {
        assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some(), "not started by Cargo");
        let names = ["CARGO_HOME", "CARGO_INCREMENTAL", "CARGO_LOG", "CARGO_ENCODED_RUSTFLAGS"];
        let prefixes = ["BUILD_", "HTTP_", "NET_", "PROFILE_", "REGISTRIES_", "REGISTRY_", "TARGET_", "TERM_"];
        let is_of_user = |key: &str| {
            names.contains(&key) || prefixes.iter().any(|prefix| key.trim_start_matches("CARGO_").starts_with(prefix))
        };
        let inherited = std::env::vars_os().map(|(key, _)| key).filter(|key| !is_set_by_cargo_run(key));
        let inherited = inherited.filter_map(|key| key.into_string().ok()).filter(|key| key.starts_with("CARGO_"));
        assert_eq!(inherited.filter(|key| !is_of_user(key)).collect::<Vec<_>>(), Vec::<String>::new());
    }

    #[test]
    fn variables_set_by_users_are_kept() {
        for key in [
            "CARGO",
            "CARGO_HOME",
            "CARGO_INCREMENTAL",
            "CARGO_TARGET_DIR",
            "CARGO_TERM_COLOR",
            "CARGO_BUILD_JOBS",
            "RUSTUP_HOME",
            "RUSTUP_TOOLCHAIN",
            "PATH",
        ] {
            assert!(!is_set_by_cargo_run(key.as_ref()), "{key}");
        }
    }
}
