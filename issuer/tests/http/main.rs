//! The issuer as its clients see it, on real servers.

mod answers;
mod attacks;
mod bad_input;
mod document;
mod drain;
mod limits;
mod outages;
mod outbox;
mod signer;
mod support;
mod tokens;
