//! The stock on a real Redis.

mod cluster;
mod durability;
mod issuing;
mod loading;
mod model;
mod outbox;
mod recovering;
mod retiring;
mod secure;
mod story;
mod support;
