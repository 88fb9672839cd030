//! `cargo xtask test`.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, IsTerminal, Read};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use couponry_testbed::process::Launch;
use couponry_testbed::{Process, programs, shared};

use crate::servers::Servers;
use crate::{cargo, chaos, signals};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Arguments of `cargo test`: `cargo xtask test -- -p couponry-redis` runs the tests of one crate, and `cargo xtask
    /// test -- text -- --nocapture` the tests whose names contain a text, with their output.
    #[arg(last = true)]
    cargo_test: Vec<String>,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    programs::install()?;
    let bin = cargo::build_programs()?;

    let (for_cargo, for_tests) = split(&options.cargo_test);
    let mut test = vec!["test", "--no-fail-fast"];
    if for_cargo.iter().any(|arg| arg.starts_with("-p") || arg.starts_with("--package")) {
        // Without this package the feature would be disabled for the selected crates, and their programs rebuilt.
        test.extend(["-p", "couponry-failpoint"]);
    } else {
        test.push("--workspace");
    }
    test.extend(cargo::FOR_TESTS);
    test.extend(for_cargo.iter().map(String::as_str));
    // Compiled before the servers start, so that they do not run idle.
    cargo::run(test.iter().copied().chain(["--no-run"]))?;

    let servers = Servers::start()?;
    let (reader, writer) = io::pipe().context("cannot create a pipe")?;
    let color = if io::stdout().is_terminal() { "always" } else { "auto" };
    let tests = Process::start(
        cargo::as_typed_by_user(Launch::into_pipe("cargo test", cargo::program(), writer))
            .args(test)
            .args(for_tests.iter().cloned())
            .dir(cargo::root())
            .env("CARGO_TERM_COLOR", std::env::var_os("CARGO_TERM_COLOR").unwrap_or_else(|| color.into()))
            .env(shared::REDIS, servers.redis.url())
            .env(shared::POSTGRES, servers.postgres.url())
            .env(shared::KAFKA, servers.kafka.brokers())
            .env(shared::KUBECONFIG, servers.kubernetes.kubeconfig())
            .env(shared::BIN, bin),
    )?;
    let echo = std::thread::spawn(move || Tally::echo(reader));
    let status = tests.wait()?;
    // The pipe ends when its last writer is closed, and `tests` has one.
    drop(tests);
    let tally = echo.join().ok().context("the thread which reads the output of the tests panicked")?;
    drop(servers);
    signals::block_if_interrupted();
    tally.print();
    if options.cargo_test.is_empty() {
        println!("\nrunning every fault once, as `cargo xtask chaos --once` does");
        let kept = chaos::once()?;
        println!("{}", if kept { "chaos: every guarantee held" } else { "chaos: guarantees were VIOLATED" });
        if !kept {
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::from(101) })
}

/// Splits into the arguments of Cargo, and those of the test programs with the leading `--`.
fn split(args: &[String]) -> (&[String], &[String]) {
    args.split_at(args.iter().position(|arg| arg == "--").unwrap_or(args.len()))
}

/// The numbers of tests by kind and result, from the output of `cargo test`.
#[derive(Debug, Default)]
struct Tally {
    kind: &'static str,
    counts: BTreeMap<&'static str, Counts>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Tally {
    /// Prints the output and counts the results.
    fn echo(output: impl Read) -> Self {
        let mut tally = Self::default();
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            tally.count(&line);
        }
        tally
    }

    fn count(&mut self, line: &str) {
        // There may be color codes between the words, so each word is searched separately.
        if line.contains("Running") && line.contains(" unittests ") {
            self.kind = "unit";
        } else if line.contains("Running") && line.contains(" tests/") {
            self.kind = "integration";
        } else if line.contains("Doc-tests") {
            self.kind = "documentation";
        } else if line.starts_with("test result: ") {
            let count = |what| {
                let before = line.split(what).next()?;
                before.rsplit([' ', '.']).find(|word| !word.is_empty())?.parse::<u64>().ok()
            };
            let counts = self.counts.entry(self.kind).or_default();
            counts.passed += count(" passed").unwrap_or(0);
            counts.failed += count(" failed").unwrap_or(0);
            counts.ignored += count(" ignored").unwrap_or(0);
        }
    }

    fn print(&self) {
        let sum = |of: fn(&Counts) -> u64| self.counts.values().map(of).sum::<u64>();
        let kinds: Vec<_> =
            self.counts.iter().map(|(kind, counts)| format!("{} {kind}", counts.passed + counts.failed)).collect();
        println!("\ntests by kind: {}", kinds.join(", "));
        println!("{} passed, {} failed, {} skipped", sum(|c| c.passed), sum(|c| c.failed), sum(|c| c.ignored));
    }
}

#[cfg(test)]
mod tests {
    use super::{Tally, split};

    #[test]
    fn output_of_cargo_test_is_counted_by_kind() {
        let output = "\u{1b}[1m\u{1b}[92m     Running\u{1b}[0m unittests src/lib.rs (target/debug/deps/a-1)\n\
                      test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s\n     \
                      Running tests/b.rs (target/debug/deps/b-1)\n\
                      test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1s\n   \
                      Doc-tests a\n\
                      test result: ok. 4 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n";
        let tally = Tally::echo(output.as_bytes());
        let found: Vec<_> = tally.counts.iter().map(|(kind, c)| (*kind, c.passed, c.failed, c.ignored)).collect();
        assert_eq!(found, [("documentation", 4, 0, 0), ("integration", 2, 3, 0), ("unit", 12, 0, 1)]);
    }

    #[test]
    fn arguments_after_second_separator_belong_to_test_programs() {
        let args = ["-p", "couponry-redis", "--", "--nocapture"].map(String::from);
        assert_eq!(split(&args), (&args[..2], &args[2..]));
        assert_eq!(split(&args[..2]), (&args[..2], &[][..]));
    }
}
