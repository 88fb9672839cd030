//! Ctrl-C, SIGTERM and a closed terminal: stop everything that was started, then exit.

use std::process::exit;
use std::sync::atomic::{AtomicI32, Ordering};

use anyhow::{Context, Result};
use couponry_testbed::undo;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// What a shell reports for a program that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

static EXIT_CODE: AtomicI32 = AtomicI32::new(INTERRUPTED);

/// From now on a signal stops everything. A second one does not wait for that: the kernel then kills what is left.
pub(crate) fn handle() -> Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).context("cannot listen for signals")?;
    std::thread::spawn(move || {
        let mut signals = signals.forever();
        signals.next();
        std::thread::spawn(|| {
            eprintln!("\nstopping");
            undo::undo_all();
            exit(EXIT_CODE.load(Ordering::SeqCst));
        });
        signals.next();
        exit(INTERRUPTED);
    });
    Ok(())
}

/// From now on a signal is the way in which the command is meant to end.
pub(crate) fn are_expected() {
    EXIT_CODE.store(0, Ordering::SeqCst);
}

/// Never returns when a signal has come.
pub(crate) fn yield_to_shutdown() {
    while undo::is_closing() {
        std::thread::park();
    }
}
