//! Failpoints: named places in the code where a test can end the process or inject a wrong action.
//!
//! They exist only with the feature `failpoints`, which `cargo xtask` enables for the programs under test and which
//! no release enables. The environment variable `FAILPOINTS` then configures them in the syntax of the crate `fail`:
//! `FAILPOINTS='issuer.after-lua=5%return;consumer.before-offsets=1*return'`. The supported actions are `return` (the
//! failpoint is active) and `panic`.

/// Aborts the process, as kill -9 would, if this failpoint is active.
pub fn crash(point: &str) {
    if is_on(point) {
        eprintln!("failpoint {point}: aborting");
        std::process::abort();
    }
}

/// Blocks the thread for 30 seconds if this failpoint is active.
pub fn block(point: &str) {
    if is_on(point) {
        std::thread::sleep(std::time::Duration::from_secs(30));
    }
}

/// Whether this failpoint is active.
#[must_use]
#[cfg(feature = "failpoints")]
pub fn is_on(point: &str) -> bool {
    static READ: std::sync::Once = std::sync::Once::new();
    // Dropping the scenario would reset the failpoints.
    READ.call_once(|| std::mem::forget(fail::FailScenario::setup()));
    fail::eval(point, |_| ()).is_some()
}

/// Whether this failpoint is active: never.
#[must_use]
#[cfg(not(feature = "failpoints"))]
pub const fn is_on(_point: &str) -> bool {
    false
}
