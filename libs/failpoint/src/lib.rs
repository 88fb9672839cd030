//! Places at which tests make a program end, or do the wrong thing: where a signal from outside rarely hits.
//!
//! They are there only with the feature `failpoints`, with which `cargo xtask` builds the programs for tests. What is released
//! is built without it. The environment variable `FAILPOINTS` then says which are on, and how often, in the words of the crate
//! `fail`: `FAILPOINTS='issuer.after-lua=5%return;consumer.before-commit=1*return'`. The actions that mean something
//! here are `return`, it is on, and `panic`.

/// Ends the process at once, as kill -9 would, if this point is on.
pub fn crash(point: &str) {
    if is_on(point) {
        eprintln!("failpoint {point}: ending");
        std::process::abort();
    }
}

/// Whether the program is to do here what it must not do.
#[must_use]
#[cfg(feature = "failpoints")]
pub fn is_on(point: &str) -> bool {
    static READ: std::sync::Once = std::sync::Once::new();
    // For as long as the process lives, the environment decides.
    READ.call_once(|| std::mem::forget(fail::FailScenario::setup()));
    fail::eval(point, |_| ()).is_some()
}

/// Whether the program is to do here what it must not do: never.
#[must_use]
#[cfg(not(feature = "failpoints"))]
pub const fn is_on(_point: &str) -> bool {
    false
}
