//! The issuer as its clients see it, on real servers.

mod answers;
mod bad_input;
mod drain;
mod outages;
mod outbox;
mod signer;
mod support;
mod tokens;
