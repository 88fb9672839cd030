//! `kubectl couponry dashboard`: a page about all events, on loopback, with the caller's own permissions.
//!
//! The feeds ([`event_feeds`], [`pod_feed`]) fill the [`board`] with what they follow ([`object_watch`]); [`routes`]
//! serve the pages from it, and [`event_change`] applies their changes. [`access`] decides which browser may use it;
//! [`browser_launch`] opens it. [`rates`] are computed from the metrics of the pods; [`event_view`] is an event
//! as the pages show it.

mod access;
mod board;
mod browser_launch;
mod event_change;
mod event_feeds;
mod event_view;
mod object_watch;
mod pod_feed;
mod rates;
mod routes;

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::ExitCode,
    sync::Arc,
};

use anyhow::Context as _;
use clap::Args;
use couponry_output::{Stderr, Stdout};
use kube::api::ListParams;
use serde_json::json;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

use self::{access::Access, board::Board, browser_launch::LinkFile, routes::Dashboard};
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
        let link_file = if !self.no_browser && console::user_attended() { open_in_browser(&url) } else { None };
        let remove_link_file = async {
            access.redeemed().await;
            drop(link_file);
            std::future::pending::<()>().await;
        };
        let [mut terminate, mut hang_up] = [
            signal(SignalKind::terminate()).context("cannot handle signals")?,
            signal(SignalKind::hangup()).context("cannot handle signals")?,
        ];
        let (cluster, board) = (&dashboard.cluster, &dashboard.board);
        tokio::select! {
            served = axum::serve(listener, router) => served.context("cannot serve the dashboard")?,
            () = event_feeds::follow_events(cluster, board) => {}
            () = event_feeds::follow_kubernetes_events(cluster, board) => {}
            () = pod_feed::run(cluster, board) => {}
            () = remove_link_file => {}
            // The file with the link is removed.
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
            _ = hang_up.recv() => {}
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn open_in_browser(url: &str) -> Option<LinkFile> {
    match LinkFile::create(url) {
        Ok(file) if file.open() => Some(file),
        Ok(_) => {
            writeln!(Stderr, "cannot start a browser with {}: open the link", browser_launch::PROGRAM);
            None
        }
        Err(error) => {
            writeln!(Stderr, "cannot create the file that opens the link in the browser: {error}; open the link");
            None
        }
    }
}
