//! Installs the programs which commands of `cargo xtask` need.

use anyhow::{Result, bail};

use super::artifacts::{ARTIFACTS, Artifact, CLUSTER_ARTIFACTS};
use super::required::{CLUSTER, IMAGES, RequiredProgram, TESTS, describe, missing, packages};
use super::{cache, debian};

/// Installs, builds or downloads every missing program which tests and the demo need.
///
/// Fails with the list of missing Debian packages if they cannot be installed (no root permissions, no apt-get).
pub fn install() -> Result<()> {
    provide(&TESTS, &ARTIFACTS)
}

/// Like [`install`], for the build of [images](crate::image).
pub fn install_images() -> Result<()> {
    provide(&IMAGES, &[])
}

/// Like [`install`], for a [`Cluster`](crate::Cluster).
pub fn install_cluster() -> Result<()> {
    install()?;
    install_images()?;
    provide(&CLUSTER, &CLUSTER_ARTIFACTS)
}

fn provide(required: &'static [RequiredProgram], artifacts: &[Artifact]) -> Result<()> {
    let missing_programs = missing(required);
    if missing_programs.is_empty() && artifacts.iter().all(|artifact| (artifact.is_present)()) {
        return Ok(());
    }
    let can_install = missing_programs.iter().all(|program| program.package.is_some()) && debian::can_install();
    if !missing_programs.is_empty() && !can_install {
        bail!(describe(&missing_programs));
    }
    let _lock = cache::lock()?;
    // Another process may have installed the packages before it released the lock.
    let packages = packages(&missing(required));
    if !packages.is_empty() {
        debian::install(&packages)?;
        let missing_programs = missing(required);
        if !missing_programs.is_empty() {
            bail!("apt-get succeeded, but {}", describe(&missing_programs));
        }
    }
    artifacts.iter().filter(|artifact| !(artifact.is_present)()).try_for_each(|artifact| (artifact.create)())
}
