//! Temporary directories which end with the process that created them.
//!
//! A process which is killed with -9 cannot remove its directory. So the owner of each directory holds a lock on a file
//! in it, and the next process removes the directories without a lock holder. `COUPONRY_KEEP_SCRATCH=1` keeps the
//! directories.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

use crate::cleanup_guard::CleanupGuard;

const PREFIX: &str = "couponry-scratch-";
const LOCK: &str = ".in-use";

/// A new, empty directory. Dropping it removes the directory with its contents.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    _in_use: File,
    _cleanup: CleanupGuard,
}

impl Scratch {
    /// Creates a directory; `label` is part of its name.
    pub fn new(label: &str) -> Result<Self> {
        static REMOVE_ABANDONED: Once = Once::new();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        REMOVE_ABANDONED.call_once(remove_abandoned);
        loop {
            let n = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("{PREFIX}{label}-{}-{n}", std::process::id()));
            // Search permission for all: PostgreSQL runs as its own user if this process is root.
            match DirBuilder::new().mode(0o711).create(&path) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(e).with_context(|| format!("cannot create {}", path.display())),
            }
            // Another process may remove the directory between these steps; then another name is used.
            let Ok(lock) = File::create(path.join(LOCK)) else { continue };
            if lock.try_lock().is_err() || !path.join(LOCK).exists() {
                continue;
            }
            let removed = path.clone();
            let cleanup = CleanupGuard::new(move || remove(&removed));
            return Ok(Self { path, _in_use: lock, _cleanup: cleanup });
        }
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn remove(path: &Path) {
    if std::env::var_os("COUPONRY_KEEP_SCRATCH").is_some() {
        // A directory without a lock file is never removed.
        let _ = fs::remove_file(path.join(LOCK));
        eprintln!("kept {}", path.display());
        return;
    }
    // A child of a server may still write its last file during the removal.
    for _ in 0..3 {
        match fs::remove_dir_all(path) {
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            _ => return,
        }
    }
}

/// Removes the directories whose owners have ended.
fn remove_abandoned() {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else { return };
    for entry in entries.flatten().filter(|e| e.file_name().to_string_lossy().starts_with(PREFIX)) {
        if let Ok(lock) = File::open(entry.path().join(LOCK))
            && lock.try_lock().is_ok()
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
