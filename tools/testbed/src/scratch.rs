//! Directories that go away with the process that made them.
//!
//! A process that is killed with -9 cannot remove its directory. So each one holds a lock for as long as its owner
//! lives, and the next owner to come removes those that nobody holds. Set `COUPONRY_KEEP_SCRATCH=1` to look at one
//! afterwards.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

use crate::undo::Undo;

const PREFIX: &str = "couponry-scratch-";
const LOCK: &str = ".in-use";

/// A fresh, empty directory; removed with everything in it on drop.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    _in_use: File,
    _undo: Undo,
}

impl Scratch {
    /// Makes a directory; `label` is part of its name.
    pub fn new(label: &str) -> Result<Self> {
        static SWEEP: Once = Once::new();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        SWEEP.call_once(sweep);
        loop {
            let n = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("{PREFIX}{label}-{}-{n}", std::process::id()));
            // Others may pass through but not list: PostgreSQL runs as a user of its own when we are root.
            match DirBuilder::new().mode(0o711).create(&path) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(e).with_context(|| format!("cannot make {}", path.display())),
            }
            // A sweep of another process may come between the three steps; then take another name.
            let Ok(lock) = File::create(path.join(LOCK)) else { continue };
            if lock.try_lock().is_err() || !path.join(LOCK).exists() {
                continue;
            }
            let doomed = path.clone();
            let undo = Undo::new(move || remove(&doomed));
            return Ok(Self { path, _in_use: lock, _undo: undo });
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn remove(path: &Path) {
    if std::env::var_os("COUPONRY_KEEP_SCRATCH").is_some() {
        // Without its lock file no sweep takes it.
        let _ = fs::remove_file(path.join(LOCK));
        eprintln!("kept {}", path.display());
        return;
    }
    // A server's helper process may still write its last file while we remove.
    for _ in 0..3 {
        match fs::remove_dir_all(path) {
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            _ => return,
        }
    }
}

/// Removes the directories whose owners are gone.
fn sweep() {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else { return };
    for entry in entries.flatten().filter(|e| e.file_name().to_string_lossy().starts_with(PREFIX)) {
        if let Ok(lock) = File::open(entry.path().join(LOCK))
            && lock.try_lock().is_ok()
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
