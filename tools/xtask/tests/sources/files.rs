//! The files of the workspace.

use std::fs;
use std::path::{Path, PathBuf};

/// Directories without source files of the project.
const SKIPPED: [&str; 4] = ["target", "corpus", "artifacts", "node_modules"];

/// A text file of the workspace.
pub(crate) struct SourceFile {
    /// The path relative to the root of the workspace.
    pub(crate) path: String,
    pub(crate) text: String,
}

impl SourceFile {
    pub(crate) fn extension(&self) -> &str {
        self.path.rsplit_once('.').map_or("", |(_, extension)| extension)
    }
}

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// All text files with one of these extensions.
pub(crate) fn with_extension(extensions: &[&str]) -> Vec<SourceFile> {
    all().into_iter().filter(|file| extensions.contains(&file.extension())).collect()
}

/// All text files.
pub(crate) fn all() -> Vec<SourceFile> {
    let mut paths = Vec::new();
    collect(&root(), &mut paths);
    paths.sort();
    assert!(paths.len() > 100, "only {} files in {}", paths.len(), root().display());
    let file = |path: PathBuf| {
        let text = String::from_utf8(fs::read(&path).unwrap()).ok()?;
        Some(SourceFile { path: path.strip_prefix(root()).unwrap().to_str()?.to_owned(), text })
    };
    paths.into_iter().filter_map(file).collect()
}

fn collect(dir: &Path, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() && name != ".git" && !SKIPPED.contains(&name.as_str()) {
            collect(&entry.path(), paths);
        } else if kind.is_file() {
            paths.push(entry.path());
        }
    }
}
