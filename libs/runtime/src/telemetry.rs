//! Logs on standard error and, optionally, traces to an OpenTelemetry collector.

use std::{
    io::{self, IsTerminal as _},
    time::Duration,
};

use axum::http::Uri;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::{Level, Metadata, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{EnvFilter, Layer, Registry, filter::FilterFn, fmt, layer::SubscriberExt as _};

use crate::otlp;

/// How long the last spans may take to be exported at the end of the process.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// Flags of logging and tracing.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Logs and traces")]
pub struct TelemetryArgs {
    /// Log filter: a level (error, warn, info, debug, trace), or a list such as `info,couponry_redis=debug`.
    #[arg(long, env = "RUST_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,
    /// Log format: `text` for people, `json` for machines.
    #[arg(long, env = "LOG_FORMAT", default_value = "text", value_enum)]
    pub log_format: LogFormat,
    /// Base URL of the OpenTelemetry collector that receives spans (OTLP over HTTP): `http://HOST:4318`. Off by
    /// default. The standard variables `OTEL_TRACES_SAMPLER` and `OTEL_RESOURCE_ATTRIBUTES` apply.
    #[arg(long, env, value_name = "URL", value_parser = otlp::parse_endpoint)]
    pub otlp_endpoint: Option<Uri>,
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One readable line.
    Text,
    /// One JSON object.
    Json,
}

/// Why telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is malformed.
    #[error("--log {filter:?} is not a valid filter")]
    Filter {
        /// The value of the flag.
        filter: String,
        /// The parser's error.
        source: tracing_subscriber::filter::ParseError,
    },
    /// A directive of the filter has no level. `EnvFilter` would take a misspelled level for a module name and log
    /// nothing else.
    #[error(
        "--log {filter:?}: {directive:?} is not a valid level: use error, warn, info, debug, trace or off, or \
         MODULE=LEVEL for one module"
    )]
    NoLevel {
        /// The value of the flag.
        filter: String,
        /// The directive without a level.
        directive: String,
    },
    /// The exporter of spans could not be created.
    #[error("--otlp-endpoint: cannot create the exporter")]
    Exporter(#[from] otlp::ExporterError),
    /// A subscriber exists already.
    #[error("cannot install the subscriber of logs")]
    Subscriber(#[from] tracing::subscriber::SetGlobalDefaultError),
}

/// Flushes the spans that are not exported yet when it is dropped.
#[derive(Debug)]
#[must_use = "spans are lost if it is dropped before the end of the process"]
pub struct TelemetryGuard(Option<SdkTracerProvider>);

impl Drop for TelemetryGuard {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.0.take().map(|provider| provider.shutdown_with_timeout(FLUSH_TIMEOUT)) {
            tracing::warn!(%error, "cannot export the last spans");
        }
    }
}

impl TelemetryArgs {
    /// Installs the logs of the process and, with --otlp-endpoint, the export of spans as the service `service`.
    pub fn init(&self, service: &'static str) -> Result<TelemetryGuard, TelemetryError> {
        let filter = parse_filter(&self.log)?;
        let lines = fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
        let lines = match self.log_format {
            LogFormat::Text => lines.boxed(),
            LogFormat::Json => lines.json().flatten_event(true).boxed(),
        };
        let Some(endpoint) = &self.otlp_endpoint else {
            install(Registry::default().with(lines).with(filter))?;
            return Ok(TelemetryGuard(None));
        };
        let provider = otlp::provider(endpoint, service)?;
        let spans = tracing_opentelemetry::layer()
            .with_tracer(provider.tracer(service))
            .with_filter(FilterFn::new(is_exported).with_max_level_hint(LevelFilter::DEBUG));
        install(Registry::default().with(lines.with_filter(filter)).with(spans))?;
        Ok(TelemetryGuard(Some(provider)))
    }
}

fn install(subscriber: impl Subscriber + Send + Sync) -> Result<(), TelemetryError> {
    Ok(tracing::subscriber::set_global_default(subscriber)?)
}

/// Spans of the workspace's own crates, with the warnings and errors in them.
fn is_exported(metadata: &Metadata<'_>) -> bool {
    metadata.target().starts_with("couponry") && (metadata.is_span() || *metadata.level() <= Level::WARN)
}

/// Parses a filter in which every directive has a level.
fn parse_filter(text: &str) -> Result<EnvFilter, TelemetryError> {
    let directives: Vec<&str> = text.split(',').map(str::trim).filter(|directive| !directive.is_empty()).collect();
    if let Some(directive) = directives.iter().find(|directive| !has_level(directive)) {
        return Err(TelemetryError::NoLevel { filter: text.to_owned(), directive: (*directive).to_owned() });
    }
    EnvFilter::try_new(directives.join(","))
        .map_err(|source| TelemetryError::Filter { filter: text.to_owned(), source })
}

fn has_level(directive: &str) -> bool {
    // The braces of a span may contain an equals sign as well.
    let level = directive.rsplit_once('=').map_or(directive, |(_, level)| level);
    level.trim().parse::<LevelFilter>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filter_with_a_directive_without_level_is_rejected() {
        for valid in
            ["info", "WARN", "off", "", "info,stock=debug", "info, stock=debug,", "a::b=trace", "[span{a=1}]=info,warn"]
        {
            assert!(parse_filter(valid).is_ok(), "{valid:?}: {:?}", parse_filter(valid));
        }
        for (invalid, directive) in [
            ("verbose", "verbose"),
            ("info,stock", "stock"),
            ("stock=loud", "stock=loud"),
            ("[span{a=1}]", "[span{a=1}]"),
        ] {
            let error = parse_filter(invalid).unwrap_err().to_string();
            let expected = format!("{directive:?} is not a valid level: use error, warn, info");
            assert!(error.contains(&expected), "{invalid:?}: {error}");
        }
    }
}
