//! The operator as a process on real servers: Kubernetes API server, Postgres, Redis, Kafka.

mod admin;
mod balance;
mod changes;
mod deletion;
mod durability;
mod inspect;
mod killed;
mod leader;
mod life;
mod outages;
mod preload;
mod recovery;
mod retirement;
mod scaling;
mod stage;
mod unreadable;
mod verify;
