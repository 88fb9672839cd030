//! `kubectl couponry report`: the course of an event, without users and codes.
//!
//! The operator computes [`figures`] from Postgres; [`issuer_metrics`] reads latency and outcomes from the issuers.
//! [`text`] and [`svg`] format them.

mod figures;
mod issuer_metrics;
mod svg;
mod text;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use couponry_output::Stdout;
use serde_json::Value;

use self::{figures::Figures, issuer_metrics::IssuerMetrics};
use crate::{
    cluster::{Cluster, event_name},
    exec,
};

#[derive(Debug, Args)]
pub(crate) struct Report {
    /// Name of the event.
    #[arg(value_parser = event_name)]
    name: String,
    /// UID of an event whose resource is deleted.
    #[arg(long, value_name = "UID")]
    uid: Option<String>,
    /// Output format.
    #[arg(long, short, value_enum, default_value = "text", value_name = "FORMAT")]
    output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Human-readable text.
    Text,
    /// One JSON value.
    Json,
    /// A plot of the issued coupons per second.
    Svg,
}

impl Report {
    pub(crate) async fn run(self, cluster: &Cluster) -> anyhow::Result<ExitCode> {
        let Self { name, uid, output } = self;
        let mut args = vec!["report", &name];
        args.extend(uid.iter().flat_map(|uid| ["--uid", uid]));
        let (code, reported) = exec::capture(cluster, &args).await?;
        if code != 0 {
            // The command has printed its error.
            return Ok(ExitCode::from(code));
        }
        let mut report: Value = serde_json::from_slice(&reported).context("the operator has not returned a report")?;
        let figures =
            Figures::parse(&report).context("the report of the operator lacks a figure: upgrade the plugin")?;
        match output {
            Format::Svg => write!(Stdout, "{}", svg::format(&figures))?,
            Format::Text => {
                let metrics = IssuerMetrics::read(cluster).await;
                write!(Stdout, "{}", text::format(&figures, &metrics))?;
            }
            Format::Json => {
                report["issuers"] = IssuerMetrics::read(cluster).await.map_or(Value::Null, |metrics| metrics.json());
                writeln!(Stdout, "{report:#}")?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
