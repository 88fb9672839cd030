//! `cargo xtask cluster`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Subcommand;
use testbed::progress::Step;
use testbed::{Cluster, cluster, programs};

use crate::signals;

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Starts a cluster, says how to use it, and keeps it up until Ctrl-C.
    Up {
        /// Gives the node these images: archives as `cargo xtask images` writes them.
        #[arg(long, value_name = "ARCHIVE")]
        import: Vec<PathBuf>,
    },
    /// Removes what a cluster has left behind whose owner was killed with -9. The next `up` does so too.
    Down,
}

pub(crate) fn run(action: &Action) -> Result<ExitCode> {
    match action {
        Action::Up { import } => up(import),
        Action::Down => {
            let step = Step::start("removing what is left of a cluster");
            cluster::remove()?;
            step.done_with("nothing is left of a cluster");
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn up(archives: &[PathBuf]) -> Result<ExitCode> {
    programs::install_cluster()?;
    let cluster = Cluster::start()?;
    for archive in archives {
        let step = Step::start(format!("importing {}", archive.display()));
        cluster.import(archive)?;
        step.done();
    }
    say_how_to_go_on(&cluster);
    signals::are_expected();
    loop {
        cluster.check()?;
        std::thread::sleep(Duration::from_millis(500));
    }
}

fn say_how_to_go_on(cluster: &Cluster) {
    let kubectl = programs::kubernetes().map(|(_, kubectl)| kubectl);
    let directories: Vec<_> = [kubectl, programs::HELM.find()]
        .iter()
        .flatten()
        .filter_map(|program| Some(program.parent()?.display().to_string()))
        .collect();
    println!("The cluster stays up until Ctrl-C. In another terminal:\n");
    println!("  export KUBECONFIG={}", cluster.kubeconfig().display());
    println!("  export PATH={}:$PATH", directories.join(":"));
    println!("  kubectl get nodes\n");
    println!("  ingress    {}   (class contour; Gateway ingress in the namespace ingress)", cluster.ingress_url());
    println!("  this host  {}   (where pods reach servers that listen there)", cluster::HOST);
    println!("  logs       {}\n", Path::new(cluster.logs()).join("*.log").display());
}
