//! Completion of `kubectl couponry` in a shell.
//!
//! kubectl calls the program `kubectl_complete-couponry` with the words of the command line. It prints a candidate per
//! line, with its description after a tab, and at the end a directive. A link of that name to the plugin is enough.

use std::{ffi::OsStr, path::Path, time::Duration};

use clap::{Arg, Command, FromArgMatches as _, builder::StyledStr};
use couponry_output::{Stdout, StdoutError};
use kube::{ResourceExt, api::ListParams};

use crate::cluster::ClusterArgs;

/// Name under which kubectl calls the plugin.
const PROGRAM: &str = "kubectl_complete-couponry";
/// How long to wait for the names of events.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Directive of kubectl: the shell must not complete names of files.
const NO_FILES: &str = ":4";

/// Whether kubectl calls this program to complete a command line.
pub(crate) fn is_requested(program: Option<&OsStr>) -> bool {
    program.and_then(|path| Path::new(path).file_name()) == Some(OsStr::new(PROGRAM))
}

/// What can replace the last word.
#[derive(Debug, PartialEq, Eq)]
enum Candidates {
    /// Words with their descriptions.
    Words(Vec<(String, String)>),
    /// The events of the namespace.
    EventNames,
}

/// Prints what can replace the last word.
pub(crate) async fn run(command: &Command, words: &[String]) -> Result<(), StdoutError> {
    let Some((last, before)) = words.split_last() else { return Ok(()) };
    let candidates = match candidates(command, before, last) {
        Candidates::Words(words) => words,
        Candidates::EventNames => {
            event_names(command, before).await.into_iter().map(|it| (it, String::new())).collect()
        }
    };
    for (word, description) in candidates.iter().filter(|(word, _)| word.starts_with(last)) {
        let line = format!("{word}\t{description}");
        writeln!(Stdout, "{}", line.trim_end())?;
    }
    writeln!(Stdout, "{NO_FILES}")
}

fn candidates(command: &Command, before: &[String], last: &str) -> Candidates {
    // Adds the global flags to the subcommands.
    let mut command = command.clone();
    command.build();
    let mut command = &command;
    let mut positionals = 0;
    let mut option: Option<&Arg> = None;
    for word in before {
        if option.take().is_some() {
            continue;
        }
        if word.starts_with('-') {
            option = option_with_value(command, word);
        } else if let Some(subcommand) = command.find_subcommand(word) {
            command = subcommand;
        } else {
            positionals += 1;
        }
    }
    let value = match option {
        Some(option) => Some(option),
        None => command.get_positionals().nth(positionals),
    };
    if option.is_none() && last.starts_with('-') {
        let options = command.get_arguments().filter(|arg| !arg.is_hide_set());
        Candidates::Words(
            options.filter_map(|arg| Some((format!("--{}", arg.get_long()?), help(arg.get_help())))).collect(),
        )
    } else if option.is_none() && command.has_subcommands() {
        let subcommands = command.get_subcommands().filter(|it| !it.is_hide_set());
        Candidates::Words(subcommands.map(|it| (it.get_name().to_owned(), help(it.get_about()))).collect())
    } else if value.is_some_and(|value| value.get_id() == "name" || value.get_id() == "event") {
        Candidates::EventNames
    } else {
        let values = value.map(Arg::get_possible_values).unwrap_or_default();
        Candidates::Words(values.iter().map(|it| (it.get_name().to_owned(), help(it.get_help()))).collect())
    }
}

/// The option of this word, if the next word is its value.
fn option_with_value<'a>(command: &'a Command, word: &str) -> Option<&'a Arg> {
    let long = word.strip_prefix("--");
    let short = word.strip_prefix('-').and_then(|name| name.chars().next().filter(|_| name.len() == 1));
    let is_named =
        |arg: &&Arg| long.map_or(short.is_some() && arg.get_short() == short, |long| arg.get_long() == Some(long));
    command.get_arguments().find(is_named).filter(|arg| arg.get_action().takes_values())
}

/// The first sentence of a help text.
fn help(text: Option<&StyledStr>) -> String {
    let text = text.map(ToString::to_string).unwrap_or_default();
    text.split(". ").next().unwrap_or_default().trim_end_matches('.').to_owned()
}

/// Empty if the cluster cannot be reached: a shell has no place for an error.
async fn event_names(command: &Command, before: &[String]) -> Vec<String> {
    let names = async {
        let words = std::iter::once(PROGRAM).chain(before.iter().map(String::as_str));
        let matches = command.clone().ignore_errors(true).try_get_matches_from(words)?;
        let cluster = ClusterArgs::from_arg_matches(&matches)?.connect().await?;
        let events = cluster.events().list_metadata(&ListParams::default()).await?;
        anyhow::Ok(events.iter().map(ResourceExt::name_any).collect())
    };
    tokio::time::timeout(TIMEOUT, names).await.ok().and_then(Result::ok).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::Cli;

    fn words(line: &str) -> Vec<String> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let (last, before) = words.split_last().unwrap();
        match candidates(&Cli::command(), before, last) {
            Candidates::Words(words) => words.into_iter().map(|(word, _)| word).collect(),
            Candidates::EventNames => vec!["EVENTS".to_owned()],
        }
    }

    #[test]
    fn candidates_fit_the_position_in_the_command_line() {
        for line in ["", "-n shop ", "--as=eve "] {
            let commands = words(line);
            assert!(commands.contains(&"status".to_owned()) && commands.contains(&"purge".to_owned()), "{commands:?}");
        }
        for line in ["status ", "pause -n shop s", "export ", "replay-dead-letters --event "] {
            assert_eq!(words(line), ["EVENTS"], "{line}");
        }
        assert_eq!(words("status -o "), ["text", "json"]);
        assert_eq!(words("export summer "), ["coupons", "issuances", "redemptions"]);
        assert_eq!(words("topup summer "), Vec::<String>::new());
        assert_eq!(words("status -n "), Vec::<String>::new());
        let options = words("status --");
        assert!(options.contains(&"--watch".to_owned()) && options.contains(&"--namespace".to_owned()), "{options:?}");
    }
}
