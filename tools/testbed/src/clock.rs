//! The wall clock of a server, which a test can set.
//!
//! `clock.c` is compiled for it. (libfaketime hangs in Redis, whose allocator reads the clock while it is initialised.)

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::path::on_path;
use crate::process::output;
use crate::programs::locate::require;

/// A clock which is ahead of that of the machine, or behind it.
#[derive(Debug)]
pub struct Clock {
    library: PathBuf,
    offset: PathBuf,
}

impl Clock {
    /// A clock which shows the right time, with its files in this directory.
    pub(crate) fn new(dir: &Path) -> Result<Self> {
        let clock = Self { library: dir.join("clock.so"), offset: dir.join("clock-offset") };
        let source = dir.join("clock.c");
        fs::write(&source, include_str!("clock.c")).with_context(|| format!("cannot write {}", source.display()))?;
        let compiler = require(on_path("gcc"), "gcc")?;
        let [source, library] = [&source, &clock.library].map(|path| path.to_string_lossy().into_owned());
        output(&compiler, &["-shared", "-fPIC", "-O2", "-o", &library, &source], None)?;
        clock.set(0)?;
        Ok(clock)
    }

    /// Sets it to the time of the machine plus this many milliseconds.
    pub fn set(&self, milliseconds: i64) -> Result<()> {
        let failed = || format!("cannot write {}", self.offset.display());
        // In place, because the server has the file mapped.
        let options = OpenOptions::new().create(true).write(true).truncate(false).to_owned();
        let mut file = options.open(&self.offset).with_context(failed)?;
        file.write_all(&milliseconds.to_ne_bytes()).with_context(failed)
    }

    /// The environment of the server.
    pub(crate) fn env(&self) -> [(&'static str, String); 2] {
        let path = |path: &Path| path.to_string_lossy().into_owned();
        [("LD_PRELOAD", path(&self.library)), ("CLOCK_OFFSET_FILE", path(&self.offset))]
    }
}
