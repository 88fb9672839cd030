//! `kubectl couponry status`.

use std::process::ExitCode;

use clap::Args;
use couponry_crds::CouponEvent;
use couponry_output::{Stderr, Stdout};
use jiff::Timestamp;
use kube::{Api, api::ListParams, core::DeserializeGuard};

use crate::{
    cluster::{Cluster, event_name},
    events_table::events_table,
    json,
    output_format::OutputFormat,
    view, watch,
};

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Name of the event. Default: all events.
    #[arg(value_parser = event_name)]
    name: Option<String>,
    /// Update the display until Ctrl-C, or until the named event is deleted. If standard output is not a terminal,
    /// print a line per change.
    #[arg(long, short)]
    watch: bool,
    /// List the events of all namespaces.
    #[arg(long, short = 'A', conflicts_with = "name")]
    all_namespaces: bool,
    /// Output format.
    #[arg(long, short, value_enum, default_value = "text", value_name = "FORMAT", conflicts_with = "watch")]
    output: OutputFormat,
}

impl Status {
    pub(crate) async fn run(self, cluster: &Cluster) -> anyhow::Result<ExitCode> {
        match &self.name {
            name if self.watch => watch::run(self.api(cluster), cluster, name.as_deref(), self.all_namespaces).await?,
            None => self.list(cluster).await?,
            Some(name) => self.show(&cluster.event(name).await?)?,
        }
        Ok(ExitCode::SUCCESS)
    }

    fn show(&self, event: &CouponEvent) -> anyhow::Result<()> {
        match self.output {
            OutputFormat::Text => writeln!(Stdout, "{}", view::details(event, Timestamp::now()).join("\n"))?,
            OutputFormat::Json => writeln!(Stdout, "{:#}", json::event(event)?)?,
        }
        Ok(())
    }

    async fn list(&self, cluster: &Cluster) -> anyhow::Result<()> {
        let events = self.api(cluster).list(&ListParams::default()).await;
        let events = events.map_err(|error| cluster.explain(error, "list"))?.items;
        match self.output {
            OutputFormat::Json => writeln!(Stdout, "{:#}", json::events(&events)?)?,
            OutputFormat::Text if events.is_empty() => writeln!(Stderr, "{}", self.none_found(cluster)),
            OutputFormat::Text => {
                write!(Stdout, "{}", events_table(&events, self.all_namespaces, Timestamp::now()))?;
            }
        }
        Ok(())
    }

    fn none_found(&self, cluster: &Cluster) -> String {
        if self.all_namespaces {
            "No events found in the cluster.".to_owned()
        } else {
            format!("No events found in the namespace {}.", cluster.namespace)
        }
    }

    fn api(&self, cluster: &Cluster) -> Api<DeserializeGuard<CouponEvent>> {
        if self.all_namespaces { Api::all(cluster.client.clone()) } else { cluster.events() }
    }
}
