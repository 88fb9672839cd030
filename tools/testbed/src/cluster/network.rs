//! The network namespace in which the whole cluster lives, and its link to the host.
//!
//! The host's own addresses, routes of others and packet filters stay as they are: it gets one link and two routes.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::process::{Launch, log_in, output};
use crate::programs;

/// The namespace's name.
pub(super) const NAME: &str = "couponry-node";
/// The host's end of the link; interface names have at most 15 characters.
pub(super) const LINK: &str = "couponry-host";
const INNER_LINK: &str = "couponry-node";

/// The host, as the cluster and its pods reach it.
pub const HOST: Ipv4Addr = Ipv4Addr::new(10, 213, 0, 1);
/// The node, as the host and the pods reach it.
pub const NODE: Ipv4Addr = Ipv4Addr::new(10, 213, 0, 2);
/// Where pods have their addresses.
pub const PODS: &str = "10.214.0.0/16";
/// Where Services have their addresses.
pub const SERVICES: &str = "10.215.0.0/16";
/// The address of the Service `kubernetes`, the first of [`SERVICES`].
pub(super) const API_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 215, 0, 1);

/// The namespace as a file.
pub(super) fn file() -> PathBuf {
    Path::new("/run/netns").join(NAME)
}

/// Makes the namespace, the link and the routes. Nothing of an earlier run may be left.
pub(super) fn make() -> Result<()> {
    ip(&format!("netns add {NAME}\nlink add {LINK} type veth peer name {INNER_LINK} netns {NAME}\n"))?;
    ip(&format!(
        "addr add {HOST}/24 dev {LINK}
link set {LINK} up
route add {PODS} via {NODE}
route add {SERVICES} via {NODE}
"
    ))
    .context("the cluster's addresses are taken on this machine")?;
    let script = format!(
        "ip link set lo up && ip addr add {NODE}/24 dev {INNER_LINK} && ip link set {INNER_LINK} up \
         && ip route add default via {HOST} && echo 1 >/proc/sys/net/ipv4/ip_forward"
    );
    let nsenter = programs::need(programs::on_path("nsenter"), "nsenter")?;
    output(&nsenter, &[&enter(), "--", "/bin/sh", "-c", &script], None).map(drop)
}

/// Removes the namespace and the link, as far as they are there.
pub(super) fn remove() {
    for command in [format!("link del {LINK}\n"), format!("netns del {NAME}\n")] {
        let _ = ip(&command);
    }
}

/// Runs commands of `ip`, one a line.
fn ip(commands: &str) -> Result<()> {
    let program = programs::need(programs::on_path("ip"), "ip")?;
    output(&program, &["-batch", "-"], Some(commands)).map(drop)
}

/// `nsenter` and not `ip netns exec`, which also hides the cgroups from the kubelet.
fn enter() -> String {
    format!("--net={}", file().display())
}

/// A program inside the namespace, with its log in `dir`. It is killed at once when it is stopped: nobody needs the
/// cluster's data any more.
pub(super) fn launch(name: &str, program: &Path, dir: &Path) -> Result<Launch> {
    let nsenter = programs::need(programs::on_path("nsenter"), "nsenter")?;
    Ok(Launch::new(name, nsenter, log_in(dir, name)?)
        .clean_env()
        // They look for iptables and the like, which are not on everyone's PATH.
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .dir(dir)
        .on_stop(crate::process::OnStop::Kill)
        .args([enter().into(), "--".into(), program.as_os_str().to_owned()]))
}
