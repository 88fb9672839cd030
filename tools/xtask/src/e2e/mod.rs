//! `cargo xtask e2e`: the system as its users run it, on a real cluster.

mod life;
mod load;
mod plugin;
mod release;
mod rollout;
mod scaling;
mod stage;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;
use couponry_testbed::progress::human;

use crate::{beside, signals};
use stage::Stage;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Plays only these scenes, after the installation.
    #[arg(value_name = "SCENE", value_parser = clap::builder::PossibleValuesParser::new(SCENES.map(|scene| scene.name)))]
    scenes: Vec<String>,
    /// Stays up until Ctrl-C at the end, whether it went well or not.
    #[arg(long)]
    keep: bool,
}

/// A part of the whole, which takes the installation as it is and leaves it working.
struct Scene {
    name: &'static str,
    /// What it shows.
    about: &'static str,
    play: fn(&Stage) -> Result<()>,
}

const SCENES: [Scene; 7] = [
    Scene { name: "scaling", about: "issuers are ready before a start, and go afterwards", play: scaling::play },
    Scene { name: "crowd", about: "an event is sold out through the ingress", play: load::crowd },
    Scene { name: "plugin", about: "kubectl couponry, in the cluster", play: plugin::play },
    Scene { name: "life", about: "pause, resume, top up, close, delete, and the same name again", play: life::play },
    Scene {
        name: "failover",
        about: "the leading operator is killed in the middle of a preload",
        play: life::failover,
    },
    Scene { name: "rollout", about: "every Deployment restarts, and an upgrade, under load", play: rollout::play },
    Scene { name: "farewell", about: "uninstall, install again, and the namespace goes", play: release::farewell },
];

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let begun = Instant::now();
    let stage = Stage::build()?;
    let played = play(&stage, &options.scenes);
    if let Err(error) = &played {
        signals::yield_to_shutdown();
        eprintln!("error: {error:#}\n");
        stage.show();
    }
    if options.keep {
        println!();
        beside::say_how_to_go_on(&stage.cluster);
        stage.beside.say_how_to_install(&stage.cluster);
        signals::are_expected();
        loop {
            std::thread::park();
        }
    }
    drop(stage);
    played?;
    println!("\nAll of it went well, in {}.", human(begun.elapsed()));
    Ok(ExitCode::SUCCESS)
}

fn play(stage: &Stage, chosen: &[String]) -> Result<()> {
    stage.install()?;
    for Scene { name, about, play } in SCENES {
        if !chosen.is_empty() && !chosen.iter().any(|chosen| chosen == name) {
            continue;
        }
        println!("\n== {name}: {about}");
        let begun = Instant::now();
        play(stage).with_context(|| format!("the scene {name}"))?;
        println!("== {name} went well ({})", human(begun.elapsed()));
    }
    Ok(())
}
