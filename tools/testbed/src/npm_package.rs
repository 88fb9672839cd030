//! The npm package of the JavaScript client.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::path::on_path;
use crate::process::output;
use crate::programs::{TYPESCRIPT, require};
use crate::scratch::Scratch;

/// The files from which it is built.
const SOURCES: [&str; 6] = [
    "LICENSE",
    "clients/js/README.md",
    "clients/js/package.json",
    "clients/js/tsconfig.json",
    "clients/js/src/index.ts",
    "clients/js/src/schema.ts",
];

/// Compiles the client and packs it into a tarball in this directory, without the network. The same sources result in
/// the same bytes.
pub fn pack(dir: &Path) -> Result<PathBuf> {
    let scratch = Scratch::new("npm-package")?;
    let package = scratch.path();
    fs::create_dir(package.join("src")).context("cannot create a directory")?;
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    for source in SOURCES {
        let copy = package.join(source.strip_prefix("clients/js/").unwrap_or(source));
        fs::copy(root.join(source), copy).with_context(|| format!("cannot copy {source}"))?;
    }
    let manifest = fs::read(package.join("package.json")).context("cannot read package.json")?;
    let manifest: Value = serde_json::from_slice(&manifest).context("cannot parse package.json")?;
    let version = env!("CARGO_PKG_VERSION");
    ensure!(
        manifest["version"] == version,
        "clients/js/package.json has the version {}, and Cargo.toml {version}: change both",
        manifest["version"]
    );
    compile(&["--project".as_ref(), package])?;
    let npm = require(on_path("npm"), "npm")?;
    let args: [&Path; 6] = [
        "pack".as_ref(),
        "--offline".as_ref(),
        "--ignore-scripts".as_ref(),
        "--pack-destination".as_ref(),
        dir,
        package,
    ];
    // npm prints the name of the tarball in its last line.
    let printed = output(&npm, &args, None)?;
    let name = printed.lines().last().context("npm pack printed no name")?;
    Ok(dir.join(name))
}

/// Runs the TypeScript compiler.
pub fn compile(args: &[&Path]) -> Result<()> {
    let node = require(on_path("node"), "node")?;
    let compiler = require(TYPESCRIPT.find(), "TypeScript")?;
    output(&node, &[&[compiler.as_path()], args].concat(), None).map(drop)
}
