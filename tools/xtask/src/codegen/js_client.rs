//! The parts of the JavaScript client that are generated: the types from the OpenAPI document of the issuer, and the
//! script that the issuer contains.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use couponry_testbed::path::on_path;
use couponry_testbed::process::output;
use couponry_testbed::programs::require;
use couponry_testbed::scratch::Scratch;

/// The package, relative to the root of the workspace.
const PACKAGE: &str = "clients/js";
/// The OpenAPI document, which a test compares with that of the issuer.
const DOCUMENT: &str = "issuer/src/routes/snapshots/couponry_issuer__routes__openapi__tests__openapi.snap";

/// The files and their contents.
pub(super) fn generate(read: impl Fn(&str) -> Result<String>) -> Result<[(&'static str, String); 2]> {
    let npm = require(on_path("npm"), "npm")?;
    let scratch = Scratch::new("js-client")?;
    let dir = scratch.path();
    fs::create_dir(dir.join("src")).context("cannot create a directory")?;
    for file in ["package.json", "package-lock.json", "tsconfig.json", "src/index.ts"] {
        fs::write(dir.join(file), read(&format!("{PACKAGE}/{file}"))?).context("cannot copy the client")?;
    }
    let snapshot = read(DOCUMENT)?;
    let (_, document) = snapshot.split_once("\n---\n").context("the snapshot has no header")?;
    fs::write(dir.join("openapi.yaml"), document).context("cannot write the OpenAPI document")?;
    // Downloaded packages are in the cache of npm afterwards.
    let npm = |args: &[&str]| {
        let prefix = ["--prefix", dir.to_str().unwrap_or_default()];
        output(&npm, &[&prefix, args].concat(), None)
    };
    npm(&["ci", "--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund"])?;
    npm(&["run", "generate"])?;
    npm(&["run", "build"])?;
    let generated = |file: &str| read_file(&dir.join(file));
    Ok([
        ("clients/js/src/schema.ts", generated("src/schema.ts")?),
        ("clients/js/dist/index.js", generated("dist/index.js")?),
    ])
}

fn read_file(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}
