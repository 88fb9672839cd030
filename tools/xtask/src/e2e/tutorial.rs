//! Executes the commands of README.md and of the tutorial, and compares their output with what the pages promise.

use std::fs;

use anyhow::{Context, Result, bail, ensure};
use couponry_testbed::Process;
use couponry_testbed::process::Launch;
use couponry_testbed::scratch::Scratch;

use super::environment::Environment;
use crate::cargo;
use crate::cluster_backends::NAMESPACE;

/// Printed before each block of commands, to find its output.
const MARKER: &str = "== block ";

/// Commands, and the lines which they must print.
#[derive(Debug, Default, PartialEq, Eq)]
struct Block {
    script: String,
    expected: Vec<String>,
}

pub(super) fn run(environment: &Environment) -> Result<()> {
    environment.backends.write_shell_environment(&environment.cluster, environment.programs())?;
    execute("docs/tutorial/README.md", "")?;
    execute("docs/tutorial/event-day.md", "")?;
    let clean_up = format!(
        "kubectl -n {NAMESPACE} delete couponevent summer && helm -n {NAMESPACE} uninstall couponry --wait && \
         kubectl delete namespace {NAMESPACE}"
    );
    execute("README.md", &clean_up)
}

/// Executes all blocks of a page in one shell, so that variables, functions and background jobs stay.
fn execute(page: &str, clean_up: &str) -> Result<()> {
    let text = fs::read_to_string(cargo::root().join(page)).with_context(|| format!("cannot read {page}"))?;
    let blocks = parse(&text);
    ensure!(!blocks.is_empty(), "{page} has no commands");
    let mut script = "set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n".to_owned();
    for (index, block) in blocks.iter().enumerate() {
        script.extend(["echo '", MARKER, &index.to_string(), "'\n", &block.script]);
    }
    script += clean_up;
    let scratch = Scratch::new("tutorial")?;
    let log = scratch.path().join("output");
    let shell = Launch::new(page, "bash", &log).args(["-c", &script]).dir(cargo::root());
    let status = Process::start(shell)?.wait()?;
    let output = fs::read_to_string(&log).with_context(|| format!("cannot read {}", log.display()))?;
    println!("{output}");
    ensure!(status.success(), "a command of {page} failed");
    for (index, block) in blocks.iter().enumerate() {
        let start = output.find(&format!("{MARKER}{index}\n")).context("a block was not executed")?;
        let mut lines = output[start..].lines().skip(1).take_while(|line| !line.starts_with(MARKER));
        for expected in &block.expected {
            if !lines.any(|line| matches(expected, line)) {
                bail!("{page}: the output of these commands lacks the line {expected:?}:\n{}", block.script);
            }
        }
    }
    Ok(())
}

/// The blocks marked `sh`, each with the lines of the block marked `text` which follows.
fn parse(page: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut fence = None;
    for line in page.lines() {
        match (line.strip_prefix("```"), fence) {
            (Some(language), None) => {
                fence = Some(language);
                if language == "sh" {
                    blocks.push(Block::default());
                }
            }
            (Some(_), Some(_)) => fence = None,
            (None, Some("sh")) => blocks.last_mut().expect("one was added").script.extend([line, "\n"]),
            (None, Some("text")) => blocks.last_mut().expect("commands come first").expected.push(line.to_owned()),
            (None, _) => {}
        }
    }
    blocks
}

/// Whether a line is what the page shows. `…` stands for any text.
fn matches(expected: &str, line: &str) -> bool {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (expected, line) = (words(expected), words(line));
    let mut rest = line.as_str();
    let mut parts = expected.split('…').map(str::trim).peekable();
    let Some(start) = parts.next() else { return false };
    let Some(after) = rest.strip_prefix(start) else { return false };
    rest = after;
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_returns_commands_with_their_expected_output() {
        let page = "text\n```sh\nls a\nls b\n```\n```text\na …\nb\n```\n```\nnot executed\n```\n```sh\npwd\n```\n";
        let expected = vec!["a …".to_owned(), "b".to_owned()];
        assert_eq!(
            parse(page),
            [Block { script: "ls a\nls b\n".into(), expected }, Block { script: "pwd\n".into(), expected: Vec::new() },]
        );
    }

    #[test]
    fn matches_treats_an_ellipsis_as_any_text() {
        for (expected, line, result) in [
            ("a … c", "a  b   c", true),
            ("… anna …", " X | anna | 1", true),
            ("(3 rows)", "(3 rows)", true),
            ("(3 rows)", "(3 rows) x", false),
            ("a … c", "a b", false),
            ("…SoldOut…", "first SoldOut", true),
        ] {
            assert_eq!(matches(expected, line), result, "{expected} {line}");
        }
    }
}
