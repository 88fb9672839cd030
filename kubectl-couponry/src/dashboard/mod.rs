//! `kubectl couponry dashboard`: a page about all events, on loopback, with the caller's own permissions.
//!
//! [`feeds`] fill the [`board`], from which [`routes`] serve the pages; [`access`] decides which browser may use it.
//! [`rates`] are computed from the [`exposition`] of the pods; [`event_view`] is an event as the pages show it.

mod access;
mod board;
mod event_view;
mod exposition;
mod feeds;
mod rates;
mod routes;

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::{Command, ExitCode, Stdio},
    sync::Arc,
};

use anyhow::Context as _;
use clap::Args;
use couponry_output::{Stderr, Stdout};
use kube::api::ListParams;
use serde_json::json;
use tokio::net::TcpListener;

use self::{access::Access, board::Board, routes::Dashboard};
use crate::cluster::Cluster;

#[derive(Debug, Args)]
pub(crate) struct DashboardArgs {
    /// Port on 127.0.0.1. Default: a free port.
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "PORT")]
    port: u16,
    /// Only print the link; do not open it in the browser.
    #[arg(long)]
    no_browser: bool,
}

impl DashboardArgs {
    pub(crate) async fn run(self, cluster: Cluster) -> anyhow::Result<ExitCode> {
        // Errors of the kubeconfig and of the installation are reported at once.
        let first = cluster.events().list(&ListParams::default().limit(1)).await;
        first.map_err(|error| cluster.explain(error, "list"))?;
        let user = cluster.own_user().await.unwrap_or_default();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
        let access = Arc::new(Access::new(listener.local_addr().context("cannot determine the port")?));

        let identity = json!({"user": user, "namespace": cluster.namespace, "server": cluster.server()});
        let namespace = cluster.namespace.clone();
        let dashboard = Arc::new(Dashboard { cluster, board: Board::default(), identity });
        let router = routes::router(dashboard.clone(), access.clone());
        let url = access.url();
        writeln!(
            Stdout,
            "The dashboard of the namespace {namespace}, until Ctrl-C; the link works once:\n\n  {url}\n"
        )?;
        if !self.no_browser && console::user_attended() {
            open_in_browser(&url);
        }
        tokio::select! {
            served = axum::serve(listener, router) => served.context("cannot serve the dashboard")?,
            () = feeds::watch_events(&dashboard.cluster, &dashboard.board) => {}
            () = feeds::poll_pods(&dashboard.cluster, &dashboard.board) => {}
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn open_in_browser(url: &str) {
    let program = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let started =
        Command::new(program).arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    if started.is_err() {
        writeln!(Stderr, "cannot start a browser with {program}: open the link");
    }
}
