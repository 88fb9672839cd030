//! Users who request coupons from all issuers in turn, at a low rate.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use couponry_testbed::http;

/// Requests are sent to each issuer at this interval, unless it responds later.
const INTERVAL: Duration = Duration::from_millis(300);

/// Whether users receive coupons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    All,
    Some,
    None,
}

impl Service {
    pub(super) const fn describe(self) -> &'static str {
        match self {
            Self::All => "receive coupons",
            Self::Some => "some requests fail",
            Self::None => "no coupons",
        }
    }
}

/// The threads that send requests. They end when this is dropped.
#[derive(Debug)]
pub(super) struct Users {
    stop: Arc<AtomicBool>,
    /// The time of each response, and whether the user has received a coupon.
    responses: Arc<Mutex<Vec<(Instant, bool)>>>,
}

impl Users {
    pub(super) fn start(event: &str, issuers: Vec<u16>) -> Self {
        let users = Self { stop: Arc::default(), responses: Arc::default() };
        let next = Arc::new(AtomicU64::new(0));
        for port in issuers {
            let (stop, responses) = (users.stop.clone(), users.responses.clone());
            let (next, event) = (next.clone(), event.to_owned());
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let user = next.fetch_add(1, Ordering::Relaxed);
                    let body = format!(r#"{{"userId":"user-{user}","eventId":"{event}"}}"#);
                    let response = http::post(port, "/coupons/issue", &body);
                    let is_issued = response.is_some_and(|(_, body)| body.contains(r#""success":true"#));
                    responses.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), is_issued));
                    thread::sleep(INTERVAL);
                }
            });
        }
        users
    }

    /// Whether users have received coupons since this time.
    pub(super) fn service_since(&self, since: Instant) -> Service {
        let responses = self.responses.lock().unwrap_or_else(PoisonError::into_inner);
        let recent: Vec<bool> =
            responses.iter().rev().take_while(|(at, _)| *at >= since).map(|(_, is_issued)| *is_issued).collect();
        let issued = recent.iter().filter(|is_issued| **is_issued).count();
        match issued {
            0 => Service::None,
            all if all == recent.len() => Service::All,
            _ => Service::Some,
        }
    }
}

impl Drop for Users {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
