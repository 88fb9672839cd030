//! Images, made by buildah without any daemon.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::programs;
use crate::scratch::Scratch;

/// An image that is not made yet.
#[derive(Debug, Clone)]
#[must_use = "nothing is made before `save`"]
pub struct Build {
    dockerfile: PathBuf,
    context: PathBuf,
    options: Vec<OsString>,
}

impl Build {
    /// From this Dockerfile, with the files of the directory `context`.
    pub fn new(dockerfile: &Path, context: &Path) -> Self {
        Self { dockerfile: dockerfile.to_owned(), context: context.to_owned(), options: Vec::new() }
    }

    /// Makes this stage of the Dockerfile instead of its last one.
    pub fn target(self, stage: &str) -> Self {
        self.option("--target", stage)
    }

    /// Sets one of the Dockerfile's arguments.
    pub fn argument(self, name: &str, value: &str) -> Self {
        self.option("--build-arg", &format!("{name}={value}"))
    }

    fn option(mut self, flag: &str, value: &str) -> Self {
        self.options.extend([flag.into(), value.into()]);
        self
    }

    /// Makes it and writes it to `archive`, in the format of `docker save`. `name` is its whole name, with registry
    /// and tag. It has the layout of a build on an empty machine: buildah keeps its own storage nowhere else.
    pub fn save(self, name: &str, archive: &Path) -> Result<()> {
        let buildah = programs::need(programs::buildah(), "buildah")?;
        let storage = Scratch::new("buildah")?;
        let dir = storage.path();
        let buildah = |log: PathBuf| {
            programs::tool(&buildah, log)
                .args(["--storage-driver=vfs".into(), format!("--root={}", dir.join("storage").display())])
                .args([format!("--runroot={}", dir.join("run").display())])
        };
        programs::run(&format!("making the image {name}"), |log| {
            buildah(log)
                .args(["bud", "--quiet", "--isolation", "chroot", "--tag", name, "--file"])
                .args([self.dockerfile])
                .args(self.options)
                .args([self.context])
        })?;
        if archive.exists() {
            // buildah adds to an archive, and then refuses to.
            std::fs::remove_file(archive)?;
        }
        let to = format!("docker-archive:{}:{name}", archive.display());
        programs::run(&format!("writing {}", archive.display()), |log| {
            buildah(log).args(["push", "--quiet", name, &to])
        })?;
        if !archive.is_file() {
            bail!("buildah push wrote no {}", archive.display());
        }
        Ok(())
    }
}
