//! Kafka and its command-line tools, from Maven Central.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::cache::{cache, create_atomically};
use super::command::{run, tool};
use crate::path::on_path;

/// The version of the broker.
pub const VERSION: &str = "4.4.0";

/// The directory with the jars.
pub(crate) fn jars() -> Option<PathBuf> {
    Some(home().ok()?.join("libs")).filter(|libs| libs.is_dir())
}

fn home() -> Result<PathBuf> {
    Ok(cache()?.join(format!("kafka-{VERSION}-with-tools")))
}

pub(super) fn download() -> Result<()> {
    let mvn = on_path("mvn").context("mvn is not installed")?;
    create_atomically(&home()?, |dir| {
        let pom = dir.join("pom.xml");
        fs::write(&pom, include_str!("kafka-pom.xml").replace("KAFKA_VERSION", VERSION))
            .with_context(|| format!("cannot write {}", pom.display()))?;
        run(&format!("downloading Kafka {VERSION}"), |log| {
            tool(&mvn, log)
                .args(["-q", "-B", "dependency:copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory=libs"])
                .dir(dir)
        })
        .map(drop)
    })
}
