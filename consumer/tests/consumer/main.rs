//! The consumer as a program, on real servers.

mod bad_input;
mod crashes;
mod servers;
mod support;
