//! Logs, set up once at the start of a process.

use std::io::{self, IsTerminal};

use tracing_subscriber::{EnvFilter, fmt};

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
    /// It was set up already.
    #[error("logging is already set up: {0}")]
    Twice(#[from] tracing::subscriber::SetGlobalDefaultError),
}

impl Telemetry {
    /// Sends the process's logs to standard error in the chosen form.
    pub fn init(&self) -> Result<(), TelemetryError> {
        let filter = EnvFilter::try_new(&self.log)
            .map_err(|source| TelemetryError::Filter { filter: self.log.clone(), source })?;
        let lines = fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
        match self.log_format {
            LogFormat::Text => tracing::subscriber::set_global_default(lines.finish())?,
            LogFormat::Json => tracing::subscriber::set_global_default(lines.json().flatten_event(true).finish())?,
        }
        Ok(())
    }
}
