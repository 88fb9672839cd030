//! Container images, built by buildah without a daemon.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::programs::command::{run, tool};
use crate::programs::locate::{buildah, require};
use crate::scratch::Scratch;

/// The build of an image.
#[derive(Debug, Clone)]
#[must_use = "only `save` builds the image"]
pub struct Build {
    dockerfile: PathBuf,
    context: PathBuf,
    options: Vec<OsString>,
}

impl Build {
    /// A build from this Dockerfile, with the files of the directory `context`.
    pub fn new(dockerfile: &Path, context: &Path) -> Self {
        Self { dockerfile: dockerfile.to_owned(), context: context.to_owned(), options: Vec::new() }
    }

    /// Builds this stage of the Dockerfile instead of the last one.
    pub fn target(self, stage: &str) -> Self {
        self.option("--target", stage)
    }

    /// Sets an argument of the Dockerfile.
    pub fn argument(self, name: &str, value: &str) -> Self {
        self.option("--build-arg", &format!("{name}={value}"))
    }

    fn option(mut self, flag: &str, value: &str) -> Self {
        self.options.extend([flag.into(), value.into()]);
        self
    }

    /// Builds the image and writes it to `archive`, in the format of `docker save`. `name` is the full name, with
    /// registry and tag. The storage of buildah is temporary, so no build depends on an earlier one.
    pub fn save(self, name: &str, archive: &Path) -> Result<()> {
        let buildah = require(buildah(), "buildah")?;
        let storage = Scratch::new("buildah")?;
        let dir = storage.path();
        let buildah = |log: PathBuf| {
            tool(&buildah, log)
                .args(["--storage-driver=vfs".into(), format!("--root={}", dir.join("storage").display())])
                .args([format!("--runroot={}", dir.join("run").display())])
        };
        run(&format!("building the image {name}"), |log| {
            buildah(log)
                .args(["bud", "--quiet", "--isolation", "chroot", "--tag", name, "--file"])
                .args([self.dockerfile])
                .args(self.options)
                .args([self.context])
        })?;
        if archive.exists() {
            // buildah fails if the archive exists.
            std::fs::remove_file(archive)?;
        }
        let to = format!("docker-archive:{}:{name}", archive.display());
        run(&format!("writing {}", archive.display()), |log| buildah(log).args(["push", "--quiet", name, &to]))?;
        if !archive.is_file() {
            bail!("buildah push did not write {}", archive.display());
        }
        Ok(())
    }
}
