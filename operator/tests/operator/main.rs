//! Tests of the operator's process with a Kubernetes API server, Postgres, Redis and Kafka.

mod admin_api;
mod balance;
mod crashes;
mod deletion;
mod disaster_recovery;
mod durability;
mod inspect;
mod install_test;
mod installation;
mod invalid_objects;
mod kafka_acls;
mod leader_election;
mod lifecycle;
mod memory;
mod openings;
mod outages;
mod preload;
mod recording;
mod redis_installation;
mod redis_recovery;
mod rejected_commands;
mod retirement;
mod scaling;
mod scheduling;
mod spec_changes;
mod support;
