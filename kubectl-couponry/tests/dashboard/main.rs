//! The dashboard in a real Chromium, on a real API server, with the real programs as its pods.

mod access;
mod connections;
mod events;
mod fault_proxy;
mod faults;
mod lost_responses;
mod pods;
mod support;
mod verdicts;
