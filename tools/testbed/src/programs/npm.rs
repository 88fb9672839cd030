//! Packages from npm, each with its exact contents.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::json;

use super::cache::{cache, create_atomically};
use super::command::{run, tool};
use crate::path::on_path;

/// A package without dependencies.
#[derive(Debug)]
pub struct NpmPackage {
    name: &'static str,
    version: &'static str,
    /// The hash that npm verifies.
    integrity: &'static str,
    /// The file that is used.
    main: &'static str,
}

/// Finds violations of accessibility rules in a page.
pub static AXE: NpmPackage = NpmPackage {
    name: "axe-core",
    version: "4.14.1",
    integrity: "sha512-FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==",
    main: "axe.min.js",
};

/// Compiles the JavaScript client, in the version of its `package-lock.json`.
pub static TYPESCRIPT: NpmPackage = NpmPackage {
    name: "typescript",
    version: "5.9.3",
    integrity: "sha512-jl1vZzPDinLr9eUt3J/t7V6FgNEw9QjvBPdysz9KfQDD41fQrC2Y4vKQdiaUpFT4bXlb1RHhLpp8wtm6M5TgSw==",
    main: "bin/tsc",
};

impl NpmPackage {
    /// The file that is used, if the package is installed.
    #[must_use]
    pub fn find(&self) -> Option<PathBuf> {
        Some(self.home().ok()?.join("node_modules").join(self.name).join(self.main)).filter(|file| file.is_file())
    }

    fn home(&self) -> Result<PathBuf> {
        Ok(cache()?.join(format!("{}-{}", self.name, self.version)))
    }

    /// Downloads it into the cache.
    pub(super) fn download(&self) -> Result<()> {
        let Self { name, version, integrity, .. } = self;
        let npm = on_path("npm").context("npm is not installed")?;
        let lock = json!({
            "name": "couponry-tests",
            "lockfileVersion": 3,
            "packages": {
                "": {"name": "couponry-tests", "dependencies": {*name: version}},
                format!("node_modules/{name}"): {
                    "version": version,
                    "integrity": integrity,
                },
            },
        });
        let package = json!({"name": "couponry-tests", "private": true, "dependencies": {*name: version}});
        create_atomically(&self.home()?, |dir| {
            for (file, json) in [("package.json", &package), ("package-lock.json", &lock)] {
                let path = dir.join(file);
                fs::write(&path, json.to_string()).with_context(|| format!("cannot write {}", path.display()))?;
            }
            run(&format!("downloading {name} {version}"), |log| {
                tool(&npm, log).args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).dir(dir)
            })
            .map(drop)
        })
    }
}
