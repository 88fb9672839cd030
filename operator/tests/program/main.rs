//! The operator as a process on real servers: Kubernetes API server, Postgres, Redis, Kafka.

mod changes;
mod deletion;
mod killed;
mod outages;
mod preload;
mod stage;
