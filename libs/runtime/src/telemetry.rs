//! Logs, set up once at the start of a process.

use std::io::{self, IsTerminal};

use tracing_subscriber::{EnvFilter, filter::LevelFilter, fmt};

/// How a process logs.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Logs")]
pub struct Telemetry {
    /// What to log: a level (error, warn, info, debug, trace), or a list such as `info,stock=debug`.
    #[arg(long, env = "RUST_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,
    /// `text` for people, `json` for machines.
    #[arg(long, env = "LOG_FORMAT", default_value = "text", value_enum)]
    pub log_format: LogFormat,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One readable line.
    Text,
    /// One JSON object.
    Json,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter cannot be read.
    #[error("--log {filter:?} is no filter: {source}")]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// A part of the filter has no level. `EnvFilter` takes a mistyped level for the name of a module, and then logs nothing else.
    #[error(
        "--log {filter:?}: {part:?} is no level: write error, warn, info, debug, trace or off, for one module MODULE=LEVEL"
    )]
    NoLevel {
        /// What was given.
        filter: String,
        /// The part of it.
        part: String,
    },
    /// It was set up already.
    #[error("logging is already set up: {0}")]
    Twice(#[from] tracing::subscriber::SetGlobalDefaultError),
}

impl Telemetry {
    /// Sends the process's logs to standard error in the chosen form.
    pub fn init(&self) -> Result<(), TelemetryError> {
        let filter = filter(&self.log)?;
        let lines = fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
        match self.log_format {
            LogFormat::Text => tracing::subscriber::set_global_default(lines.finish())?,
            LogFormat::Json => tracing::subscriber::set_global_default(lines.json().flatten_event(true).finish())?,
        }
        Ok(())
    }
}

/// Reads a filter in which every part says a level.
fn filter(text: &str) -> Result<EnvFilter, TelemetryError> {
    let parts: Vec<&str> = text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    if let Some(part) = parts.iter().find(|part| !has_level(part)) {
        return Err(TelemetryError::NoLevel { filter: text.to_owned(), part: (*part).to_owned() });
    }
    EnvFilter::try_new(parts.join(",")).map_err(|source| TelemetryError::Filter { filter: text.to_owned(), source })
}

fn has_level(part: &str) -> bool {
    // An equals sign may also be inside of a span's braces.
    let level = part.rsplit_once('=').map_or(part, |(_, level)| level);
    level.trim().parse::<LevelFilter>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_filter_has_a_level() {
        for good in
            ["info", "WARN", "off", "", "info,stock=debug", "info, stock=debug,", "a::b=trace", "[span{a=1}]=info,warn"]
        {
            assert!(filter(good).is_ok(), "{good:?}: {:?}", filter(good));
        }
        for (bad, part) in [
            ("verbose", "verbose"),
            ("info,stock", "stock"),
            ("stock=loud", "stock=loud"),
            ("[span{a=1}]", "[span{a=1}]"),
        ] {
            let told = filter(bad).unwrap_err().to_string();
            assert!(told.contains(&format!("{part:?} is no level: write error, warn, info")), "{bad:?}: {told}");
        }
    }
}
