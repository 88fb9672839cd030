//! Starts, stops, kills and pauses the servers on which the tests and the demo run.
//!
//! All servers are the real programs. They listen on free loopback ports, with their data in a temporary directory. No
//! process outlives the process which started it: not after a drop, not after Ctrl-C, and not after SIGKILL (see
//! [`process`]).
//!
//! - Tests which share servers use [`shared`]; `cargo xtask test` starts these once for a test run.
//! - Tests which kill or pause a server start their own: [`Redis::start`], [`Postgres::start`], [`Kafka::start`],
//!   [`Kubernetes::start`].
//! - [`Cluster::start`] starts a Kubernetes cluster with pods and an ingress.
//! - [`Database::create`] and [`unique_name`] isolate tests from each other.
//! - [`Toxiproxy::start`] starts a proxy which injects faults into connections.
//! - [`program()`] runs a program of Couponry.

pub mod certificate_authority;
pub mod cleanup_guard;
pub mod clock;
pub mod cluster;
pub mod database;
pub mod http;
pub mod image;
pub mod kafka;
pub mod kafka_acls;
pub mod kubectl;
pub mod kubernetes;
pub mod npm_package;
pub mod path;
mod pod_network;
pub mod pods;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod program;
pub mod programs;
pub mod progress;
pub mod redis;
pub mod redis_cluster;
pub mod scratch;
pub mod shared;
pub mod toxiproxy;

pub use certificate_authority::{Certificate, CertificateAuthority};
pub use clock::Clock;
pub use cluster::Cluster;
pub use database::{Database, unique_name};
pub use kafka::Kafka;
pub use kubernetes::Kubernetes;
pub use postgres::Postgres;
pub use process::Process;
pub use program::{Running, program};
pub use redis::Redis;
pub use redis_cluster::RedisCluster;
pub use toxiproxy::Toxiproxy;
