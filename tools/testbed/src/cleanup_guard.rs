//! Cleanup which must run before this process ends.
//!
//! Values clean up when they are dropped. A signal drops nothing, so every cleanup is also registered here, and the
//! handler of the signal calls [`run_all`] before it exits.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

type Action = Box<dyn FnOnce() + Send>;

static REGISTRY: Mutex<Registry> =
    Mutex::new(Registry { pending: Vec::new(), next_id: 0, running: 0, shutting_down: false });
static FINISHED: Condvar = Condvar::new();

struct Registry {
    pending: Vec<(u64, Action)>,
    next_id: u64,
    /// The number of cleanups which drops are running now.
    running: usize,
    shutting_down: bool,
}

/// A registered cleanup. Dropping it runs the cleanup, unless [`run_all`] has run it before.
#[derive(Debug)]
#[must_use = "dropping it runs the cleanup at once"]
pub struct CleanupGuard(u64);

impl CleanupGuard {
    /// Registers `action`, which runs once: when the guard is dropped or in [`run_all`].
    pub fn new(action: impl FnOnce() + Send + 'static) -> Self {
        let mut registry = lock();
        let id = registry.next_id;
        registry.next_id += 1;
        registry.pending.push((id, Box::new(action)));
        Self(id)
    }
}

impl Drop for CleanupGuard {
    fn drop(&mut self) {
        let mut registry = lock();
        // During the shutdown `run_all` decides the order, and the process exits when its list is empty.
        if registry.shutting_down {
            return;
        }
        if let Some(at) = registry.pending.iter().position(|(id, _)| *id == self.0) {
            let (_, action) = registry.pending.remove(at);
            registry.running += 1;
            drop(registry);
            action();
            lock().running -= 1;
            FINISHED.notify_all();
        }
    }
}

/// Runs all pending cleanups, the latest first. From the start of this call [`is_shutting_down`] returns true and no
/// process can be started.
pub fn run_all() {
    let mut registry = lock();
    registry.shutting_down = true;
    while let Some((_, action)) = registry.pending.pop() {
        drop(registry);
        action();
        registry = lock();
    }
    while registry.running > 0 {
        registry = FINISHED.wait(registry).unwrap_or_else(PoisonError::into_inner);
    }
}

/// Whether [`run_all`] was called: later errors are consequences of the shutdown and need not be reported.
#[must_use]
pub fn is_shutting_down() -> bool {
    lock().shutting_down
}

fn lock() -> MutexGuard<'static, Registry> {
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}
