//! Tests of the consumer program with real servers.

mod crashes;
mod dead_letters;
mod outages;
mod support;
