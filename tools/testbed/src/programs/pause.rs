//! The image that every pod's sandbox runs.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::image;

/// The name that containerd knows it by.
pub(crate) const IMAGE: &str = "docker.io/couponry/pause:1";

/// Its image as an archive.
pub(super) fn find() -> Option<PathBuf> {
    Some(home().ok()?.join("pause.tar")).filter(|file| file.is_file())
}

fn home() -> Result<PathBuf> {
    Ok(super::cache()?.join("pause-1"))
}

pub(super) fn build() -> Result<()> {
    let cc = super::on_path("cc").context("there is no cc")?;
    super::make_whole(&home()?, |dir| {
        let context = dir.join("context");
        let write = |name: &str, text: &str| {
            fs::write(context.join(name), text).with_context(|| format!("cannot write {name} in {}", context.display()))
        };
        fs::create_dir(&context).with_context(|| format!("cannot make {}", context.display()))?;
        write("pause.c", include_str!("pause.c"))?;
        write("Dockerfile", "FROM scratch\nCOPY pause /pause\nUSER 65535:65535\nENTRYPOINT [\"/pause\"]\n")?;
        super::run("compiling the program that holds a pod's namespaces", |log| {
            super::tool(&cc, log).dir(&context).args(["-static", "-O2", "-o", "pause", "pause.c"])
        })?;
        image::Build::new(&context.join("Dockerfile"), &context).save(IMAGE, &dir.join("pause.tar"))?;
        fs::remove_dir_all(&context).with_context(|| format!("cannot remove {}", context.display()))
    })
}
