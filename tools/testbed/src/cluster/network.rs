//! The network namespace of the cluster, and its link to the host.
//!
//! The host gets one link and two routes; its other addresses, routes and packet filters are not changed.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::path::on_path;
use crate::process::{Launch, OnStop, log_in, output};
use crate::programs::locate::require;

/// The name of the namespace.
pub(super) const NAME: &str = "couponry-node";
/// The interface on the host; names of interfaces have at most 15 characters.
pub(super) const LINK: &str = "couponry-host";
const INNER_LINK: &str = "couponry-node";

/// The address of the host, for the cluster and its pods.
pub const HOST: Ipv4Addr = Ipv4Addr::new(10, 213, 0, 1);
/// The address of the node, for the host and the pods.
pub const NODE: Ipv4Addr = Ipv4Addr::new(10, 213, 0, 2);
/// The addresses of pods.
pub const PODS: &str = "10.214.0.0/16";
/// The addresses of Services.
pub const SERVICES: &str = "10.215.0.0/16";
/// The address of the Service `kubernetes`, the first of [`SERVICES`].
pub(super) const API_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 215, 0, 1);

/// The file of the namespace.
pub(super) fn file() -> PathBuf {
    Path::new("/run/netns").join(NAME)
}

/// Creates the namespace, the link and the routes. Those of an earlier cluster must be removed before.
pub(super) fn create() -> Result<()> {
    ip(&format!("netns add {NAME}\nlink add {LINK} type veth peer name {INNER_LINK} netns {NAME}\n"))?;
    ip(&format!(
        "addr add {HOST}/24 dev {LINK}
link set {LINK} up
route add {PODS} via {NODE}
route add {SERVICES} via {NODE}
"
    ))
    .context("cannot assign the addresses of the cluster; another network of this machine may use them")?;
    let script = format!(
        "ip link set lo up && ip addr add {NODE}/24 dev {INNER_LINK} && ip link set {INNER_LINK} up \
         && ip route add default via {HOST} && echo 1 >/proc/sys/net/ipv4/ip_forward"
    );
    let nsenter = require(on_path("nsenter"), "nsenter")?;
    output(&nsenter, &[&enter(), "--", "/bin/sh", "-c", &script], None).map(drop)
}

/// Removes the namespace and the link, if they exist.
pub(super) fn remove() {
    for command in [format!("link del {LINK}\n"), format!("netns del {NAME}\n")] {
        let _ = ip(&command);
    }
}

/// Runs commands of `ip`, one per line.
fn ip(commands: &str) -> Result<()> {
    let program = require(on_path("ip"), "ip")?;
    output(&program, &["-batch", "-"], Some(commands)).map(drop)
}

/// The argument of `nsenter`. `ip netns exec` would hide the cgroups from the kubelet.
fn enter() -> String {
    format!("--net={}", file().display())
}

/// A program in the namespace, with its log in `dir`. It is stopped with SIGKILL, because the data of the cluster are
/// temporary.
pub(super) fn launch(name: &str, program: &Path, dir: &Path) -> Result<Launch> {
    let nsenter = require(on_path("nsenter"), "nsenter")?;
    Ok(Launch::new(name, nsenter, log_in(dir, name)?)
        .clean_env()
        // The programs need iptables and others, whose directories may be missing in the PATH of the user.
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .dir(dir)
        .on_stop(OnStop::Kill)
        .args([enter().into(), "--".into(), program.as_os_str().to_owned()]))
}
