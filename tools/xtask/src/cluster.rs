//! `cargo xtask cluster`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Subcommand;
use couponry_testbed::progress::Step;
use couponry_testbed::{Cluster, cluster, programs};

use crate::beside::{self, Beside};
use crate::images::{self, Images};
use crate::signals;

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Starts a cluster, says how to use it, and keeps it up until Ctrl-C.
    Up {
        /// Gives the node these images: archives as `cargo xtask images` writes them.
        #[arg(long, value_name = "ARCHIVE")]
        import: Vec<PathBuf>,
        /// Also builds and imports this workspace's images, starts Redis, Postgres and Kafka beside the cluster, and prints the
        /// commands that install the chart with them.
        #[arg(long)]
        servers: bool,
    },
    /// Removes what a cluster has left behind whose owner was killed with -9. The next `up` does so too.
    Down,
}

pub(crate) fn run(action: &Action) -> Result<ExitCode> {
    match action {
        Action::Up { import, servers } => up(import, *servers),
        Action::Down => {
            let step = Step::start("removing what is left of a cluster");
            cluster::remove()?;
            step.done_with("nothing is left of a cluster");
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn up(archives: &[PathBuf], servers: bool) -> Result<ExitCode> {
    let images = if servers { Some(images()?) } else { None };
    programs::install_cluster()?;
    let cluster = Cluster::start()?;
    for archive in archives {
        let step = Step::start(format!("importing {}", archive.display()));
        cluster.import(archive)?;
        step.done();
    }
    let beside = images.map(|images| Beside::start(&cluster, &images)).transpose()?;
    beside::say_how_to_go_on(&cluster);
    if let Some(beside) = &beside {
        beside.say_how_to_install(&cluster);
    }
    signals::are_expected();
    loop {
        cluster.check()?;
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// The programs that the servers and the images need, and the images.
fn images() -> Result<Images> {
    programs::install()?;
    images::build()
}
