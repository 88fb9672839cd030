//! `cargo xtask e2e`: end-to-end tests of an installation on a cluster.

mod browsers;
mod curl;
mod dashboard;
mod environment;
mod lifecycle;
mod load;
mod plugin;
mod redemption;
mod release;
mod rollout;
mod scaling;
mod tutorial;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;
use couponry_testbed::progress::format_duration;

use crate::{cluster_backends, signals};
use environment::Environment;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Run only these scenarios. All but `tutorial` need the installation, which is made before the first of them.
    #[arg(value_name = "SCENARIO", value_parser = clap::builder::PossibleValuesParser::new(SCENARIOS.map(|scenario| scenario.name)))]
    scenarios: Vec<String>,
    /// Keep the cluster running until Ctrl-C at the end, also after a failure.
    #[arg(long)]
    keep: bool,
    /// Build the images with the debug profile, which takes a third of the time.
    #[arg(long)]
    debug_images: bool,
}

/// A test of a running installation, which it leaves in working order. Only the tutorial installs and uninstalls by
/// itself.
struct Scenario {
    name: &'static str,
    about: &'static str,
    run: fn(&Environment) -> Result<()>,
}

const SCENARIOS: [Scenario; 10] = [
    Scenario { name: "tutorial", about: "the commands of README.md and of the tutorial", run: tutorial::run },
    Scenario {
        name: "scaling",
        about: "issuers are scaled up before the start of an event and down after its end",
        run: scaling::run,
    },
    Scenario { name: "sold-out", about: "an event sells out through the ingress", run: load::run },
    Scenario { name: "plugin", about: "kubectl couponry on the cluster", run: plugin::run },
    Scenario {
        name: "lifecycle",
        about: "pause, resume, top up, close, delete, and recreate an event",
        run: lifecycle::run,
    },
    Scenario {
        name: "redemption",
        about: "a shop redeems coupons with the tokens of its accounts",
        run: redemption::run,
    },
    Scenario {
        name: "browsers",
        about: "the event page, the state of an event, admission and drops through the ingress",
        run: browsers::run,
    },
    Scenario { name: "failover", about: "the leading operator is killed during a preload", run: lifecycle::failover },
    Scenario { name: "rollout", about: "restarts, an upgrade and a rollback under load", run: rollout::run },
    Scenario {
        name: "uninstall",
        about: "uninstall, install again, and delete the namespace",
        run: release::uninstall,
    },
];

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let started = Instant::now();
    let environment = Environment::start(options.debug_images)?;
    let result = run_scenarios(&environment, &options.scenarios);
    if let Err(error) = &result {
        signals::block_if_interrupted();
        eprintln!("error: {error:#}\n");
        environment.print_diagnostics();
    }
    if options.keep {
        println!();
        cluster_backends::print_cluster_access(&environment.cluster);
        environment.backends.print_install_commands(&environment.cluster);
        signals::set_expected();
        loop {
            std::thread::park();
        }
    }
    drop(environment);
    result?;
    println!("\nAll scenarios passed in {}.", format_duration(started.elapsed()));
    Ok(ExitCode::SUCCESS)
}

fn run_scenarios(environment: &Environment, selected: &[String]) -> Result<()> {
    let mut is_installed = false;
    for Scenario { name, about, run } in SCENARIOS {
        if !selected.is_empty() && !selected.iter().any(|selected| selected == name) {
            continue;
        }
        if !is_installed && name != SCENARIOS[0].name {
            environment.install()?;
            is_installed = true;
        }
        println!("\n== {name}: {about}");
        let started = Instant::now();
        run(environment).with_context(|| format!("scenario {name} failed"))?;
        println!("== {name} passed ({})", format_duration(started.elapsed()));
    }
    Ok(())
}
