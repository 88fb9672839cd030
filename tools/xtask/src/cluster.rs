//! `cargo xtask cluster`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Subcommand;
use couponry_testbed::progress::Step;
use couponry_testbed::{Cluster, cluster, programs};

use crate::cluster_backends::{self, ClusterBackends};
use crate::images::{self, Images};
use crate::signals;

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Start a cluster, print how to use it, and run until Ctrl-C.
    Up {
        /// Image archives to import, as written by `cargo xtask images`.
        #[arg(long, value_name = "ARCHIVE")]
        import: Vec<PathBuf>,
        /// Also build and import the images of this workspace, start Redis, PostgreSQL and Kafka outside of the
        /// cluster, and print the commands which install the chart.
        #[arg(long)]
        servers: bool,
    },
    /// Remove the remains of a cluster whose owner was killed with SIGKILL. The next `up` does this too.
    Down,
}

pub(crate) fn run(action: &Action) -> Result<ExitCode> {
    match action {
        Action::Up { import, servers } => up(import, *servers),
        Action::Down => {
            let step = Step::start("removing the remains of a cluster");
            cluster::remove()?;
            step.done_with("no cluster remains");
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn up(archives: &[PathBuf], servers: bool) -> Result<ExitCode> {
    let images = if servers { Some(build_images()?) } else { None };
    programs::install_cluster()?;
    let cluster = Cluster::start()?;
    for archive in archives {
        let step = Step::start(format!("importing {}", archive.display()));
        cluster.import(archive)?;
        step.done();
    }
    let backends = images.as_ref().map(|images| ClusterBackends::start(&cluster, images)).transpose()?;
    cluster_backends::print_cluster_access(&cluster);
    if let (Some(backends), Some(images)) = (&backends, &images) {
        backends.write_shell_environment(&cluster, images.programs())?;
        println!("  or: source target/cluster.env\n");
        backends.print_install_commands(&cluster);
    }
    signals::set_expected();
    loop {
        cluster.check()?;
        std::thread::sleep(Duration::from_millis(500));
    }
}

fn build_images() -> Result<Images> {
    programs::install()?;
    images::build(false)
}
