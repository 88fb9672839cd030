//! Debian packages.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::process::OnStop;
use crate::undo::Undo;

/// The script that packages ask before they start a service.
const POLICY: &str = "/usr/sbin/policy-rc.d";
const ASIDE: &str = "/usr/sbin/policy-rc.d.before-couponry";
const DENY: &str = "#!/bin/sh\n# couponry: for the time of one apt-get install, no service is started.\nexit 101\n";

/// Whether packages can be installed: apt-get is there, and we are root.
pub(super) fn can_install() -> bool {
    rustix::process::geteuid().is_root() && super::on_path("apt-get").is_some()
}

/// Installs packages without starting their services.
pub(super) fn install(packages: &[&str]) -> Result<()> {
    let apt_get = super::on_path("apt-get").context("there is no apt-get")?;
    let apt = |log: PathBuf, args: &[&str]| {
        super::tool(&apt_get, log)
            .args(["-q", "-y"])
            .args(args)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .on_stop(OnStop::Finish)
    };
    super::run("reading the lists of Debian packages", |log| apt(log, &["update"]))?;
    let _no_services = forbid_services()?;
    let what = format!("installing Debian packages: {}", packages.join(" "));
    super::run(&what, |log| apt(log, &["install", "--no-install-recommends"]).args(packages.iter().copied()))?;
    Ok(())
}

/// The packages would start a Redis, a `PostgreSQL` and an etcd of the system. We start our own, on our own ports.
fn forbid_services() -> Result<Undo> {
    // A run that was killed may have left ours in place; then what it set aside is the machine's own.
    let ours = fs::read_to_string(POLICY).is_ok_and(|text| text == DENY);
    if !ours && Path::new(POLICY).exists() {
        fs::rename(POLICY, ASIDE).with_context(|| format!("cannot set {POLICY} aside"))?;
    }
    let undo = Undo::new(|| {
        let _ = fs::remove_file(POLICY);
        if Path::new(ASIDE).exists() {
            let _ = fs::rename(ASIDE, POLICY);
        }
    });
    fs::write(POLICY, DENY)
        .and_then(|()| fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("cannot write {POLICY}"))?;
    Ok(undo)
}
