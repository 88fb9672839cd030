//! Debian packages.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::command::{run, tool};
use crate::cleanup_guard::CleanupGuard;
use crate::path::on_path;
use crate::process::OnStop;

/// The script which decides whether a package may start its services.
const POLICY: &str = "/usr/sbin/policy-rc.d";
const POLICY_BACKUP: &str = "/usr/sbin/policy-rc.d.before-couponry";
const DENY: &str = "#!/bin/sh\n# couponry: no service is started during this apt-get install.\nexit 101\n";

/// Whether packages can be installed: apt-get exists, and this process runs as root.
pub(super) fn can_install() -> bool {
    rustix::process::geteuid().is_root() && on_path("apt-get").is_some()
}

/// Installs packages without starting their services.
pub(super) fn install(packages: &[&str]) -> Result<()> {
    let apt_get = on_path("apt-get").context("apt-get is not installed")?;
    let apt = |log: PathBuf, args: &[&str]| {
        tool(&apt_get, log)
            .args(["-q", "-y"])
            .args(args)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .on_stop(OnStop::Finish)
    };
    run("updating the list of Debian packages", |log| apt(log, &["update"]))?;
    let _no_services = forbid_services()?;
    let what = format!("installing Debian packages: {}", packages.join(" "));
    run(&what, |log| apt(log, &["install", "--no-install-recommends"]).args(packages.iter().copied()))?;
    Ok(())
}

/// Prevents packages from starting their services until the guard is dropped. The tests start their own servers.
fn forbid_services() -> Result<CleanupGuard> {
    // An earlier run which was killed may have left our script; the backup is then the script of the machine.
    let ours = fs::read_to_string(POLICY).is_ok_and(|text| text == DENY);
    if !ours && Path::new(POLICY).exists() {
        fs::rename(POLICY, POLICY_BACKUP).with_context(|| format!("cannot rename {POLICY}"))?;
    }
    let guard = CleanupGuard::new(|| {
        let _ = fs::remove_file(POLICY);
        if Path::new(POLICY_BACKUP).exists() {
            let _ = fs::rename(POLICY_BACKUP, POLICY);
        }
    });
    fs::write(POLICY, DENY)
        .and_then(|()| fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("cannot write {POLICY}"))?;
    Ok(guard)
}
