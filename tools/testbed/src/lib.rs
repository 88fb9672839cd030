//! Starts, stops, kills and pauses the real servers that the tests and the demo run on.
//!
//! Every server runs on loopback, on free ports, with its data in a scratch directory that goes away with it.
//! Nothing outlives the process that started it: not when a value is dropped, not on Ctrl-C, and not when that
//! process is killed with -9 (see [`process`]).
//!
//! - Tests that share servers take them from [`shared`]; `cargo xtask test` starts those once for the whole run.
//! - Tests that kill or pause a server start their own: [`Redis::start`], [`Postgres::start`], [`Kafka::start`],
//!   [`Kubernetes::start`].
//! - [`Cluster::start`] is for what takes a whole Kubernetes, with pods and an ingress.
//! - [`Database::create`] and [`unique_name`] give each test what it does not share.
//! - [`Toxiproxy::start`] stands between clients and servers, and spoils connections.
//! - [`program()`] runs one of our own programs, with the same signals.

pub mod authority;
pub mod cluster;
pub mod database;
pub mod http;
pub mod image;
pub mod kafka;
pub mod kubernetes;
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
pub mod undo;

pub use authority::{Authority, Certificate};
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
