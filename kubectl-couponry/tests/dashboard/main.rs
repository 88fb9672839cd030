//! The dashboard in a real Chromium, on a real API server, with the real programs as its pods.

mod access;
mod events;
mod faults;
mod support;
