//! Opens the link in the browser through a file that only its user can read: the arguments of processes are visible to
//! all users of the computer, and the first user of the link may use the dashboard.

use std::{
    env,
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write as _},
    os::unix::{
        fs::{DirBuilderExt as _, OpenOptionsExt as _},
        process::CommandExt as _,
    },
    path::PathBuf,
    process::{Command, Stdio},
};

pub(super) const PROGRAM: &str = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };

/// A page that continues with the link. It is removed when this is dropped.
pub(super) struct LinkFile {
    directory: PathBuf,
}

impl LinkFile {
    pub(super) fn create(url: &str) -> io::Result<Self> {
        let parent = env::var_os("XDG_RUNTIME_DIR").map_or_else(env::temp_dir, PathBuf::from);
        let directory = parent.join(format!("couponry-dashboard-{:032x}", rand::random::<u128>()));
        DirBuilder::new().mode(0o700).create(&directory)?;
        let created = Self { directory };
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(created.page())?;
        write!(
            file,
            "<!doctype html><meta name=\"referrer\" content=\"no-referrer\">\
             <meta http-equiv=\"refresh\" content=\"0;url={url}\"><title>Couponry</title><a href=\"{url}\">Couponry</a>"
        )?;
        Ok(created)
    }

    /// Whether the browser was started.
    pub(super) fn open(&self) -> bool {
        let mut browser = Command::new(PROGRAM);
        browser.arg(self.page()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // Ctrl-C in the terminal must not end a browser that was started here.
        browser.process_group(0).spawn().is_ok()
    }

    fn page(&self) -> PathBuf {
        self.directory.join("couponry.html")
    }
}

impl Drop for LinkFile {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}
