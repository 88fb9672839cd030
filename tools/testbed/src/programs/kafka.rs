//! Kafka, as jars from Maven.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

/// The broker's version.
pub const VERSION: &str = "4.4.0";

pub(super) fn find() -> Option<PathBuf> {
    Some(home().ok()?.join("libs")).filter(|libs| libs.is_dir())
}

fn home() -> Result<PathBuf> {
    Ok(super::cache()?.join(format!("kafka-{VERSION}")))
}

pub(super) fn fetch() -> Result<()> {
    let mvn = super::on_path("mvn").context("there is no mvn")?;
    super::make_whole(&home()?, |dir| {
        let pom = dir.join("pom.xml");
        fs::write(&pom, include_str!("kafka-pom.xml").replace("KAFKA_VERSION", VERSION))
            .with_context(|| format!("cannot write {}", pom.display()))?;
        super::run(&format!("fetching Kafka {VERSION}"), |log| {
            super::tool(&mvn, log)
                .args(["-q", "-B", "dependency:copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory=libs"])
                .dir(dir)
        })
        .map(drop)
    })
}
