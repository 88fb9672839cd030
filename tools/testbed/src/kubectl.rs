//! kubectl, and the kubeconfigs that it reads.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::process::output;
use crate::programs::kubernetes;
use crate::programs::locate::require;

/// Runs kubectl with this kubeconfig and returns its output. The user's own settings have no effect.
pub fn kubectl(kubeconfig: &Path, args: &[&str], input: Option<&str>) -> Result<String> {
    let (_, kubectl) = require(kubernetes::find(), "kubectl")?;
    let mut all = vec!["--kubeconfig".as_ref(), kubeconfig.as_os_str()];
    // By default the cache is in the user's home and keyed by the port, which another server will use later.
    let cache = kubeconfig.with_file_name("kubectl-cache");
    all.extend(["--cache-dir".as_ref(), cache.as_os_str()]);
    all.extend(args.iter().map(OsStr::new));
    output(&kubectl, &all, input)
}

/// Writes a kubeconfig with one context, `name`. `ca` is the PEM of the CA certificate.
pub(crate) fn write_kubeconfig(
    path: &Path,
    name: &str,
    server: &str,
    ca: &[u8],
    user: &str,
    auth: &Value,
) -> Result<()> {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": server, "certificate-authority-data": STANDARD.encode(ca)}}],
        "users": [{"name": user, "user": auth}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": user, "namespace": "default"}}],
        "current-context": name,
    });
    fs::write(path, format!("{config:#}\n")).with_context(|| format!("cannot write {}", path.display()))
}
