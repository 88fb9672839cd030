//! The issuer as its clients see it, on real servers.

mod answers;
mod bad_input;
mod outages;
mod outbox;
mod support;
