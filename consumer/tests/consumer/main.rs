//! Tests of the consumer program with real servers.

mod crashes;
mod dead_letters;
mod deferred;
mod installations;
mod kafka_faults;
mod outages;
mod support;
