//! SIGINT, SIGTERM and SIGHUP: run all registered cleanups, then exit.

use std::process::exit;
use std::sync::atomic::{AtomicI32, Ordering};

use anyhow::{Context, Result};
use couponry_testbed::cleanup_guard;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// The exit code which shells report for a program that SIGINT ended.
const INTERRUPTED: i32 = 130;

static EXIT_CODE: AtomicI32 = AtomicI32::new(INTERRUPTED);

/// Installs the handler. A second signal exits without waiting for the cleanups; the kernel then kills the children.
pub(crate) fn handle() -> Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).context("cannot install a signal handler")?;
    std::thread::spawn(move || {
        let mut signals = signals.forever();
        signals.next();
        std::thread::spawn(|| {
            eprintln!("\nshutting down");
            cleanup_guard::run_all();
            exit(EXIT_CODE.load(Ordering::SeqCst));
        });
        signals.next();
        exit(INTERRUPTED);
    });
    Ok(())
}

/// Makes a signal the normal end of the command: it exits with 0.
pub(crate) fn set_expected() {
    EXIT_CODE.store(0, Ordering::SeqCst);
}

/// Blocks forever after a signal was received; otherwise returns at once.
pub(crate) fn block_if_interrupted() {
    while cleanup_guard::is_shutting_down() {
        std::thread::park();
    }
}
