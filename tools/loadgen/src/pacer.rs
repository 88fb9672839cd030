//! Releases requests at a fixed rate (open loop).

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

/// Releases request n at `start` + n / `rate`, however long the requests before it take.
#[derive(Debug)]
pub struct Pacer {
    rate: NonZeroU32,
    due: Arc<Semaphore>,
    is_stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Pacer {
    /// Starts to release requests, at most `max_requests`. Uses a thread, since Tokio's timers have a resolution of 1
    /// ms.
    #[must_use]
    pub fn start(rate: NonZeroU32, start: Instant, max_requests: u64) -> Self {
        let (due, is_stopped) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicBool::new(false)));
        let thread = thread::spawn({
            let (due, is_stopped) = (due.clone(), is_stopped.clone());
            move || release(rate, start, max_requests, &due, &is_stopped)
        });
        Self { rate, due, is_stopped, thread: Some(thread) }
    }

    /// Waits until the next request is due.
    pub async fn wait(&self) {
        if let Ok(permit) = self.due.acquire().await {
            permit.forget();
        }
    }

    /// How long after the start the request of this number is due.
    #[must_use]
    pub fn due_after(&self, number: u64) -> Duration {
        due_after(self.rate, number)
    }

    /// Stops, and returns the number of released requests.
    #[must_use]
    pub fn stop(mut self) -> u64 {
        self.is_stopped.store(true, Ordering::Relaxed);
        self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
    }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        self.is_stopped.store(true, Ordering::Relaxed);
    }
}

fn release(rate: NonZeroU32, start: Instant, max: u64, due: &Semaphore, is_stopped: &AtomicBool) -> u64 {
    let mut released = 0;
    while !is_stopped.load(Ordering::Relaxed) && released < max {
        let now_due = number_due(rate, start.elapsed()).min(max);
        if now_due > released {
            due.add_permits(usize::try_from(now_due - released).unwrap_or_default());
            released = now_due;
        }
        thread::sleep(due_after(rate, released).saturating_sub(start.elapsed()).min(Duration::from_millis(20)));
    }
    released
}

fn number_due(rate: NonZeroU32, elapsed: Duration) -> u64 {
    u64::try_from(elapsed.as_nanos() * u128::from(rate.get()) / 1_000_000_000).unwrap_or(u64::MAX) + 1
}

fn due_after(rate: NonZeroU32, number: u64) -> Duration {
    Duration::from_nanos(number * 1_000_000_000 / u64::from(rate.get()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_due_at_equal_intervals() {
        let rate = NonZeroU32::new(1000).unwrap();
        assert_eq!(due_after(rate, 0), Duration::ZERO);
        assert_eq!(due_after(rate, 1500), Duration::from_millis(1500));
        assert_eq!(number_due(rate, Duration::ZERO), 1);
        assert_eq!(number_due(rate, Duration::from_micros(999)), 1);
        assert_eq!(number_due(rate, Duration::from_millis(1500)), 1501);
    }
}
