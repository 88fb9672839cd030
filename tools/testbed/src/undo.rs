//! What has to be undone before this process may end.
//!
//! Values undo what they did when they are dropped. A signal drops nothing, so every such deed is also written down
//! here, and whoever handles the signal calls [`undo_all`] before it exits.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

type Action = Box<dyn FnOnce() + Send>;

static DEEDS: Mutex<Deeds> = Mutex::new(Deeds { pending: Vec::new(), next: 0, running: 0, closing: false });
static ENDED: Condvar = Condvar::new();

struct Deeds {
    pending: Vec<(u64, Action)>,
    next: u64,
    /// How many are being undone by drops at this moment.
    running: usize,
    closing: bool,
}

/// One deed to undo. Dropping it undoes it, unless [`undo_all`] was first.
#[derive(Debug)]
#[must_use = "dropping it undoes the deed at once"]
pub struct Undo(u64);

impl Undo {
    /// Writes down `action`, which runs once: when the value is dropped or in [`undo_all`].
    pub fn new(action: impl FnOnce() + Send + 'static) -> Self {
        let mut deeds = lock();
        let id = deeds.next;
        deeds.next += 1;
        deeds.pending.push((id, Box::new(action)));
        Self(id)
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        let mut deeds = lock();
        // Once we are closing, the order is that of `undo_all`, and it exits as soon as its list is empty.
        if deeds.closing {
            return;
        }
        if let Some(at) = deeds.pending.iter().position(|(id, _)| *id == self.0) {
            let (_, action) = deeds.pending.remove(at);
            deeds.running += 1;
            drop(deeds);
            action();
            lock().running -= 1;
            ENDED.notify_all();
        }
    }
}

/// Undoes everything that is still pending, the latest first. From its first moment on [`is_closing`] is true and no
/// process can be started.
pub fn undo_all() {
    let mut deeds = lock();
    deeds.closing = true;
    while let Some((_, action)) = deeds.pending.pop() {
        drop(deeds);
        action();
        deeds = lock();
    }
    while deeds.running > 0 {
        deeds = ENDED.wait(deeds).unwrap_or_else(PoisonError::into_inner);
    }
}

/// Whether [`undo_all`] was called: errors from here on are its consequences, not news.
#[must_use]
pub fn is_closing() -> bool {
    lock().closing
}

fn lock() -> MutexGuard<'static, Deeds> {
    DEEDS.lock().unwrap_or_else(PoisonError::into_inner)
}
