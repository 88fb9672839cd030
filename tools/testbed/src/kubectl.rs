//! kubectl, and the kubeconfigs that it reads.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

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

/// Waits until the API server serves the CRDs that these arguments of `kubectl wait` select, such as
/// `["crd/couponevents.couponry.dev"]`.
pub fn wait_established(kubeconfig: &Path, selection: &[&str]) -> Result<()> {
    let mut args = vec!["wait", "--for=condition=Established", "--timeout=60s"];
    args.extend(selection);
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        match kubectl(kubeconfig, &args, None) {
            // A new CRD has `conditions: null`, which kubectl rejects instead of waiting.
            Err(error) if error.to_string().contains("conditions accessor error") && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(100));
            }
            waited => return waited.map(drop),
        }
    }
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
