//! The image of pod sandboxes.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::cache::{cache, create_atomically};
use super::command::{run, tool};
use crate::image;
use crate::path::on_path;

/// Its name in containerd.
pub(crate) const IMAGE: &str = "docker.io/couponry/pause:1";

/// The image as an archive.
pub(crate) fn find() -> Option<PathBuf> {
    Some(home().ok()?.join("pause.tar")).filter(|file| file.is_file())
}

fn home() -> Result<PathBuf> {
    Ok(cache()?.join("pause-1"))
}

pub(super) fn build() -> Result<()> {
    let cc = on_path("cc").context("cc is not installed")?;
    create_atomically(&home()?, |dir| {
        let context = dir.join("context");
        let write = |name: &str, text: &str| {
            fs::write(context.join(name), text).with_context(|| format!("cannot write {name} in {}", context.display()))
        };
        fs::create_dir(&context).with_context(|| format!("cannot create {}", context.display()))?;
        write("pause.c", include_str!("pause.c"))?;
        write("Dockerfile", "FROM scratch\nCOPY pause /pause\nUSER 65535:65535\nENTRYPOINT [\"/pause\"]\n")?;
        run("compiling the program of pod sandboxes", |log| {
            tool(&cc, log).dir(&context).args(["-static", "-O2", "-o", "pause", "pause.c"])
        })?;
        image::Build::new(&context.join("Dockerfile"), &context).save(IMAGE, &dir.join("pause.tar"))?;
        fs::remove_dir_all(&context).with_context(|| format!("cannot remove {}", context.display()))
    })
}
